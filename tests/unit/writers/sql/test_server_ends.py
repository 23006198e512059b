"""PostgreSQL goes away before or after each statement: the task fails, and the next attempt writes each row once."""

from __future__ import annotations

from contextlib import contextmanager

import pyarrow as pa
import pytest

from batch_provider import BatchJob, SqlTable
from batch_provider.domain.errors import StorageError
from batch_provider.domain.instance import AttemptInfo, Claim
from batch_provider.domain.layout import ClaimId
from batch_provider.engine.ports.writing import Rows
from batch_provider.sources.access import LocalAccess
from batch_provider.testing import LocalRun

psycopg = pytest.importorskip("psycopg")

GENERATION = "g1-00000000"
TABLE = "CREATE TABLE t (n INTEGER CHECK (n <> 5), m INTEGER UNIQUE DEFERRABLE INITIALLY DEFERRED)"


class Mortal:
    """Connections of which one ends at a statement; a commit is one, and may be done without an answer.

    Args:
        database: to connect to.
        end: called with the connection that is to end.
    """

    def __init__(self, database, end):
        self._database, self.end = database, end
        self.access = LocalAccess({"warehouse": self._connect})
        self.arm(None)

    def arm(self, at, when="before"):
        """At the statement of that number, or at the first with that text; the commits are COMMIT 1, COMMIT 2 …"""
        self.at, self.when, self.count, self.commits = at, when, 0, 0

    @contextmanager
    def around(self, connection, query):
        self.count += 1
        is_last = self.at == self.count or (isinstance(self.at, str) and self.at in str(query))
        if is_last and self.when == "before":
            self.end(connection)
        try:
            yield
        finally:
            if is_last and self.when == "after":
                self.end(connection)
        if is_last and self.when == "after" and str(query).startswith("COMMIT"):
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    def _connect(self):
        mortal = self

        class Cursor(psycopg.Cursor):
            def execute(self, query, *args, **kwargs):
                with mortal.around(self.connection, query):
                    return super().execute(query, *args, **kwargs)

            def executemany(self, query, *args, **kwargs):
                with mortal.around(self.connection, query):
                    return super().executemany(query, *args, **kwargs)

            @contextmanager
            def copy(self, query, *args, **kwargs):
                with mortal.around(self.connection, query), super().copy(query, *args, **kwargs) as copying:
                    yield copying

        class Connection(psycopg.Connection):
            def commit(self):
                mortal.commits += 1
                with mortal.around(self, f"COMMIT {mortal.commits}"):
                    super().commit()

        return Connection.connect(**self._database.options, cursor_factory=Cursor)


@pytest.fixture
def admin(postgres_database):
    with psycopg.connect(**postgres_database.options, autocommit=True) as connection:
        connection.execute(TABLE)
        yield connection


@pytest.fixture
def mortal(postgres_database, admin):
    def end(connection):
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", (connection.info.backend_pid,))

    return Mortal(postgres_database, end)


def numbers_in(admin):
    return [row[0] for row in admin.execute("SELECT n FROM t ORDER BY n").fetchall()]


class Attempts:
    """Attempts at one shard, one after the other."""

    def __init__(self, access, instance, **options):
        self._access, self._instance, self._claim = access, instance, None
        self._target = SqlTable("warehouse", "t", **options)

    def write(self, table):
        """One attempt to write what is not written yet; returns the ids of what was refused."""
        self._claim = ClaimId.next(self._claim)
        claim = Claim(
            id=self._claim, step="store", shard="01", since=1, adopted=(), upstream=None, round=0,
            info=AttemptInfo(), started_at="",
        )  # fmt: skip
        session = self._target.open(self._access, self._instance, GENERATION, claim)
        try:
            pending = [number for number in range(table.num_rows) if not session.has(number, 1)]
            rows = Rows(pending, [1] * len(pending), table.take(pa.array(pending, pa.int64())))
            return [pending[index] for index in session.write(rows)]
        finally:
            session.close()


@pytest.mark.parametrize(
    ("numbers", "refused"),
    [pytest.param([4, 5, 6], [1], id="row by row"), pytest.param(list(range(100, 200)), [], id="in bulk")],
)
def test_a_session_that_is_ended_at_any_statement_of_a_group_loses_and_doubles_nothing(mortal, admin, numbers, refused):
    table = pa.table({"n": numbers, "m": numbers})
    assert Attempts(mortal.access, "first").write(table) == refused
    statements, failures = mortal.count, 0
    for when in ("before", "after"):
        for at in range(1, statements + 1):
            admin.execute("DELETE FROM t")
            attempts = Attempts(mortal.access, f"{when}-{at}")
            mortal.arm(at, when)
            try:
                attempts.write(table)
            except StorageError:
                failures += 1
            mortal.arm(None)
            assert attempts.write(table) == refused, (when, at)
            assert numbers_in(admin) == [n for n in numbers if n != 5], (when, at)
    assert failures == 2 * statements, "nothing that is lost passes in silence"


def process(run):
    """Whether an attempt came to its end."""
    try:
        run.process_all()
    except StorageError:
        return False
    return True


def record_job():
    with BatchJob("job", max_failed_records=-1) as job:

        @job.step(transaction="warehouse")
        def store(record, *, connection):
            connection.execute("INSERT INTO t VALUES (%s, %s)", [record["n"], record["n"]])

    return job.spec


def group_job():
    with BatchJob("job", max_failed_records=-1) as job:

        @job.aggregator("store", size=2, transaction="warehouse", on_error="isolate")
        def store(records, *, connection):
            for record in records:
                insert = "INSERT INTO t SELECT %(n)s, %(n)s WHERE NOT EXISTS (SELECT FROM t WHERE n = %(n)s)"
                connection.execute(insert, {"n": record["n"]})

    return job.spec


@pytest.mark.parametrize("job", [record_job, group_job])
def test_a_session_that_is_ended_at_any_statement_of_a_transaction_fails_no_record(mortal, admin, job):
    records = [{"n": n} for n in (1, 5)]

    def new_run(name):
        admin.execute("DELETE FROM t")
        run = LocalRun(job(), access=mortal.access, run_id=name)
        run.load(records)
        return run

    new_run("first").process_all()
    last = mortal.count
    for when in ("before", "after"):
        for at in range(max(1, last - 12), last + 1):  # how a session begins is tried above
            run = new_run(f"{when}-{at}")
            mortal.arm(at, when)
            ended = process(run)
            mortal.arm(None)
            run.process_all()
            result = run.complete()
            assert (result.successful_records, result.failed_records) == (1, 1), (when, at)
            assert numbers_in(admin) == [1], (when, at)
            assert not ended or when == "after", (when, at)


def test_a_server_that_is_stopped_three_times_loses_and_doubles_nothing(postgres_server, postgres_database):
    postgres_database.run(TABLE)
    numbers = list(range(120))
    table, modes, stopped = pa.table({"n": numbers, "m": numbers}), ["fast", "immediate", "immediate"], []

    def stop(connection):
        postgres_server.stop(modes[len(stopped)])
        stopped.append(connection)

    mortal = Mortal(postgres_database, stop)
    attempts = Attempts(mortal.access, "stopped")
    for at, when in (("COPY", "before"), ("COMMIT 4", "before"), ("COMMIT 4", "after")):  # the group is the fourth
        mortal.arm(at, when)
        with pytest.raises(StorageError, match="table t of connection warehouse"):
            attempts.write(table)
        mortal.arm(None)
        with pytest.raises(StorageError, match="table t of connection warehouse"):
            attempts.write(table)  # while it is down
        postgres_server.start()

    assert len(stopped) == 3
    assert len(postgres_database.rows()) == 119, "the last stop came after the commit"
    assert attempts.write(table) == [5]
    assert [n for n, _ in postgres_database.rows()] == [n for n in numbers if n != 5]

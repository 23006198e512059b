"""Which errors of a table are a record's and which end the task; and that no connection stays open."""

from __future__ import annotations

import gc
import sqlite3

import pyarrow as pa
import pytest

from batch_provider import BatchJob, SqlTable
from batch_provider.domain.errors import FencedError, OlderGenerationError, StorageError
from batch_provider.engine.ports.writing import Rows
from batch_provider.sources.access import LocalAccess
from batch_provider.testing import LocalRun
from batch_provider.writers.targets import DatabaseTargets


def new_run(database, *, access=None, size=1_000, **options):
    with BatchJob("job", max_failed_records=-1) as job:
        job.write("store", SqlTable("warehouse", "t", **options), size=size)
    return LocalRun(job.spec, access=access or database.access)


def numbers(*found):
    return [{"n": n} for n in found]


def test_what_a_row_level_security_policy_refuses_fails_alone(postgres_database):
    db = postgres_database
    db.run("DROP ROLE IF EXISTS clerk", "CREATE ROLE clerk LOGIN", "GRANT ALL ON SCHEMA public TO clerk")
    db.run("CREATE TABLE t (n INTEGER PRIMARY KEY)", "GRANT ALL ON t TO clerk")
    db.run("ALTER TABLE t ENABLE ROW LEVEL SECURITY", "CREATE POLICY p ON t USING (true) WITH CHECK (n <> 3)")

    result = new_run(db.as_role("clerk"), key=["n"]).run(numbers(*range(6)))

    assert (result.successful_records, result.failed_records) == (5, 1)
    assert "row-level security" in result.errors[0].sample


def test_a_missing_right_ends_the_task(postgres_database):
    db = postgres_database
    db.run("DROP ROLE IF EXISTS guest", "CREATE ROLE guest LOGIN", "GRANT ALL ON SCHEMA public TO guest")
    db.run("CREATE TABLE t (n INTEGER)")
    run = new_run(db.as_role("guest"))
    run.load(numbers(1))

    with pytest.raises(StorageError, match="permission denied"):
        run.process_all()


REFUSED = {
    "a trigger that raises": "RAISE EXCEPTION 'never'",
    "a trigger with a code of its own": "RAISE EXCEPTION 'never' USING ERRCODE = 'PAY01'",
    "a trigger that finds no row": "PERFORM 1; DECLARE a int; BEGIN SELECT 1 INTO STRICT a WHERE false; END",
}
NOT_OF_THE_DATA = {
    "a trigger that misses a table": "PERFORM 1 FROM absent",
    "a full disk": "RAISE EXCEPTION 'full' USING ERRCODE = 'disk_full'",
    "a deadlock": "RAISE EXCEPTION 'deadlock' USING ERRCODE = 'deadlock_detected'",
    "a server that shuts down": "RAISE EXCEPTION 'bye' USING ERRCODE = 'admin_shutdown'",
}


def table_with_trigger(database, action):
    body = f"BEGIN IF NEW.n = 3 THEN {action}; END IF; RETURN NEW; END"
    database.run(
        "CREATE TABLE t (n INTEGER)",
        f"CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$",
        "CREATE TRIGGER f BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
    )


@pytest.mark.parametrize("action", REFUSED.values(), ids=REFUSED)
def test_what_a_trigger_raises_is_its_records_fault(postgres_database, action):
    table_with_trigger(postgres_database, action)

    result = new_run(postgres_database).run(numbers(*range(6)))

    assert (result.successful_records, result.failed_records) == (5, 1)


@pytest.mark.parametrize("action", NOT_OF_THE_DATA.values(), ids=NOT_OF_THE_DATA)
def test_what_is_not_of_the_data_ends_the_task(postgres_database, action):
    table_with_trigger(postgres_database, action)
    run = new_run(postgres_database)
    run.load(numbers(*range(6)))

    with pytest.raises(StorageError, match="table t of connection warehouse"):
        run.process_all()
    assert postgres_database.rows() == []


def test_a_value_that_is_too_long_for_an_index_fails_alone(postgres_database):
    postgres_database.run("CREATE TABLE t (n INTEGER, m TEXT UNIQUE)")
    words = "".join(chr(65 + (n * n + 7 * n) % 57) + str(n) for n in range(9_000))  # does not compress

    result = new_run(postgres_database).run([{"n": n, "m": words if n == 3 else str(n)} for n in range(6)])

    assert (result.successful_records, result.failed_records) == (5, 1)


def test_a_value_of_a_kind_that_its_column_does_not_take_fails_alone(postgres_database):
    """It stands beside its column (ADR 0007); of all records it would be an error of the job."""
    postgres_database.run("CREATE TABLE t (n INTEGER, m INTEGER)")
    with BatchJob("job", max_failed_records=-1) as job:

        @job.step
        def numbers(record):
            return {"m": int(record["m"]["a"])}

        job.write("store", SqlTable("warehouse", "t"), accept_policy="ALL")

    records = [{"n": n, "m": {"a": "x" if n == 3 else "1"}} for n in range(6)]
    result = LocalRun(job.spec, access=postgres_database.access).run(records)

    assert (result.successful_records, result.failed_records) == (5, 1)
    assert len(postgres_database.rows()) == 5


class Watched:
    """Connections of a database, and which of them are open."""

    def __init__(self, database):
        self._database, self.opened = database, []
        self.access = LocalAccess({"warehouse": self._connect})

    def _connect(self):
        self.opened.append(self._database.connect())
        return self.opened[-1]

    @property
    def open(self):
        def is_open(connection):
            try:
                connection.cursor().execute("SELECT 1")
            except Exception:  # noqa: BLE001  # closed
                return False
            return True

        return [connection for connection in self.opened if is_open(connection)]


def test_a_session_that_is_fenced_when_it_opens_leaves_no_connection_open(database):
    database.run("CREATE TABLE t (n INTEGER)")
    watched = Watched(database)
    run = new_run(database, access=watched.access)
    run.load(numbers(1))
    place = (run.instance.id, run.generation.manifest.generation)
    older, newer = (run.generation.claim("store", "01", run.info).claim for _ in range(2))
    SqlTable("warehouse", "t").open(watched.access, *place, newer).close()

    with pytest.raises(FencedError):
        SqlTable("warehouse", "t").open(watched.access, *place, older)
    with pytest.raises(FencedError):
        DatabaseTargets(watched.access).records("warehouse", *place, older)

    assert len(watched.opened) == 3
    assert watched.open == []


def test_a_session_that_is_refused_when_it_opens_leaves_no_connection_open(database):
    database.run("CREATE TABLE t (n INTEGER)")
    watched = Watched(database)
    run = new_run(database, access=watched.access)
    run.run(numbers(1))
    run.next_round()
    run.load(numbers(1))

    with pytest.raises(OlderGenerationError) as caught:
        run.process_all()

    del caught
    assert watched.open == []


def test_a_transaction_that_cannot_be_prepared_leaves_no_connection_open(tmp_path):
    class Locked(sqlite3.Connection):
        def execute(self, *args):
            raise sqlite3.OperationalError("disk I/O error")

    closed = []

    class Closing(Locked):
        def close(self):
            closed.append(self)
            super().close()

    access = LocalAccess({"warehouse": lambda: sqlite3.connect(tmp_path / "w.db", factory=Closing)})
    for _ in range(2):
        with pytest.raises(StorageError, match="disk I/O error"):
            DatabaseTargets(access).transaction("warehouse")
    gc.collect()

    assert len(closed) == 2


def test_a_connection_that_is_closed_under_a_writer_ends_the_task(database):
    database.run("CREATE TABLE t (n INTEGER)")
    watched = Watched(database)
    run = new_run(database, access=watched.access)
    run.load(numbers(1))
    generation = run.generation
    place = (run.instance.id, generation.manifest.generation)
    session = SqlTable("warehouse", "t").open(watched.access, *place, generation.claim("store", "01", run.info).claim)
    watched.opened[-1].close()

    with pytest.raises(StorageError, match="closed"):
        session.write(Rows([0], [0], pa.table({"n": [1]})))
    session.close()


def test_a_connection_that_commits_each_statement_is_told_not_to(postgres_database):
    postgres_database.run("CREATE TABLE t (n INTEGER)")

    def connect():
        connection = postgres_database.connect()
        connection.autocommit = True
        return connection

    with BatchJob("job", max_failed_records=-1) as job:

        @job.step(transaction="warehouse")
        def store(record, *, connection):
            connection.execute("INSERT INTO t VALUES (%s)", [-record["n"]])
            if record["n"] == 2:
                raise ValueError("no")

        job.write("rows", SqlTable("warehouse", "t"))

    result = LocalRun(job.spec, access=LocalAccess({"warehouse": connect})).run(numbers(1, 2))

    assert result.failed_records == 1
    assert postgres_database.rows() == [(-1,), (1,)]


def test_a_subclass_of_a_drivers_connection_is_one_of_its(tmp_path):
    class Own(sqlite3.Connection):
        """As authors make them for their pragmas."""

    with sqlite3.connect(tmp_path / "w.db") as connection:
        connection.execute("CREATE TABLE t (n INTEGER)")
    connection.close()
    access = LocalAccess({"warehouse": lambda: sqlite3.connect(tmp_path / "w.db", factory=Own)})

    assert new_run(None, access=access).run(numbers(1, 2)).successful_records == 2


def test_another_database_is_refused_in_plain_words():
    class Connection:
        def close(self): ...

    run = new_run(None, access=LocalAccess({"warehouse": Connection}))
    run.load(numbers(1))

    with pytest.raises(ValueError, match="use one to SQLite or PostgreSQL"):
        run.process_all()

"""Record steps with transaction=: what a function did is committed with its record, once, or rolled back with it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap

import pytest

from batch_provider import BatchJob, InvalidOptionError
from batch_provider.domain.errors import FencedError, StorageError
from batch_provider.domain.layout import Span
from batch_provider.sources.access import LocalAccess
from batch_provider.storage.blobs.local import LocalBlobs
from batch_provider.testing import LocalRun
from batch_provider.testing.contracts import Killed
from batch_provider.writers.targets import DatabaseTargets

shards = pytest.mark.parametrize("shards", [pytest.param(1, id="one shard"), pytest.param(3, id="three shards")])


@pytest.fixture
def table(database):
    database.run("CREATE TABLE t (n INTEGER)")
    return database


def insert(connection, *values):
    cursor = connection.cursor()
    for value in values:
        cursor.execute(f"INSERT INTO t VALUES ({value})")


def new_run(database, function, *, shards=1, store=None, before=None, **options):
    with BatchJob("job", max_failed_records=-1, block_size=4) as job:
        if before is not None:
            job.step(before)
        job.step(name="store", transaction="warehouse", **options)(function)
    return LocalRun(job.spec, access=database.access, shards=shards, store=store)


def numbers(*found):
    return [{"n": n} for n in found]


@shards
def test_what_a_record_did_is_committed_with_it_or_rolled_back_with_its_failure(table, shards):
    def store(record, *, connection):
        insert(connection, record["n"], -record["n"])
        if record["n"] % 5 == 2:
            raise ValueError("no")

    result = new_run(table, store, shards=shards).run(numbers(*range(1, 13)))

    assert (result.successful_records, result.failed_records) == (9, 3)
    good = [n for n in range(1, 13) if n % 5 != 2]
    assert table.rows() == sorted([(n,) for n in good] + [(-n,) for n in good])


@shards
def test_killed_between_commit_and_checkpoint_no_record_is_called_again(table, shards):
    called = []

    def store(record, *, connection):
        called.append(record["n"])
        insert(connection, record["n"])

    run = new_run(table, store, shards=shards)
    run.load(numbers(*range(12)))
    run.store.blobs = dying = DyingStore(run.store.blobs)
    with pytest.raises(Killed):
        run.process_all()
    assert table.rows(), "some were committed"
    dying.is_dying = False
    run.process_all()
    result = run.complete()

    assert sorted(called) == list(range(12))
    assert table.rows() == [(n,) for n in range(12)]
    assert result.successful_records == 12


class DyingStore:
    """A store in which the writer of a checkpoint dies before its file is there."""

    def __init__(self, blobs):
        self._blobs, self.is_dying = blobs, True

    def put(self, name, data, **options):
        if "/steps/" in name and self.is_dying:
            raise Killed
        self._blobs.put(name, data, **options)

    def __getattr__(self, name):
        return getattr(self._blobs, name)


def test_killed_within_a_call_its_work_is_rolled_back_and_done_once(table):
    kills = [True]

    def store(record, *, connection):
        insert(connection, record["n"])
        if kills and record["n"] == 6:
            kills.clear()
            raise Killed

    run = new_run(table, store)
    run.load(numbers(*range(8)))
    with pytest.raises(Killed):
        run.process_all()
    assert table.rows() == [(n,) for n in range(6)]
    run.process_all()

    assert run.complete().successful_records == 8
    assert table.rows() == [(n,) for n in range(8)]


KILLED = """
    import os, signal, sqlite3, sys
    from batch_provider import BatchJob
    from batch_provider.storage.blobs.local import LocalBlobs
    from batch_provider.sources.access import LocalAccess
    from batch_provider.testing import LocalRun

    folder, last = sys.argv[1], int(sys.argv[2])
    with BatchJob("job", block_size=100, max_process_deaths=9) as job:

        @job.step(transaction="warehouse")
        def store(record, *, connection):
            connection.execute(f"INSERT INTO t VALUES ({record['n']})")
            if record["n"] == last:
                os.kill(os.getpid(), signal.SIGKILL)

    access = LocalAccess({"warehouse": lambda: sqlite3.connect(folder + "/warehouse.db")})
    run = LocalRun(job.spec, access=access, store=LocalBlobs(folder + "/store"))
    run.load([{"n": n} for n in range(50)])
    run.process_all()
    run.complete()
"""


def test_a_process_that_is_killed_again_and_again_writes_each_record_once(tmp_path):
    with sqlite3.connect(tmp_path / "warehouse.db") as connection:
        connection.execute("CREATE TABLE t (n INTEGER)")
    for last in (0, 17, 18, 49):
        command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path), str(last)]
        done = subprocess.run(command, check=False, env=os.environ, capture_output=True)
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (last,)
    subprocess.run([*command[:-1], "-1"], check=True, env=os.environ)

    assert connection.execute("SELECT n FROM t ORDER BY n").fetchall() == [(n,) for n in range(50)]
    connection.close()
    assert LocalBlobs(tmp_path / "store").directories("v1/local/job"), "it was one instance all the time"


def test_a_redrive_calls_only_what_failed(table):
    broken, called = [True], []

    def store(record, *, connection):
        called.append(record["n"])
        insert(connection, record["n"])
        if broken and record["n"] == 2:
            raise ConnectionError("down")

    run = new_run(table, store)
    run.run(numbers(1, 2, 3))
    broken.clear()
    run.next_round()
    run.process_all()

    assert run.complete().failed_records == 0
    assert called == [1, 2, 3, 2]
    assert table.rows() == [(1,), (2,), (3,)]


def test_a_record_that_was_made_again_by_an_earlier_step_is_called_again(table):
    broken, called = [True], []

    def check(record):
        if broken and record["n"] == 2:
            raise ValueError("not yet")

    def store(record, *, connection):
        called.append(record["n"])

    run = new_run(table, store, before=check, accept_policy="ALL")
    run.run(numbers(1, 2))
    broken.clear()
    run.next_round()
    run.process_all()
    run.complete()

    assert called == [1, 2, 2]


def test_each_try_has_a_transaction_of_its_own(table):
    tries = []

    def store(record, *, connection):
        tries.append(record["n"])
        insert(connection, record["n"])
        if len(tries) < 3:
            raise TimeoutError("again")

    result = new_run(table, store, retries=3, retry_on=TimeoutError, retry_delay=0.001).run(numbers(7))

    assert result.successful_records == 1
    assert table.rows() == [(7,)]


@pytest.mark.parametrize(
    ("returned", "changed", "message"),
    [
        pytest.param({"id": 1}, False, "returned dict", id="patch"),
        pytest.param(None, True, "changed its variables", id="variables"),
    ],
)
def test_output_that_a_crash_could_lose_fails_the_record_and_is_rolled_back(table, returned, changed, message):
    def store(record, *, connection, variables):
        insert(connection, record["n"])
        if changed:
            variables["x"] = 1
        return returned

    result = new_run(table, store).run(numbers(1))

    assert message in result.errors[0].sample
    assert table.rows() == []


def test_a_function_may_ask_for_what_other_steps_may(table):
    seen = []

    def store(record, *, record_id, variables, instance):
        seen.append((record_id, variables, instance.job))

    assert new_run(table, store).run(numbers(5)).is_successful
    assert seen == [(0, {}, "job")]


@pytest.mark.parametrize("ends", ["commit", "rollback"])
def test_a_function_that_ends_the_transaction_itself_fails_its_record(table, ends):
    def store(record, *, connection):
        insert(connection, record["n"])
        getattr(connection, ends)()

    result = new_run(table, store).run(numbers(1))

    assert [(error.exception, error.count) for error in result.errors] == [("TransactionEndedError", 1)]
    assert "leave that to the step" in result.errors[0].sample


def test_a_database_error_that_is_passed_over_fails_its_record(postgres_database):
    import psycopg

    postgres_database.run("CREATE TABLE t (n INTEGER)")

    def store(record, *, connection):
        insert(connection, record["n"])
        with pytest.raises(psycopg.Error):
            connection.execute("SELECT 1 / 0")

    result = new_run(postgres_database, store).run(numbers(1, 2))

    assert [(error.exception, error.count) for error in result.errors] == [("TransactionEndedError", 2)]
    assert postgres_database.rows() == []


def test_a_constraint_that_is_checked_at_the_commit_fails_its_record(postgres_database):
    postgres_database.run("CREATE TABLE t (n INTEGER UNIQUE DEFERRABLE INITIALLY DEFERRED)")

    result = new_run(postgres_database, lambda record, *, connection: insert(connection, record["n"])).run(
        numbers(1, 1, 2)
    )

    assert [(error.exception, error.count) for error in result.errors] == [("UniqueViolation", 1)]
    assert postgres_database.rows() == [(1,), (2,)]


def test_a_connection_that_breaks_is_an_error_of_the_task_and_nothing_is_lost(postgres_database):
    postgres_database.run("CREATE TABLE t (n INTEGER)")
    breaks = [True]

    def store(record, *, connection):
        insert(connection, record["n"])
        if breaks and record["n"] == 3:
            breaks.clear()
            own = connection.info.backend_pid
            postgres_database.run(f"SELECT pg_terminate_backend({own})")

    run = new_run(postgres_database, store)
    run.load(numbers(1, 2, 3, 4))
    with pytest.raises(StorageError, match="connection warehouse"):
        run.process_all()
    run.process_all()

    assert run.complete().successful_records == 4
    assert postgres_database.rows() == [(1,), (2,), (3,), (4,)]


def test_a_later_attempt_fences_the_transactions_of_an_earlier_one(table):
    run = new_run(table, lambda record, *, connection: None)
    run.load(numbers(1, 2))
    targets = DatabaseTargets(table.access)
    place = ("warehouse", run.instance.id, run.generation.manifest.generation)
    zombie = targets.records(*place, run.generation.claim("store", "01", run.info).claim)
    heir = targets.records(*place, run.generation.claim("store", "01", run.info).claim)

    with pytest.raises(FencedError), zombie.record(0, 0) as connection:
        insert(connection, 1)
    with heir.record(0, 0) as connection:
        insert(connection, 1)
    with pytest.raises(FencedError):
        zombie.merge_notes(Span(0, 1))
    zombie.close()
    heir.close()

    assert table.rows() == [(1,)]


def test_the_notes_of_a_block_are_made_one(table):
    new_run(table, lambda record, *, connection: None).run(numbers(*range(10)))

    ranges = table.run("SELECT first_id, last_id FROM _batch_commits")
    assert sorted(ranges) == [(0, 3), (4, 7), (8, 9)]


async def waits(record, *, connection): ...


def plain(record, *, connection): ...


@pytest.mark.parametrize(
    ("function", "options"),
    [
        pytest.param(waits, {}, id="coroutine"),
        pytest.param(plain, {"timeout": 5}, id="timeout"),
        pytest.param(plain, {"concurrency": 2}, id="concurrency"),
        pytest.param(plain, {"output": "replace"}, id="output"),
        pytest.param(plain, {"transaction": ""}, id="empty"),
        pytest.param(plain, {"on_code_change": "reprocess"}, id="reprocess"),
    ],
)
def test_options_that_cannot_stand_beside_a_transaction_are_refused(function, options):
    job = BatchJob("job")

    with pytest.raises(InvalidOptionError, match="in step 'store' of job 'job'"):
        job.step(name="store", **{"transaction": "warehouse", **options})(function)


def test_a_vector_step_has_no_transaction():
    job = BatchJob("job")

    with pytest.raises(InvalidOptionError, match="on a record step"):
        job.sql_step("store", assign={"a": "1"}, transaction="warehouse")


def test_a_connection_that_nobody_knows_is_a_clear_error():
    run = new_run(Nowhere(), plain)
    run.load(numbers(1))

    with pytest.raises(Exception, match="connections need Airflow"):
        run.process_all()


class Nowhere:
    access = LocalAccess()

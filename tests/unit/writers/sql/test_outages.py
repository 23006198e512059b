"""An outage is never a bad record: what the database says ends the task, or is the record's, by what it says."""

from __future__ import annotations

import sqlite3

import pytest

from batch_provider import BatchJob, JobState
from batch_provider.domain.errors import StorageError
from batch_provider.sources.access import LocalAccess
from batch_provider.testing import LocalRun


def numbers(*found):
    return [{"n": n} for n in found]


def group_job(function, *, on_error="isolate", size=4):
    with BatchJob("job", max_failed_records=-1) as job:
        job.aggregator("store", size=size, transaction="warehouse", on_error=on_error)(function)
    return job.spec


def record_job(function, **options):
    with BatchJob("job", max_failed_records=-1) as job:
        job.step(name="store", transaction="warehouse", **options)(function)
    return job.spec


def insert(connection, *values):
    cursor = connection.cursor()
    for value in values:
        cursor.execute(f"INSERT INTO t VALUES ({value})")


def kill(database, connection):
    database.run(f"SELECT pg_terminate_backend({connection.info.backend_pid})")


@pytest.mark.parametrize("where", ["before its work", "after its work", "and it raises by itself"])
def test_a_connection_that_dies_in_a_group_fails_the_task_and_no_record(postgres_database, where):
    postgres_database.run("CREATE TABLE t (n INTEGER)")
    dies = [True]

    def store(records, *, connection):
        is_last = dies and records[0]["n"] == 8
        if is_last and where == "before its work":
            kill(postgres_database, connection)
        insert(connection, *(record["n"] for record in records))
        if is_last:
            kill(postgres_database, connection)
        if is_last and where == "and it raises by itself":
            raise ValueError("no answer")

    run = LocalRun(group_job(store), access=postgres_database.access)
    run.load(numbers(*range(16)))
    with pytest.raises(StorageError, match="connection warehouse"):
        run.process_all()
    dies.clear()
    postgres_database.run("TRUNCATE t")
    run.process_all()
    result = run.complete()

    assert (result.state, result.successful_records) == (JobState.SUCCESSFUL, 16)
    assert {(n,) for n in range(8, 16)} <= set(postgres_database.rows())


def test_a_connection_that_is_dead_when_a_group_begins_fails_the_task_and_no_record(postgres_database):
    postgres_database.run("CREATE TABLE t (n INTEGER)")
    called = []

    def store(records, *, connection):
        insert(connection, *(record["n"] for record in records))
        called.append(len(records))

    access = LocalAccess({"warehouse": ending(postgres_database, at=2)})
    run = LocalRun(group_job(store), access=access)
    run.load(numbers(*range(8)))
    with pytest.raises(StorageError):
        run.process_all()

    assert called == [4]
    assert postgres_database.rows() == [(n,) for n in range(4)]


def ending(database, at):
    """Opens connections that the server ends when a group begins in them for the n-th time."""
    import psycopg

    begun = []

    class Cursor(psycopg.Cursor):
        def execute(self, query, *args, **kwargs):
            if query == "SELECT 1":
                begun.append(1)
                if len(begun) == at:
                    kill(database, self.connection)
            return super().execute(query, *args, **kwargs)

    def connect():
        connection = database.connect()
        connection.cursor_factory = Cursor
        return connection

    return connect


NOT_OF_THE_DATA = {
    "lock timeout": ("SET LOCAL lock_timeout = '1ms'", "LOCK TABLE held"),
    "statement timeout": ("SET LOCAL statement_timeout = '1ms'", "SELECT pg_sleep(1)"),
    "read only": ("SET TRANSACTION READ ONLY", "INSERT INTO t VALUES (1)"),
    "no such table": ("INSERT INTO absent VALUES (1)",),
    "disk full": ("DO $$ BEGIN RAISE EXCEPTION 'full' USING ERRCODE = 'disk_full'; END $$",),
    "deadlock": ("DO $$ BEGIN RAISE EXCEPTION 'deadlock' USING ERRCODE = 'deadlock_detected'; END $$",),
    "shutdown": ("DO $$ BEGIN RAISE EXCEPTION 'bye' USING ERRCODE = 'admin_shutdown'; END $$",),
}
OF_THE_DATA = {
    "trigger": "DO $$ BEGIN RAISE EXCEPTION 'never' ; END $$",
    "a code of its own": "DO $$ BEGIN RAISE EXCEPTION 'never' USING ERRCODE = 'PAY01'; END $$",
    "division": "SELECT 1 / 0",
    "constraint": "INSERT INTO t VALUES (NULL)",
}


@pytest.fixture
def held(postgres_database):
    """A table that another session has locked."""
    postgres_database.run("CREATE TABLE t (n INTEGER NOT NULL)", "CREATE TABLE held (n INTEGER)")
    with postgres_database.connect() as other:
        other.execute("LOCK TABLE held")
        yield postgres_database


@pytest.mark.parametrize("kind", [record_job, group_job])
def test_what_is_not_of_the_data_ends_the_task_although_the_connection_lives(held, kind):
    for statements in NOT_OF_THE_DATA.values():

        def store(given, *, connection, statements=statements):
            for statement in statements:
                connection.execute(statement)

        run = LocalRun(kind(store), access=held.access)
        run.load(numbers(1, 2))
        with pytest.raises(StorageError, match="connection warehouse"):
            run.process_all()


def test_a_deadlock_that_the_step_wants_to_try_again_is_tried_again(held):
    import psycopg

    tries = []

    def store(record, *, connection):
        insert(connection, record["n"])
        tries.append(record["n"])
        if len(tries) == 1:
            connection.execute(*NOT_OF_THE_DATA["deadlock"])

    options = {"retries": 1, "retry_on": psycopg.errors.DeadlockDetected, "retry_delay": 0.001}
    result = LocalRun(record_job(store, **options), access=held.access).run(numbers(1, 2))

    assert result.successful_records == 2
    assert tries == [1, 1, 2]


@pytest.mark.parametrize("kind", [record_job, group_job])
def test_what_is_of_the_data_is_its_records_fault(held, kind):
    for statement in OF_THE_DATA.values():

        def store(given, *, connection, statement=statement):
            if "'n': 1" in str(given):
                connection.execute(statement)

        result = LocalRun(kind(store), access=held.access).run(numbers(0, 1, 2))
        assert (result.successful_records, result.failed_records) == (2, 1)


@pytest.mark.parametrize("kind", [record_job, group_job])
def test_a_connection_that_the_function_closed_is_an_error_of_the_task(database, kind):
    database.run("CREATE TABLE t (n INTEGER)")

    def store(given, *, connection):
        connection.close()
        insert(connection, 1)

    run = LocalRun(kind(store), access=database.access)
    run.load(numbers(1))
    with pytest.raises(StorageError, match="connection warehouse"):
        run.process_all()


def test_an_error_of_another_database_that_the_function_asks_is_its_records(postgres_database):
    def store(record, *, connection):
        sqlite3.connect(":memory:").execute("SELECT * FROM absent")

    result = LocalRun(record_job(store), access=postgres_database.access).run(numbers(1))

    assert [error.exception for error in result.errors] == ["OperationalError"]


@pytest.mark.parametrize("ends", ["commit", "rollback"])
def test_a_group_whose_function_ends_the_transaction_itself_fails(database, ends):
    database.run("CREATE TABLE t (n INTEGER)")

    def store(records, *, connection):
        insert(connection, 1)
        getattr(connection, ends)()

    result = LocalRun(group_job(store), access=database.access).run(numbers(1))

    assert [error.exception for error in result.errors] == ["TransactionEndedError"]


def test_a_group_that_goes_on_after_a_database_error_is_not_counted_as_written(postgres_database):
    """PostgreSQL answers the commit of such a transaction with a rollback, and without an error."""
    postgres_database.run("CREATE TABLE t (n INTEGER)")

    def store(records, *, connection):
        insert(connection, *(record["n"] for record in records))
        with pytest.raises(Exception, match="division by zero"):
            connection.execute("SELECT 1 / 0")

    result = LocalRun(group_job(store, on_error="fail_group"), access=postgres_database.access).run(numbers(1, 2))

    assert result.failed_records == 2
    assert postgres_database.rows() == []


@pytest.mark.parametrize("kind", [record_job, group_job])
def test_a_constraint_that_waits_for_the_commit_fails_its_record_alone(database, kind):
    deferred_table(database)

    def store(given, *, connection):
        insert(connection, *(record["n"] for record in ([given] if isinstance(given, dict) else given)))

    result = LocalRun(kind(store), access=with_foreign_keys(database)).run(numbers(1, 2, 3, 4))

    assert (result.successful_records, result.failed_records) == (3, 1)
    assert database.rows() == [(1,), (2,), (4,)]


def deferred_table(database):
    database.run("CREATE TABLE parent (n INTEGER PRIMARY KEY)", "INSERT INTO parent VALUES (1), (2), (4)")
    database.run("CREATE TABLE t (n INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")


def with_foreign_keys(database):
    """SQLite heeds them for whom they are turned on."""

    def connect():
        connection = database.connect()
        if database.name == "sqlite":
            connection.execute("PRAGMA foreign_keys = ON")
        return connection

    return LocalAccess({"warehouse": connect})

"""An outage in a step with transaction= ends the task where it comes; it is no record's fault."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from batch_provider import BatchJob
from batch_provider.domain.errors import StorageError
from batch_provider.sources.access import LocalAccess
from batch_provider.testing import Fault, Faults, FaultyAccess, LocalRun, raising
from tests.builders import numbers


@pytest.fixture
def database(tmp_path):
    def connect():
        return sqlite3.connect(tmp_path / "warehouse.db", check_same_thread=False)

    with closing(connect()) as connection:
        connection.execute("CREATE TABLE t (n INTEGER)")
    return connect


def full_from(commit, connect):
    """Databases whose disk is full from a commit on."""
    error = sqlite3.OperationalError("database or disk is full")
    faults = Faults(Fault("commit:before *", raising(error), skip=commit, times=None))
    return FaultyAccess(LocalAccess({"warehouse": connect}), faults)


@pytest.mark.parametrize("retries", [0, 2])
def test_no_record_after_the_outage_is_called(database, retries):
    called = []

    with BatchJob("job", max_failed_records=-1) as job:

        @job.step(transaction="warehouse", retries=retries, retry_delay=0.001)
        def store(record, *, connection):
            called.append(record["n"])
            connection.execute("INSERT INTO t VALUES (?)", [record["n"]])

    of_the_fence = 3
    run = LocalRun(job.spec, access=full_from(of_the_fence + 4, database))
    run.load(numbers(12))
    with pytest.raises(StorageError, match="connection warehouse: database or disk is full"):
        run.process_all()
    assert called == [0, 1, 2, 3] + [4] * (1 + retries)

    run = LocalRun(job.spec, store=run.store.blobs, access=LocalAccess({"warehouse": database}))
    run.process_all()
    assert run.complete().successful_records == 12
    assert called[5 + retries :] == list(range(4, 12))
    with closing(database()) as connection:
        assert connection.execute("SELECT n FROM t ORDER BY n").fetchall() == [(n,) for n in range(12)]


@pytest.mark.parametrize("on_error", ["fail_group", "isolate"])
def test_no_group_after_the_outage_is_called_and_none_is_halved(database, on_error):
    called = []

    with BatchJob("job", max_failed_records=-1) as job:

        @job.aggregator(size=4, transaction="warehouse", on_error=on_error)
        def store(records, *, connection):
            called.append([record["n"] for record in records])
            connection.executemany("INSERT INTO t VALUES (?)", [[record["n"]] for record in records])

    run = LocalRun(job.spec, access=full_from(1, database))
    run.load(numbers(12))
    with pytest.raises(StorageError, match="connection warehouse"):
        run.process_all()

    assert called == [[0, 1, 2, 3], [4, 5, 6, 7]]

"""The twins that fail: where they do, and what a job makes of it."""

from __future__ import annotations

import errno
import sqlite3
from contextlib import closing

import pytest

from batch_provider import BatchJob, SqlTable
from batch_provider.domain.errors import StorageError
from batch_provider.sources.access import LocalAccess
from batch_provider.storage.blobs.local import LocalBlobs
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.testing import (
    Fault,
    Faults,
    FaultyAccess,
    FaultyBlobs,
    FaultyDisk,
    LocalRun,
    raising,
)
from batch_provider.testing.contracts import BlobsContract
from batch_provider.writers.parquet.folder import open_folder
from batch_provider.writers.sql.dialect import SQLITE, dialect_of
from tests.builders import Step, job_of, numbers


class TestFaultyBlobs(BlobsContract):
    @pytest.fixture
    def blobs(self):
        return FaultyBlobs(MemoryBlobs(), Faults())


class TestFaultyDisk(BlobsContract):
    @pytest.fixture
    def blobs(self, tmp_path):
        return LocalBlobs(tmp_path, FaultyDisk(Faults()))


def seen(faults_of, do):
    points = []
    do(faults_of(Faults(tell=lambda point: points.append(str(point)))))
    return points


def test_every_change_of_a_local_store_has_two_points(tmp_path):
    def put(blobs):
        blobs.put("d/a", b"1")
        blobs.sync()

    points = seen(lambda faults: LocalBlobs(tmp_path, FaultyDisk(faults)), put)

    above = str(tmp_path.parent)
    assert [point.replace(str(tmp_path), "") for point in points if ".tmp-" not in point] == [
        "make_directory:before /d",
        "make_directory:after /d",
        "rename:before /d/a",
        "rename:after /d/a",
        *(f"sync:{when} {name}" for name in ("/d", "/d/a", "/d", "", above) for when in ("before", "after")),
    ]
    assert [point.partition(" ")[0] for point in points if ".tmp-" in point] == ["write:before", "write:after"]


def test_every_action_of_a_store_has_two_points():
    def use(blobs):
        blobs.put("d/a", b"1")
        blobs.get("d/a")
        blobs.sync()
        blobs.delete("d")

    points = seen(lambda faults: FaultyBlobs(MemoryBlobs(), faults), use)

    names = ("put", "d/a"), ("get", "d/a"), ("sync", ""), ("delete", "d")
    assert points == [f"{action}:{when} {name}" for action, name in names for when in ("before", "after")]


def test_every_commit_has_two_points_and_the_connection_is_taken_for_what_it_wraps():
    def use(access):
        with access.database("warehouse") as connection:
            assert isinstance(connection, sqlite3.Connection)
            assert dialect_of(connection) is SQLITE
            connection.isolation_level = None
            connection.execute("BEGIN")
            connection.rollback()
            connection.commit()

    inner = LocalAccess({"warehouse": lambda: sqlite3.connect(":memory:")})
    points = seen(lambda faults: FaultyAccess(inner, faults), use)

    assert points == [
        f"{do}:{when} warehouse" for do in ("connect", "rollback", "commit") for when in ("before", "after")
    ]


def test_what_is_written_to_a_local_directory_passes_the_same_points(tmp_path):
    def use(access):
        open_folder(access, str(tmp_path)).put("a", b"1")

    points = seen(lambda faults: FaultyAccess(LocalAccess(), faults), use)

    assert [point.partition(" ")[0] for point in points] == [
        f"{do}:{when}" for do in ("write", "rename") for when in ("before", "after")
    ]


@pytest.mark.parametrize(
    ("fault", "acted"),
    [
        ({"at": 3}, [3]),
        ({"at": "put:before *"}, [0]),
        ({"at": "put:before *", "skip": 1}, [2]),
        ({"at": "put:before *", "times": 2}, [0, 2]),
        ({"at": "put:after *", "skip": 1, "times": None}, [3, 5]),
        ({"at": "rename:*"}, []),
    ],
    ids=str,
)
def test_a_fault_acts_where_and_as_often_as_it_says(fault, acted):
    found = []
    blobs = FaultyBlobs(MemoryBlobs(), Faults(Fault(**fault, action=lambda point: found.append(point.number))))
    for name in ("a", "b", "c"):
        blobs.put(name, b"")
    assert found == acted


@pytest.mark.parametrize("at", ["write:before", "rename:before", "sync:before"])
@pytest.mark.parametrize("file", ["claims", "steps", "attempts"])
def test_a_full_disk_is_a_clear_error_and_a_retry_carries_on(tmp_path, at, file):
    step = Step(fails={2})
    job = job_of(step, block_size=2)
    full = raising(OSError(errno.ENOSPC, "no space left on device"))
    faults = Faults(Fault(f"{at} */{file}/*", full, skip=1 if file == "steps" else 0))
    LocalRun(job, store=LocalBlobs(tmp_path)).load(numbers(6))

    with pytest.raises(StorageError, match="the disk is full; free some space, then clear the task") as caught:
        LocalRun(job, store=LocalBlobs(tmp_path, FaultyDisk(faults))).process_all()

    assert caught.value.retryable
    assert not list(tmp_path.rglob(".tmp-*"))
    retry = LocalRun(job, store=LocalBlobs(tmp_path))
    retry.process_all()
    assert (retry.complete().successful_records, len(set(step.seen))) == (5, 6)
    assert len(step.seen) <= 6 + 2


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_unknown_answer_to_a_commit_writes_nothing_twice(tmp_path, when):
    """The server dies while it commits: whether it did, says the next attempt's look at the commits."""
    database = tmp_path / "warehouse.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE t (n INTEGER)")
    gone = raising(sqlite3.OperationalError("server closed the connection"))
    faults = Faults(Fault(f"commit:{when} warehouse", gone, skip=4))
    inner = LocalAccess({"warehouse": lambda: sqlite3.connect(database)})
    job = BatchJob("job", block_size=4)
    job.write("store", SqlTable("warehouse", "t"), size=2)
    blobs = MemoryBlobs()
    LocalRun(job.spec, store=blobs).load(numbers(8))

    with pytest.raises(StorageError, match="server closed the connection"):
        LocalRun(job.spec, store=blobs, access=FaultyAccess(inner, faults)).process_all()
    retry = LocalRun(job.spec, store=blobs, access=inner)
    retry.process_all()

    assert retry.complete().successful_records == 8
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT n FROM t ORDER BY n").fetchall() == [(n,) for n in range(8)]


def committing(error):
    """A job whose aggregator writes by itself, over a connection whose second group cannot be committed."""
    access = LocalAccess({"warehouse": lambda: sqlite3.connect(":memory:")})
    job = BatchJob("job", max_failed_records=-1)
    seen = []

    @job.aggregator("log", size=2, transaction="warehouse")
    def log(records, *, connection):
        seen.append([record["n"] for record in records])

    faults = Faults(Fault("commit:before warehouse", raising(error), skip=1))
    blobs = MemoryBlobs()
    LocalRun(job.spec, store=blobs).load(numbers(6))
    return LocalRun(job.spec, store=blobs, access=FaultyAccess(access, faults)), seen


def test_a_server_that_goes_away_at_a_commit_fails_the_task_and_not_the_records():
    run, seen = committing(sqlite3.OperationalError("disk I/O error"))
    with pytest.raises(StorageError, match="Cannot commit to connection warehouse: disk I/O error"):
        run.process_all()
    run.process_all()
    assert run.complete().successful_records == 6
    assert seen == [[0, 1], [2, 3], [0, 1], [2, 3], [4, 5]]


def test_a_constraint_that_is_checked_at_the_commit_fails_the_group():
    run, _ = committing(sqlite3.IntegrityError("FOREIGN KEY constraint failed"))
    run.process_all()
    result = run.complete()
    assert (result.successful_records, result.failed_records) == (4, 2)
    assert result.errors[0].exception == "IntegrityError"

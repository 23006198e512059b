"""Full disks, files that are damaged or gone, clocks that jump, processes that stood still and go on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from batch_provider.domain.errors import CorruptCheckpointError
from batch_provider.storage.blobs.local import LocalBlobs
from batch_provider.testing import FakeClock, LocalRun
from tests.builders import Killed, Step, failures, job_of, numbers
from tests.crash.forks import STOPPED
from tests.crash.work import STEPS, STREAM, Form, Runner, sqlite_warehouse

pytestmark = pytest.mark.crash


# --- disks -----------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, size: str):
    """A file system of its own at ``folder``, which is full soon."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, check=False, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small disk needs root and mount: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder, options):
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


@pytest.mark.parametrize("size", ["8k", "64k", "150k", "300k", "450k", "600k", "900k"])
def test_a_full_disk_is_a_clear_error_and_costs_nothing(job, undisturbed, size):
    with small_disk(job.folder / "store", size) as disk:
        error = job.fails()
        assert "StorageError: Cannot" in error
        assert "the disk is full; free some space, then clear the task" in error
        assert not list(disk.rglob(".tmp-*")), "what was half written is in nobody's way"
        remount(disk, "size=64m")
        job.kills += 1  # the block that was in flight is done again
        assert job.work() == 0
        job.is_as_if_undisturbed(undisturbed)


def test_a_store_that_became_read_only_is_a_clear_error_and_costs_nothing(job, undisturbed):
    with small_disk(job.folder / "store", "64m") as disk:
        job.work(at="rename:after */steps/group/*", skip=2)
        remount(disk, "ro")
        assert "the file system is read-only; make it writable or set [batch_provider] storage_path" in job.fails()
        remount(disk, "rw")
        assert job.work() == 0
        job.is_as_if_undisturbed(undisturbed)


# --- files -----------------------------------------------------------------------------------------------------


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    at = random.Random(str(path)).randrange(len(data))
    data[at] ^= 1 << at % 8
    path.write_bytes(data)


def delete(path):
    path.unlink()


DAMAGES = pytest.mark.parametrize("damage", [truncate, flip_a_bit, delete], ids=lambda damage: damage.__name__)


def keyed(job):
    """The job with a key, ready in this process: a redrive of an earlier step changes the rows that are written."""
    with closing(job.connect()) as connection:
        connection.execute("CREATE UNIQUE INDEX orders_n ON orders (n)")
        connection.commit()
    return Runner(job.folder, sqlite_warehouse(job.folder), form=Form(keyed=True))


def same_but_for_calls(job, undisturbed):
    found, wanted = job.outcome, undisturbed.outcome
    for part in set(wanted) - {"seen"}:
        assert found[part] == wanted[part], part


@DAMAGES
@pytest.mark.parametrize("step", STEPS)
def test_a_damaged_checkpoint_is_named_and_made_again_from_upstream(job, undisturbed, step, damage):
    runner = keyed(job)
    job.options["keyed"] = True
    job.work(at="rename:before *result.*.json")
    file = min((job.folder / "store").rglob(f"steps/{step}/02/*.parquet"))
    damage(file)

    with pytest.raises(CorruptCheckpointError, match="Clear the task of the step that wrote it") as caught:
        runner.work()
    assert str(file) in str(caught.value)

    runner.clear(step)
    runner.work()
    same_but_for_calls(job, undisturbed)


@DAMAGES
def test_a_damaged_copy_of_the_input_says_to_clear_the_load(job, undisturbed, damage):
    runner = keyed(job)
    job.options["keyed"] = True
    job.work(at="rename:after */attempts/validate/*")
    (file,) = (job.folder / "store").rglob("input/*.parquet")
    damage(file)

    with pytest.raises(CorruptCheckpointError, match="clear the load task with Downstream") as caught:
        runner.work()
    assert str(file) in str(caught.value)

    runner.clear(None)
    runner.work()
    same_but_for_calls(job, undisturbed)


@pytest.mark.parametrize("gone", ["progress/*/*/*.json", "attempts/store/01/*.json"])
def test_deleted_documents_lose_nothing(job, undisturbed, gone):
    """Without its close a step is carried on: nothing counts that cannot be seen, and nothing is written twice."""
    runner = keyed(job)
    job.options["keyed"] = True
    job.work(at="connect:before *", skip=3)  # the second shard of `store`
    for file in (job.folder / "store").rglob(gone):
        file.unlink()
    if "progress" not in gone:
        runner.clear("store")
    runner.work()
    same_but_for_calls(job, undisturbed)


# --- clocks ----------------------------------------------------------------------------------------------------


def test_a_clock_that_jumps_back_changes_nothing(tmp_path):
    """Attempts are ordered by their epochs; times are only shown."""
    clock = FakeClock(tick_seconds=0.01)
    step = Step(fails={3}, dies_at=5, returns=lambda record: clock.jump(-3_600))
    run = LocalRun(job_of(step, Step(), block_size=2), store=LocalBlobs(tmp_path), clock=clock)
    run.load(numbers(8))
    clock.jump(-86_400)
    with pytest.raises(Killed):
        run.process_all()
    first = run.generation.highest_claim("s1", "01")
    clock.jump(-86_400)
    run.process_all()
    clock.jump(-86_400)
    result = run.complete()

    second = run.generation.highest_claim("s1", "01")
    assert second.id > first.id
    assert second.started_at < first.started_at
    assert (result.successful_records, result.failed_records) == (7, 1)
    assert sorted(step.seen) == [0, 1, 2, 3, 4, 4, 5, 6, 7]
    assert [row[0] for row in failures(run)] == [3]
    assert result.elapsed_seconds >= 0
    clock.jump(-86_400)
    run.next_round()
    run.process_all()
    assert run.complete().failed_records == 1
    assert run.generation.highest_claim("s1", "01").id > second.id


# --- zombies ---------------------------------------------------------------------------------------------------

STILL = [
    ("write:before *manifest.json", 0),
    ("rename:before *manifest.json", 0),
    ("rename:before */steps/validate/*", 1),
    ("rename:before */attempts/validate/*", 0),
    ("rename:before */claims/price/*", 0),
    ("rename:before */steps/group/*", 2),
    ("connect:before *", 2),  # it has not raised its fence yet
    ("connect:after *", 2),
    ("commit:after *", 24),  # between two groups: the next one finds a higher fence
    ("commit:after *", 26),
    ("rename:before */steps/store/*", 1),
    (f"rename:before */steps/{STREAM}/*", 0),
    (f"rename:before */attempts/{STREAM}/*", 1),
    ("rename:before *ledger*", 0),
    ("rename:before *result.*.json", 0),
]


@pytest.mark.parametrize(("place", "skip"), STILL)
def test_a_process_that_stood_still_counts_for_nothing_when_it_goes_on(job, undisturbed, killed, place, skip):
    """Neither its files nor its rows: its successor has raised the claim, and the fence in the database."""
    pid, code = job.forks.start(job.folder, at=place, skip=skip, action="stop")
    assert code == STOPPED
    job.kills += 1
    assert job.work() == 0
    job.is_as_if_undisturbed(undisturbed)
    orders = job.outcome["orders"]

    ended = job.forks.resume(pid)

    if ended:
        assert "FencedError" in (job.folder / "error").read_text()
    assert job.work(reads=True) == 0
    assert job.outcome["orders"] == orders == undisturbed.outcome["orders"]
    job.kills += 1  # what it had in flight, and the callback of on_complete
    job.is_as_if_undisturbed(undisturbed)


def test_a_process_that_is_terminated_ends_at_once_and_a_retry_carries_on(job, undisturbed):
    """Without Airflow nobody asks a task to stop at a block: SIGTERM is a kill. See test_scheduler for the other."""
    pid, code = job.forks.start(job.folder, at="rename:before */steps/price/*", skip=3, action="stop")
    assert code == STOPPED
    os.kill(pid, signal.SIGTERM)
    assert job.forks.resume(pid) == -signal.SIGTERM
    job.kills += 1
    assert job.work() == 0
    job.is_as_if_undisturbed(undisturbed)

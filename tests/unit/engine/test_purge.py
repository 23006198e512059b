"""Retention: what goes, what stays, what a crash in the middle leaves."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from batch_provider.domain.errors import GenerationGoneError, StorageError
from batch_provider.domain.instance import JobInstance
from batch_provider.domain.outcome import JobState
from batch_provider.engine.ports.clock import SystemClock
from batch_provider.engine.purge import Reason, purge
from batch_provider.storage.blobs.local import LocalBlobs
from batch_provider.storage.instances.catalog import Catalog
from batch_provider.storage.instances.retention import Retention
from batch_provider.storage.instances.tickets import Tickets
from batch_provider.storage.views.instance_view import InstanceView
from batch_provider.testing import LocalRun
from tests.builders import Killed, Step, job_of, numbers

WEEK = timedelta(days=7)
CLOCK = SystemClock()


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


def ran(root, run_id, *, fails=(), **options):
    """A finished run of ten records."""
    run = LocalRun(job_of(Step(fails=set(fails))), store=LocalBlobs(root), run_id=run_id, **options)
    run.run(numbers(10))
    return run


def age(path: Path, days: float) -> None:
    """Make everything below it look as if it had been written so many days ago."""
    then = time.time() - days * 86_400
    for file in [path, *path.rglob("*")]:
        os.utime(file, (then, then))


def folder(root, run):
    return root / run.store.base


def clean(root, *, older_than=WEEK, running=(), blobs=None, **options):
    return purge(
        Retention(blobs or LocalBlobs(root), CLOCK), CLOCK, older_than, lambda owner: owner.run_id in running, **options
    )


def there(root):
    return [folder.id.split("~")[1] for folder in Catalog(LocalBlobs(root), CLOCK).folders()]


def files(root):
    return sorted(path for path in root.rglob("*") if path.is_file())


def test_instances_older_than_the_retention_go_and_others_stay(root):
    old, new = ran(root, "old"), ran(root, "new")
    age(folder(root, old), 8)
    age(folder(root, new), 6)

    report = clean(root)

    assert [(removal.reason, removal.owner.run_id) for removal in report.removed] == [(Reason.EXPIRED, "old")]
    assert report.bytes > 1_000
    assert there(root) == ["new"]
    assert InstanceView(new.store).state() is JobState.SUCCESSFUL
    assert InstanceView(old.store).state() is None


def test_a_dry_run_says_the_same_and_touches_nothing(root):
    run = ran(root, "old", fails={3})
    age(folder(root, run), 8)
    before = files(root)

    dry = clean(root, dry_run=True)

    assert files(root) == before
    wet = clean(root)
    assert dry.removed == wet.removed
    assert dry.removed[0].archives == 1


def test_a_run_that_airflow_calls_running_is_never_touched(root):
    run = ran(root, "old")
    age(folder(root, run), 100)
    before = files(root)

    report = clean(root, running={"old"})

    assert files(root) == before
    assert report.removed == ()
    assert [owner.run_id for owner in report.kept_running] == ["old"]


def test_an_attempt_at_work_keeps_its_instance_even_if_airflow_has_forgotten_the_run(root):
    run = LocalRun(job_of(Step(dies_at=5), block_size=2), store=LocalBlobs(root), run_id="old")
    run.load(numbers(10))
    age(folder(root, run), 30)
    with suppress(Killed):
        run.process(run.job.step("s1"), "01")  # its claim and checkpoints are of today

    assert clean(root).removed == ()
    assert there(root) == ["old"]


def test_what_comes_back_to_life_between_the_look_and_the_removal_stays(root):
    run = ran(root, "old", fails={1})
    age(folder(root, run), 8)

    class Revived(LocalBlobs):
        def get(self, name):
            if "/dead_letters/" in name:
                run.store.request_stop("somebody works with it")
            return super().get(name)

    assert clean(root, blobs=Revived(root)).removed == ()
    assert run.store.result().failed_records == 1


def test_dead_letters_go_to_the_archive_first(root):
    run = ran(root, "old", fails={3, 7}, shards=2)
    age(folder(root, run), 8)

    (removal,) = clean(root).removed

    assert removal.archives == 2
    day = CLOCK.now().date().isoformat()
    archived = sorted((root / "archive" / "local" / "job" / f"date={day}").iterdir())
    assert [path.name.startswith(run.instance.id + "-g1-") for path in archived] == [True, True]
    table = pq.read_table([str(path) for path in archived], partitioning=None)
    assert sorted(table["n"].to_pylist()) == [3, 7]
    assert set(table["_error_type"].to_pylist()) == {"ValueError"}


def test_the_archive_goes_by_the_business_date(root):
    run = ran(root, "old", fails={3})
    load = next((folder(root, run) / "load").iterdir())
    load.write_text(load.read_text().replace('"business_date": null', '"business_date": "2026-02-28"'))
    age(folder(root, run), 8)
    clean(root)
    assert [path.name for path in (root / "archive" / "local" / "job").iterdir()] == ["date=2026-02-28"]


def test_only_what_was_asked_for(root):
    runs = [ran(root, "old", dag_id=dag_id) for dag_id in ("a", "b")]
    for run in runs:
        age(folder(root, run), 8)
    assert [removal.dag_id for removal in clean(root, dag_id="b").removed] == ["b"]
    assert [removal.dag_id for removal in clean(root, job="nobody's").removed] == []
    assert [removal.dag_id for removal in clean(root, job="job").removed] == ["a"]


def test_an_older_generation_goes_and_the_current_one_stays(root):
    run = ran(root, "run", fails={1})
    old = run.generation.base
    run.next_round()
    run.run(numbers(5))
    age(root / old, 8)

    report = clean(root)

    assert [(removal.reason, removal.name) for removal in report.removed] == [(Reason.SUPERSEDED, old)]
    assert not (root / old).exists()
    assert run.store.result().total_records == 5
    assert len(list((root / "archive").rglob("*.parquet"))) == 1


def test_what_a_killed_load_left_goes(root):
    class Dies(LocalBlobs):
        def put(self, name, data, **options):
            if name.endswith("manifest.json"):
                raise Killed
            super().put(name, data, **options)

    run = LocalRun(job_of(Step()), store=Dies(root), run_id="killed")
    with pytest.raises(Killed):
        run.load(numbers(10))
    assert clean(root).removed == (), "it may be at work"
    age(folder(root, run), 8)
    assert [removal.reason for removal in clean(root).removed] == [Reason.ORPHAN]
    assert files(root) == []


def test_what_the_next_try_of_a_killed_load_has_left_behind_goes(root):
    run = ran(root, "run")
    orphan = folder(root, run) / "g1-0a0b0c0d" / "input"
    orphan.mkdir(parents=True)
    (orphan / "x.parquet").write_bytes(b"half")
    age(orphan.parent, 8)
    assert [(removal.reason, removal.bytes) for removal in clean(root).removed] == [(Reason.ORPHAN, 4)]
    assert run.store.result().total_records == 10


def test_half_written_files_go_after_a_day(root):
    run = ran(root, "run")
    for name, days in (("young", 0.5), ("old", 1.5)):
        file = folder(root, run) / "load" / f".tmp-{name}"
        file.write_bytes(b"1234")
        age(file, days)
    report = clean(root)
    assert [(removal.reason, removal.name.rpartition("/")[2], removal.bytes) for removal in report.removed] == [
        (Reason.UNFINISHED, ".tmp-old", 4)
    ]
    assert clean(root).removed == ()


def test_tickets_go_with_their_instance(root):
    run = ran(root, "old")
    line = Tickets(LocalBlobs(root), "local", "job")
    line.take(run.instance, run.generation.manifest.generation)
    own = line.take(JobInstance("next", "local", "next", "job"), "g1-00000000")
    age(folder(root, run), 8)
    assert [ticket.instance_id for ticket in line.before(own.id)] == [run.instance.id]
    clean(root)
    assert line.before(own.id) == []


def test_a_purged_id_may_be_loaded_again(root):
    run = ran(root, "run", instance_id="orders-1")
    age(folder(root, run), 8)
    clean(root)
    assert ran(root, "another", instance_id="orders-1").store.result().total_records == 10


def test_a_task_of_a_purged_instance_says_what_to_do(root):
    run = ran(root, "run")
    generation = run.generation
    age(folder(root, run), 8)
    clean(root)
    with pytest.raises(GenerationGoneError, match="Clear the load task with Downstream"):
        run.store.generation(generation.base.rpartition("/")[2]).claim("s1", "01", run.info)


class Dying(LocalBlobs):
    """Dies at one of its removals or writes; removes the files of a tree one by one, as the system does."""

    def __init__(self, root, left):
        super().__init__(root)
        self.left = left

    def _count(self):
        if self.left == 0:
            raise Killed
        self.left -= 1

    def put(self, name, data, **options):
        self._count()
        super().put(name, data, **options)

    def delete(self, name):
        path = self.root / name
        for file in sorted((each for each in path.rglob("*") if each.is_file()), reverse=True):
            self._count()
            file.unlink()
        self._count()
        super().delete(name)


def test_a_purge_that_is_killed_anywhere_leaves_all_or_nothing_to_read(tmp_path):
    """And the next one finishes it; the dead letters are in the archive once, and never lost."""
    for dies_at in range(200):
        root = tmp_path / str(dies_at)
        run = ran(root, "run", fails={3})
        run.next_round()
        run.run(numbers(7))
        age(folder(root, run), 8)
        ended = False
        with suppress(Killed):
            clean(root, blobs=Dying(root, dies_at))
            ended = True
        state, result = InstanceView(run.store).state(), run.store.result()
        assert (state, result and result.total_records) in [(JobState.SUCCESSFUL, 7), (None, None)]
        for file in files(root):
            age(file, 8)
        report = clean(root)
        assert report.problems == ()
        left = [path.relative_to(root).parts[0] for path in files(root)]
        assert left == ["archive"] * 2, "both generations had failed records"
        if ended:
            break
    assert ended, "it never came to its end"
    assert dies_at > 10


def test_what_cannot_be_removed_is_said_and_the_rest_goes(root):
    class Stubborn(LocalBlobs):
        def delete(self, name):
            if "stays" in name:
                raise StorageError("delete", name, "the disk is read-only")
            super().delete(name)

    for run_id in ("stays", "goes"):
        age(folder(root, ran(root, run_id)), 8)

    report = clean(root, blobs=Stubborn(root))

    assert len(report.problems) == 1
    assert "the disk is read-only" in report.problems[0]
    assert [removal.owner.run_id for removal in report.removed if removal.owner] == ["goes"]

"""Fused or not, a target has what the checkpoints say: a step that commits outside of the store stands alone."""

from __future__ import annotations

from itertools import count

import pytest

from batch_provider import BatchJob, JobState, SqlTable
from batch_provider.testing import LocalRun
from tests.builders import Killed

WRITES = "INSERT INTO t VALUES ({n}, {worth}) ON CONFLICT (n) DO UPDATE SET worth = excluded.worth"
FORMS = ("table", "group", "record")

sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)  # nothing here is PostgreSQL's own
forms = pytest.mark.parametrize("form", FORMS)
fused = pytest.mark.parametrize("fuse", [True, False], ids=["fused", "per step"])


@pytest.fixture
def table(database):
    database.run("CREATE TABLE t (n INTEGER PRIMARY KEY, worth INTEGER)")
    return database


def write(connection, record):
    connection.cursor().execute(WRITES.format(**record))


def add_store(job, form):
    """The step that writes: a writer, an aggregator with a transaction, or a record step with one."""
    if form == "table":
        job.write("store", SqlTable("warehouse", "t", key=["n"]), size=2)
    elif form == "group":

        @job.aggregator("store", size=2, transaction="warehouse")
        def store(records, *, connection):
            for record in records:
                write(connection, record)
    else:

        @job.step(name="store", transaction="warehouse")
        def store_one(record, *, connection):
            write(connection, record)


def job_of(form, *, fuse, value, refuse=lambda n: False, on_code_change="keep"):
    with BatchJob("job", fuse_steps=fuse, max_failed_records=-1, block_size=4) as job:
        job.step(name="value", on_code_change=on_code_change)(value)

        @job.step
        def check(record):
            if refuse(record["n"]):
                raise ValueError("not yet")

        add_store(job, form)
    return job.spec


def tens(record):
    return {"worth": record["n"] * 10}


def elevens(record):
    return {"worth": record["n"] * 11}


def numbers(found):
    return [{"n": n} for n in range(found)]


def what_is_written(run):
    return [(row["n"], row["worth"]) for row in run.output("store")]


@forms
@fused
@sqlite
def test_a_redrive_with_new_code_writes_what_it_says_it_wrote(table, form, fuse):
    run = LocalRun(job_of(form, fuse=fuse, value=tens, refuse=lambda n: n == 1), access=table.access)
    run.run(numbers(3))
    run.job = job_of(form, fuse=fuse, value=elevens, on_code_change="reprocess")
    run.next_round()
    run.process_all()

    assert run.complete().state is JobState.SUCCESSFUL
    assert table.rows() == what_is_written(run) == [(0, 0), (1, 11), (2, 22)]


@forms
@fused
@sqlite
def test_killed_between_commit_and_checkpoint_it_writes_what_it_says_it_wrote(table, form, fuse):
    """The steps before give another value at each call: what was committed must be what the checkpoint has."""
    values = count(100)
    run = LocalRun(job_of(form, fuse=fuse, value=lambda record: {"worth": next(values)}), access=table.access)
    run.load(numbers(10))
    run.store.blobs = dying = DyingAfterCommit(run.store.blobs, lambda: len(table.rows()))
    with pytest.raises(Killed):
        run.process_all()
    assert table.rows(), "some were committed"
    run.store.blobs = dying.blobs
    run.process_all()

    assert run.complete().state is JobState.SUCCESSFUL
    assert table.rows() == what_is_written(run)


class DyingAfterCommit:
    """A store whose writer dies before the first checkpoint that follows a commit."""

    def __init__(self, blobs, committed):
        self.blobs, self._committed = blobs, committed

    def put(self, name, data, **options):
        if "/steps/" in name and self._committed():
            raise Killed
        self.blobs.put(name, data, **options)

    def __getattr__(self, name):
        return getattr(self.blobs, name)


@forms
def test_steps_around_one_that_writes_are_still_fused(form):
    with BatchJob("job", fuse_steps=True) as job:
        job.step(name="a")(lambda record: None)
        job.step(name="b")(lambda record: None)
        add_store(job, form)
        job.step(name="c")(lambda record: None)
        job.step(name="d")(lambda record: None)
    run = LocalRun(job.spec)
    run.load([])

    assert [step["name"] for step in run.generation.manifest.steps] == ["a_to_b", "store", "c_to_d"]

"""A shard of very many blocks: each costs what it would cost among few, and is read no oftener than it must be."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from functools import partial

import pytest

from batch_provider import BatchJob, ParquetFiles
from batch_provider.domain.accept import AcceptPolicy
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.testing import FakeClock, LocalRun
from tests.builders import Step, checkpoint_files, job_of, numbers, spans

FEW, MORE, MANY = 8, 20, 32
"""The cost of the blocks between two of them is that of the same number of blocks, among more."""


class CountingBlobs(MemoryBlobs):
    """A store that counts how often each checkpoint is read."""

    def __init__(self):
        super().__init__()
        self.reads = Counter()

    def get(self, name):
        if name.endswith(".parquet"):
            self.reads[name] += 1
        return super().get(name)


def calls_of(action):
    """How many Python functions are called: what it costs, told without a clock."""
    found = 0

    def note(frame, event, arg):
        nonlocal found
        found += event == "call"

    before = sys.getprofile()
    gc.disable()  # what it calls comes when it likes
    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(before)
        gc.enable()
    return found


def written(blocks, folder, fails):
    """A job of two records in a block, a record step and a writer of parts."""
    job = BatchJob("job", block_size=2, shards=1, max_failed_records=-1)
    job.step(name="s1")(fails)
    job.write("store", ParquetFiles(folder), size=1)
    run = LocalRun(job.spec, store=MemoryBlobs(), clock=FakeClock())  # what is done by the clock is done once
    run.load(numbers(2 * blocks))
    return run


def cost_of_rounds(blocks, folder):
    """Calls of each phase, in a first round and in a redrive that makes every block again."""
    step = Step(fails=set(range(0, 2 * blocks, 2)))
    run = written(blocks, folder, step)
    found = []
    for _ in range(2):
        steps = [partial(run.process, each, "01") for each in run.job.steps]
        found += [calls_of(phase) for phase in (*steps, run.complete)]
        step.fails = set()
        run.next_round()
    return found


def test_a_block_costs_as_much_among_many_as_among_few(tmp_path):
    cost_of_rounds(1, tmp_path / "imports")
    counted = [cost_of_rounds(blocks, tmp_path / f"{blocks}") for blocks in (FEW, MORE, MANY)]

    for few, more, many in zip(*counted, strict=True):
        assert many - more < (more - few) * 1.02


@pytest.mark.parametrize("fails", [{1, 9}, set(range(12))], ids=["some", "all"])
def test_a_redrive_reads_each_file_once(tmp_path, fails):
    first, second, blobs = Step(fails=set(fails)), Step(returns=lambda record: {"n": record["n"] + 1}), CountingBlobs()
    job = BatchJob("job", block_size=4, shards=1, max_failed_records=-1)
    job.step(name="s1")(first)
    job.step(name="s2", accept_policy=AcceptPolicy.ALL)(second)
    job.write("store", ParquetFiles(tmp_path), size=2)
    run = LocalRun(job.spec, store=blobs)
    run.load(numbers(12))
    run.process_all()
    run.complete()
    own = {step.name: checkpoint_files(blobs, run, step.name) for step in run.job.steps}
    first.fails = set()
    run.next_round()

    for step in run.job.steps:
        blobs.reads.clear()
        run.process(step, "01")
        assert set(own[step.name]) <= blobs.reads.keys()
        assert set(blobs.reads.values()) == {1}


def test_a_redrive_reads_no_block_again_in_which_nothing_failed():
    step, blobs = Step(fails={5}), CountingBlobs()
    run = LocalRun(job_of((step, {}), (Step(), {}), block_size=4), store=blobs)
    run.load(numbers(12))
    run.process_all()
    run.complete()
    step.fails = set()
    run.next_round()
    run.process(run.job.step("s1"), "01")
    above = {name for name in checkpoint_files(blobs, run, "s1") if (4, 7) in spans([name])}
    blobs.reads.clear()

    run.process(run.job.step("s2"), "01")

    assert {name for name in blobs.reads if "/s1/" in name} < above


def test_a_stream_reads_each_file_of_its_own_once_in_a_redrive_for_which_nothing_is_new():
    blobs, job = CountingBlobs(), BatchJob("job", shards=1, max_failed_records=-1)
    job.step(name="s1")(Step())
    job.aggregator("sum", streaming=True)(list)
    run = LocalRun(job.spec, store=blobs)
    run.load(numbers(12))
    run.process_all()
    run.complete()
    own = checkpoint_files(blobs, run, "sum")
    blobs.reads.clear()
    run.next_round()

    run.stream(run.job.steps[-1])

    assert {name: blobs.reads[name] for name in checkpoint_files(blobs, run, "sum")} == dict.fromkeys(own, 1)

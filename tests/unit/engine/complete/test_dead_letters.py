"""Dead letters: every failed record as it came, with its error."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_provider.domain.errors import CheckpointMissingError
from batch_provider.domain.instance import Pin
from batch_provider.domain.limits import FailureLimit
from batch_provider.domain.spec import JobSpec, StepSpec
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.testing import Fault, Faults, FaultyBlobs, LocalRun, raising
from tests.builders import Killed, Step, checkpoint_files, job_of, numbers


def test_payload_columns_that_are_named_as_those_of_the_error_stay():
    def refuse(record):
        raise ValueError("no")

    job = JobSpec("job", (StepSpec("s", refuse),), limit=FailureLimit(-1))
    blobs = MemoryBlobs()
    run = LocalRun(job, store=blobs)

    result = run.run([{"_step": "mine", "_attempt": 7}])

    table = pq.read_table(pa.BufferReader(blobs.get(f"{run.generation.base}/{result.dead_letters[0]}")))
    row = table.to_pylist()[0]
    assert (row["_step_"], row["_attempt_"], row["_step"], row["_error_type"]) == ("mine", 7, "s", "ValueError")


def letters(run, result):
    tables = [
        pq.read_table(pa.BufferReader(run.store.blobs.get(f"{run.generation.base}/{n}"))) for n in result.dead_letters
    ]
    return [row for table in tables for row in table.to_pylist()]


def fused_with_a_gap():
    """Fused steps whose attempt never ended, and one of whose blocks is gone."""
    killed = Fault("put:before */attempts/*", raising(Killed()))
    first, second = Step(returns=lambda record: {"twice": record["n"] * 2}), Step(fails={1, 9})
    job = job_of(first, second, block_size=4, fuse_steps=True)
    run = LocalRun(job, store=FaultyBlobs(MemoryBlobs(), Faults(killed)))
    run.load(numbers(10))
    with pytest.raises(Killed):
        run.process_all()
    run.store.blobs.delete(checkpoint_files(run.store.blobs, run, "s1_to_s2")[1])
    return run


def test_records_before_and_behind_a_gap_have_their_dead_letters():
    run = fused_with_a_gap()

    result = run.complete()

    assert (result.failed_records, result.not_run_records, result.successful_records) == (2, 4, 4)
    assert [(row["_id"], row["n"], row["twice"], row["_step"]) for row in letters(run, result)] == [
        (1, 1, 2, "s2"),
        (9, 9, 18, "s2"),
    ]


def test_a_record_in_a_gap_cannot_be_picked():
    run = fused_with_a_gap()
    run.complete()
    reader = run.generation.reader("01", Pin("s1_to_s2", run.generation.highest_claim("s1_to_s2", "01").id))

    with pytest.raises(CheckpointMissingError, match="some of 3 records are not there"):
        reader.pick(np.array([1, 5, 9]))
    assert reader.pick(np.array([1, 9]))["twice"].to_pylist() == [2, 18]


def test_failed_records_of_many_files_are_as_they_came():
    """The column that the first step makes changes its type from block to block."""
    first = Step(fails={2, 11}, returns=lambda record: {"x": record["n"] + 0.5 if record["n"] > 3 else record["n"]})
    run = LocalRun(job_of(first, Step(fails={0, 7, 8}), block_size=4), store=MemoryBlobs())

    result = run.run(numbers(12))

    found = [(row["_id"], row["_step"], row["n"], row.get("x")) for row in letters(run, result)]
    assert found == [
        (2, "s1", 2, None),
        (11, "s1", 11, None),
        (0, "s2", 0, 0.0),
        (7, "s2", 7, 7.5),
        (8, "s2", 8, 8.5),
    ]

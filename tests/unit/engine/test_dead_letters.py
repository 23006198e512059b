"""Dead letters: every failed record as it came, with its error."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from batch_provider.domain.limits import FailureLimit
from batch_provider.domain.spec import JobSpec, StepSpec
from batch_provider.storage.blobs import MemoryBlobs
from batch_provider.testing import LocalRun


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

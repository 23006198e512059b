"""Values that could not stay in their column (ADR 0007), where blocks of one step span blocks of another."""

from __future__ import annotations

import pytest

from batch_provider import BatchJob
from batch_provider.testing import LocalRun

RECORDS = [{"t": "x"}, {"t": "1"}, {"t": "y"}, {"t": "2"}, {"t": "z"}]
EXPECTED = [{"t": "x"}, {"t": 1}, {"t": "y"}, {"t": 2}, {"t": "z"}]


def output(job, records=RECORDS):
    run = LocalRun(job.spec)
    run.run(records)
    return run.output()


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("block_size", [1, 2, 3, 4])
def test_a_group_over_blocks_that_differ_in_a_columns_type_loses_no_value(size, block_size):
    with BatchJob("j", max_failed_records=-1, block_size=block_size) as job:

        @job.step
        def number(record):
            return {"t": int(record["t"])}

        @job.aggregator(size=size, accept_policy="ALL")
        def group(records): ...

    assert output(job) == EXPECTED


@pytest.mark.parametrize("changed", ["1", "x", "y"])
def test_nor_does_a_step_that_changes_the_column_for_one_of_them(changed):
    with BatchJob("j", max_failed_records=-1, block_size=2) as job:

        @job.step
        def number(record):
            return {"t": int(record["t"])}

        @job.aggregator(size=5, accept_policy="ALL")
        def group(records):
            return [{"t": 7} if str(record["t"]) == changed else None for record in records]

    assert output(job) == [
        {"t": 7} if row["t"] == changed else want for row, want in zip(RECORDS, EXPECTED, strict=True)
    ]


@pytest.mark.parametrize("fuse_steps", [False, True])
def test_the_value_is_there_after_every_later_step(fuse_steps):
    with BatchJob("j", max_failed_records=-1, block_size=2, fuse_steps=fuse_steps) as job:

        @job.step
        def number(record):
            return {"t": int(record["t"])}

        @job.aggregator(streaming=True, accept_policy="ALL")
        def look(records):
            list(records)

        @job.step(accept_policy="ALL")
        def note(record):
            return {"saw": str(record["t"])}

        @job.aggregator(size=3, accept_policy="ALL")
        def group(records):
            return [{"t": 7} if record["t"] == 2 else None for record in records]

    changed = [{"t": 7} if want["t"] == 2 else want for want in EXPECTED]
    assert output(job) == [{**new, "saw": str(want["t"])} for new, want in zip(changed, EXPECTED, strict=True)]


def test_a_redrive_keeps_what_the_other_records_have_beside_the_column():
    healed = []
    with BatchJob("j", max_failed_records=-1, block_size=2) as job:

        @job.step
        def number(record):
            return {"t": int(record["t"])}

        @job.aggregator(size=5, accept_policy="ALL", on_error="isolate")
        def group(records):
            if not healed and any(record["t"] == "y" for record in records):
                raise ValueError("y")
            return [{"t": 7} if record["t"] == 2 else None for record in records]

    run = LocalRun(job.spec)
    run.run(RECORDS)
    healed.append(1)
    run.next_round()
    run.process_all()
    assert run.output() == [{"t": 7} if want["t"] == 2 else want for want in EXPECTED]

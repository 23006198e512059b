"""A step's column has the type that the step gives it, whatever its records came with and whenever they succeed."""

from __future__ import annotations

import pytest

from batch_provider import BatchJob
from batch_provider.testing import LocalRun


def failures(run):
    return [tuple(row) for row in run.query("SELECT record_id, error_type FROM failures ORDER BY ALL")]


@pytest.mark.parametrize("order", [(1, 2), (2, 1), (1, 1)])
@pytest.mark.parametrize("block_size", [1, 2, 3])
def test_records_that_heal_one_redrive_after_the_other_get_the_type_the_step_gives(order, block_size):
    now = [0]
    with BatchJob("j", max_failed_records=-1, block_size=block_size) as job:

        @job.step
        def number(record):
            if now[0] < record["heals"]:
                raise ValueError("not yet")
            return {"t": int(record["t"])}

        @job.step(accept_policy="ALL")
        def look(record):
            return {"saw": str(record["t"])}

    run = LocalRun(job.spec)
    run.run([{"t": "6", "heals": order[0]}, {"t": "7", "heals": order[1]}, {"t": "never", "heals": 9}])
    for now[0] in (1, 2):
        run.next_round()
        run.process_all()
        run.complete()

    assert [(row["t"], row["saw"]) for row in run.output()] == [(6, "6"), (7, "7"), ("never", "never")]
    assert failures(run) == [(2, "ValueError")]


@pytest.mark.parametrize("block_size", [1, 2, 3, 100])
def test_nulls_in_one_block_do_not_make_text_of_the_numbers_in_the_next(block_size):
    with BatchJob("j", max_failed_records=-1, block_size=block_size) as job:

        @job.step
        def number(record):
            return {"t": int(record["t"]) if record["t"] else None}

    run = LocalRun(job.spec)
    run.run([{"t": None}, {"t": "x"}, {"t": "7"}])

    assert [row["t"] for row in run.output()] == [None, "x", 7]
    assert failures(run) == [(1, "ValueError")]


def test_a_record_that_fails_by_its_variables_keeps_the_payload_it_came_with():
    with BatchJob("j", max_failed_records=-1) as job:

        @job.step
        def spoil(record, *, variables):
            variables["bad"] = object()
            return {"n": 99, "more": 1}

    run = LocalRun(job.spec)
    run.run([{"n": 1}, {"n": 2}])

    assert run.output() == [{"n": 1}, {"n": 2}]
    assert failures(run) == [(0, "VariableTypeError"), (1, "VariableTypeError")]


@pytest.mark.parametrize("fuse_steps", [False, True])
def test_no_function_is_called_for_a_block_that_may_not_start(fuse_steps):
    seen = []
    with BatchJob("j", fuse_steps=fuse_steps, max_failed_records=0) as job:

        @job.step
        def note(record):
            seen.append(record["n"])

        @job.aggregator(size=1)
        def group(records): ...

    result = job.run([{"n": 1}, 5])

    assert (str(result.state), seen) == ("FAILED_PROCESS_RECORDS", [])

"""The ledger and the report count the same attempts and the same work, killed tasks and fused steps included."""

from __future__ import annotations

import pytest

from batch_provider.domain.fused import checkpoint_steps
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.testing import FakeClock, LocalRun
from tests.builders import Killed, Step, job_of, numbers


def run_of(*steps, fuse, **options):
    clock = FakeClock(tick_seconds=1)  # every look at it is a second: each block is told of
    run = LocalRun(job_of(*steps, block_size=2, fuse_steps=fuse, **options), store=MemoryBlobs(), clock=clock)
    run.load(numbers(8))
    return run


def first(run):
    return checkpoint_steps(run.job)[0]


def in_the_ledger(run):
    return {
        step: (attempts, processed)
        for step, attempts, processed in run.query(
            "SELECT step, count(*), sum(processed) FROM attempts GROUP BY ALL ORDER BY ALL"
        )
    }


def in_the_report(result):
    return {step.name: (step.attempts, step.processed) for step in result.steps if step.attempts}


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("dies_at", [0, 2, 6])
@pytest.mark.parametrize("retried", [False, True])
def test_a_killed_task_is_an_attempt_in_both(fuse, dies_at, retried):
    run = run_of(Step(dies_at=dies_at), Step(), fuse=fuse)
    with pytest.raises(Killed):
        run.process(first(run), "01")
    if retried:
        run.process_all()

    result = run.complete()

    assert in_the_ledger(run) == in_the_report(result)
    assert in_the_report(result)["s1"] == ((2, 8) if retried else (1, dies_at))
    killed = run.query("SELECT outcome, reason, ended_at IS NULL FROM attempts WHERE step = 's1' ORDER BY attempt")[0]
    assert killed == ("abandoned", "its task ended without closing its attempt", dies_at == 0)


@pytest.mark.parametrize("fuse", [False, True])
def test_a_task_that_never_started_is_no_attempt_in_either(fuse):
    run = run_of(Step(), Step(), fuse=fuse)

    result = run.complete()

    assert in_the_ledger(run) == in_the_report(result) == {}


def test_fused_steps_stand_in_the_ledger_by_their_own_names():
    run = run_of(Step(fails={1, 2}), Step(), fuse=True)
    run.process_all()
    result = run.complete()

    assert in_the_ledger(run) == in_the_report(result) == {"s1": (1, 8), "s2": (1, 6)}
    assert run.query("SELECT count(*) FROM attempts JOIN steps USING (step)") == [(2,)]


def test_an_attempt_at_work_is_not_counted_yet():
    run = run_of(Step(), fuse=False)
    run.generation.claim("s1", "01", run.info)

    assert in_the_ledger(run) == {}

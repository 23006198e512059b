"""A killed or stopped attempt, and the retry that carries on: nothing is lost or done twice."""

from __future__ import annotations

import pytest

from batch_provider import JobState
from batch_provider.domain.errors import CheckpointMissingError, StopRequestedError
from batch_provider.domain.outcome import CloseOutcome
from batch_provider.engine.process.process import ShardTask, process_shard
from batch_provider.storage.blobs.protocol import put_json
from batch_provider.testing import FakeClock
from tests.builders import Step, checkpoint_files, outcomes, spans, with_outcome
from tests.unit.engine.attempts import die, last_attempt, loaded, process

# --- a killed attempt -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dies_at", "committed"),
    [
        pytest.param(0, [], id="first record"),
        pytest.param(3, [], id="last record of the first block"),
        pytest.param(4, [(0, 3)], id="first record of the second block"),
        pytest.param(9, [(0, 3), (4, 7)], id="last record"),
    ],
)
def test_killed_attempt_leaves_the_blocks_it_committed(dies_at, committed):
    step = Step(dies_at=dies_at)
    run, blobs = loaded(step)

    die(run)

    assert spans(checkpoint_files(blobs, run, "s1")) == committed
    done = {record for first, last in committed for record in range(first, last + 1)}
    assert outcomes(run, "s1") == {n: "SUCCEEDED" if n in done else "NOT_RUN" for n in range(10)}
    assert run.generation.attempts("s1", "01") == []


def test_retry_processes_only_what_was_not_committed():
    step = Step(fails={1}, dies_at=6)
    run, _ = loaded(step)
    die(run)
    step.forget()

    process(run)

    assert step.seen == [4, 5, 6, 7, 8, 9]
    tally = last_attempt(run).tally
    assert (tally.succeeded, tally.failed, tally.newly_failed) == (9, 1, 1)
    assert (tally.processed, tally.blocks) == (6, 2)
    assert run.complete().failed_records == 1


def test_retry_after_many_kills_does_the_rest():
    step = Step()
    run, _ = loaded(step, block_size=1)
    for at in (0, 1, 5, 9):
        step.dies_at = at
        die(run)

    process(run)

    assert sorted(step.seen) == list(range(10))
    assert run.complete().successful_records == 10


def test_failed_record_of_a_committed_block_is_not_tried_again_by_a_retry():
    step = Step(fails={0}, dies_at=5)
    run, _ = loaded(step)
    die(run)
    step.fails = set()

    process(run)

    assert step.seen.count(0) == 1
    assert with_outcome(run, "s1", "FAILED") == {0}


def test_retry_of_a_closed_attempt_has_nothing_to_do():
    step = Step(fails={1})
    run, _ = loaded(step)
    process(run)
    step.forget()

    process(run)

    assert step.seen == []
    assert last_attempt(run).tally.processed == 0
    assert last_attempt(run).tally.failed == 1


def test_killed_step_starts_from_the_closed_output_of_the_step_before():
    first, second = Step(returns=lambda record: {"n": record["n"] + 100}), Step(dies_at=5)
    run, _ = loaded(first, second)
    process(run, "s1")
    die(run, "s2")
    process(run, "s2")

    assert first.seen == list(range(10))
    assert [record["n"] for record in run.output()] == [n + 100 for n in range(10)]


def test_step_waits_for_the_step_before():
    run, _ = loaded(Step(dies_at=5), Step())
    with pytest.raises(CheckpointMissingError, match="Step 's1' of shard 01 has no finished output: it has not"):
        process(run, "s2")
    die(run)
    with pytest.raises(CheckpointMissingError, match="it has not finished"):
        process(run, "s2")


@pytest.mark.parametrize(
    ("block_size", "first_again"),
    [pytest.param(7, 7, id="block 7"), pytest.param(10, 10, id="block 10"), pytest.param(5, 10, id="block 5")],
)
def test_j29_records_from_the_block_that_was_killed_are_processed_again(block_size, first_again):
    step = Step(dies_at=12)
    run, _ = loaded(step, count=30, block_size=block_size)
    identity = run.instance.id
    die(run)
    step.forget()

    process(run)
    result = run.complete()

    assert step.seen == list(range(first_again, 30))
    assert (result.successful_records, result.total_records) == (30, 30)
    assert (result.state, result.job_instance_id) == (JobState.SUCCESSFUL, identity)


def test_killed_attempt_counts_as_an_attempt():
    step = Step(dies_at=6)
    run, _ = loaded(step)
    die(run)
    process(run)

    assert run.complete().step("s1").attempts == 2


def test_work_of_a_killed_attempt_is_in_the_report():
    step, clock = Step(dies_at=9), FakeClock()

    def slow(record, record_id):
        clock.advance(2)
        return step(record, record_id)

    run, _ = loaded(slow, clock=clock)
    die(run)
    process(run)

    found = run.complete().step("s1")

    assert found.processed == 8 + 2  # the ninth was in flight
    assert found.seconds == 8 * 2 + 2 * 2


def test_work_is_not_counted_again_when_its_step_is_sealed():
    step = Step(dies_at=9)
    run, _ = loaded(step, clock=FakeClock())
    die(run)
    first = run.complete().step("s1")
    step.dies_at = 9
    run.next_round()
    die(run)
    second = run.complete().step("s1")
    assert (first.processed, second.processed) == (4, 4)


# --- stop requests --------------------------------------------------------------------------------------------


def test_stop_request_ends_the_attempt_at_the_next_block_and_a_rerun_carries_on():
    step = Step()
    run, blobs = loaded(step, clock=FakeClock(tick_seconds=1))
    stop = f"{run.generation.base}/stop/0a0b.json"
    step.returns = lambda record: put_json(blobs, stop, {"reason": "maintenance tonight"})

    with pytest.raises(StopRequestedError, match="maintenance tonight"):
        process(run)
    result = run.complete()

    assert step.forget() == [0, 1, 2, 3]
    assert result.state is JobState.STOPPED
    assert "maintenance tonight" in result.reason
    assert result.stops == ("0a0b.json",)
    assert (result.successful_records, result.not_run_records) == (4, 6)

    step.returns = None
    run.next_round()
    run.process_all()
    result = run.complete()

    assert step.seen == [4, 5, 6, 7, 8, 9]
    assert (result.state, result.successful_records) == (JobState.SUCCESSFUL, 10)


def test_cancelled_task_stops_at_the_next_block():
    step = Step()
    run, _ = loaded(step)
    held = run.generation.claim("s1", "01", run.info)

    with pytest.raises(StopRequestedError, match="the task was told to end"):
        process_shard(ShardTask(run.job, run.job.steps[0], held, run.clock, cancelled=lambda: len(step.seen) >= 8))

    assert step.seen == list(range(8))
    assert last_attempt(run).outcome is CloseOutcome.STOPPED

"""Two attempts at once, and an attempt that on-complete has sealed: only the higher claim counts."""

from __future__ import annotations

import pytest

from batch_provider import JobState
from batch_provider.domain.errors import FencedError
from batch_provider.domain.layout import ClaimId, Span
from batch_provider.domain.outcome import CloseOutcome
from batch_provider.engine.process.process import ShardTask, process_shard
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.storage.blobs.protocol import put_json
from batch_provider.storage.reading.checkpoint_file import open_checkpoint
from batch_provider.testing import FakeClock, LocalRun
from tests.builders import Step, checkpoint_files, job_of, numbers, with_outcome
from tests.unit.engine.attempts import die, last_attempt, loaded, process

# --- two attempts at once -------------------------------------------------------------------------------------


def test_earlier_attempt_is_fenced_before_its_next_block():
    seen = []

    def step(record, record_id):
        seen.append(record_id)
        if record_id == 2:
            successor.append(run.generation.claim("s1", "01", run.info))

    successor = []
    run, _ = loaded(step, clock=FakeClock(tick_seconds=1))

    with pytest.raises(FencedError, match="No action is needed"):
        process(run)

    assert seen == [0, 1, 2, 3]
    assert run.generation.attempts("s1", "01") == []
    (held,) = successor
    assert held.successor() is None


def test_fenced_attempt_can_no_longer_change_the_result():
    """The earlier attempt does not look, writes on and even closes: only the later one counts."""
    step = Step()
    run, _ = loaded(step)
    zombie = run.generation.claim("s1", "01", run.info)
    step.fails = {7}
    process(run)
    step.fails = {0, 1, 2}

    with pytest.raises(FencedError):
        process_shard(ShardTask(run.job, run.job.steps[0], zombie, FakeClock(tick_seconds=0)))
    zombie.close(CloseOutcome.DONE, zombie.tally, fingerprint="zombie")
    result = run.complete()

    assert [error.sample for error in result.errors] == ["record 7 is bad"]
    assert with_outcome(run, "s1", "FAILED") == {7}


def test_block_that_was_written_after_the_fence_does_not_count():
    step = Step(dies_at=9)
    run, blobs = loaded(step)
    zombie = run.generation.claim("s1", "01", run.info)
    die(run)
    before = run.generation.current_files("s1", "01")
    table = open_checkpoint(blobs, f"{run.generation.base}/steps/s1/01/{before[0].name}", before[0]).read(
        ["_id", "_status", "_out", "_in"]
    )
    zombie.checkpoint(table, Span(0, 3), {}, zombie.tally)

    assert len(checkpoint_files(blobs, run, "s1")) == 3
    assert run.generation.current_files("s1", "01") == before


def test_of_two_claims_of_one_epoch_the_higher_token_wins():
    run, _ = loaded(Step())
    held = run.generation.claim("s1", "01", run.info)
    rival = ClaimId(held.claim.id.epoch, "ffffffff")
    document = {**held.claim.to_json(), "id": str(rival)}
    put_json(run.store.blobs, f"{run.generation.base}/claims/s1/01/{rival}.json", document)

    assert held.successor() == rival
    with pytest.raises(FencedError):
        process_shard(ShardTask(run.job, run.job.steps[0], held, run.clock))


class RacingBlobs(MemoryBlobs):
    """Another attempt claims the shard at the same moment, and wins."""

    def put(self, name, data, **options):
        super().put(name, data, **options)
        directory, _, file = name.rpartition("/")
        if "/claims/s1/" in name:
            super().put(f"{directory}/{file[:6]}-ffffffff.json", data)


def test_attempt_that_loses_the_race_for_a_claim_does_nothing():
    step = Step()
    run = LocalRun(job_of(step), store=RacingBlobs())
    run.load(numbers(3))

    with pytest.raises(FencedError):
        process(run)

    assert step.seen == []


# --- sealing --------------------------------------------------------------------------------------------------


def test_unfinished_attempt_is_sealed_and_its_rest_was_not_run():
    step = Step(fails={1}, dies_at=6)
    run, _ = loaded(step, Step())
    die(run)

    result = run.complete()

    assert (result.successful_records, result.failed_records, result.not_run_records) == (0, 1, 9)
    assert (result.step("s1").successful, result.step("s1").failed, result.step("s1").not_run) == (3, 1, 6)
    assert (result.step("s2").received, result.step("s2").not_run) == (0, 10)
    assert result.state is JobState.FAILED_PROCESS_RECORDS
    assert result.reason == (
        "Step 's1' of shard 01 (and 1 more) did not finish: its task ended without closing its attempt. See that "
        "task's log, then clear the failed tasks with Downstream."
    )
    assert last_attempt(run).outcome is CloseOutcome.ABANDONED


def test_attempt_that_was_sealed_can_no_longer_change_the_result():
    step = Step()
    run, _ = loaded(step)
    zombie = run.generation.claim("s1", "01", run.info)
    before = run.complete()

    with pytest.raises(FencedError):
        process_shard(ShardTask(run.job, run.job.steps[0], zombie, run.clock))

    assert run.complete().not_run_records == before.not_run_records == 10


def test_sealed_attempt_is_carried_on_by_the_next_round():
    step = Step(dies_at=6)
    run, _ = loaded(step)
    die(run)
    run.complete()
    step.forget()

    run.next_round()
    run.process_all()
    result = run.complete()

    assert step.seen == [4, 5, 6, 7, 8, 9]
    assert (result.state, result.successful_records) == (JobState.SUCCESSFUL, 10)


def test_step_that_never_started_was_not_run():
    run, _ = loaded(Step())

    result = run.complete()

    assert (result.not_run_records, result.processed_records) == (10, 0)
    assert "its task never started" in result.reason

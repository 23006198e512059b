"""The failure limit over a running instance, and its verdict."""

from __future__ import annotations

import logging

import pytest

from batch_provider import AcceptPolicy, JobState
from batch_provider.domain.errors import FailureLimitExceededError
from batch_provider.domain.outcome import CloseOutcome
from batch_provider.testing import FakeClock, LocalRun
from tests.builders import Step, job_of, numbers, outcomes


def run_of(step, count=10, limit=0, **options):
    shards = options.pop("shards", None)
    run = LocalRun(
        job_of(step, max_failed_records=limit, block_size=options.pop("block_size", 2), **options), shards=shards
    )
    return run, run.run(numbers(count))


def test_default_limit_stops_at_the_first_failure_when_its_block_is_done():
    step = Step(fails={2})
    _, result = run_of(step)

    assert step.seen == [0, 1, 2, 3]
    assert (result.state, result.failed_records, result.not_run_records) == (JobState.FAILED_PROCESS_RECORDS, 1, 6)
    assert result.processed_records == result.successful_records + result.failed_records == 4
    assert "1 record failed, more than max_failed_records=0 allows" in result.reason
    assert result.reason.endswith("or raise the limit.")


@pytest.mark.parametrize(
    ("limit", "state", "seen"),
    [
        pytest.param(2, JobState.FAILED_PROCESS_RECORDS, 6, id="one more than the limit"),
        pytest.param(3, JobState.SUCCESSFUL, 10, id="exactly the limit"),
        pytest.param(4, JobState.SUCCESSFUL, 10, id="fewer"),
        pytest.param(-1, JobState.SUCCESSFUL, 10, id="unlimited"),
    ],
)
def test_only_more_than_the_limit_trips_it(limit, state, seen):
    step = Step(fails={1, 3, 5})
    _, result = run_of(step, limit=limit)

    assert (result.state, len(step.seen)) == (state, seen)


def test_failures_within_the_limit_are_told():
    _, result = run_of(Step(fails={1}), limit=1)

    assert result.reason == "1 failed record is within the limit."


def test_block_in_flight_finishes():
    step = Step(fails={0})
    run, result = run_of(step, block_size=5)

    assert step.seen == [0, 1, 2, 3, 4]
    assert list(outcomes(run, "s1").values()) == ["FAILED"] + ["SUCCEEDED"] * 4 + ["NOT_RUN"] * 5
    assert result.not_run_records == 5


def test_last_block_may_trip_the_limit():
    step = Step(fails={9})
    run, result = run_of(step)

    assert len(step.seen) == 10
    assert (result.state, result.not_run_records) == (JobState.FAILED_PROCESS_RECORDS, 0)
    assert run.generation.attempts("s1", "01")[-1].outcome is CloseOutcome.DONE


def test_task_that_tripped_the_limit_with_its_last_block_fails():
    run = LocalRun(job_of(Step(fails={1}), max_failed_records=0))
    run.load(numbers(2))

    with pytest.raises(FailureLimitExceededError, match="1 record failed, more than max_failed_records=0 allows"):
        run.process(run.job.steps[0], "01")


def test_later_steps_are_not_started():
    later = Step()
    job = job_of(Step(fails={9}), later, (Step(), {"accept_policy": AcceptPolicy.ALL}), max_failed_records=0)
    result = LocalRun(job).run(numbers(10))

    assert later.seen == []
    assert result.step("s2").not_run == 10


def test_failures_of_all_steps_count_together():
    job = job_of(Step(fails={0}), Step(fails={1}), max_failed_records=1, block_size=5)

    result = LocalRun(job).run(numbers(10))

    assert (result.state, result.failed_records) == (JobState.FAILED_PROCESS_RECORDS, 2)
    assert (result.step("s1").not_run, result.step("s2").not_run) == (0, 5)


def test_record_that_fails_twice_counts_once():
    job = job_of(Step(fails={0}), (Step(fails={0}), {"accept_policy": AcceptPolicy.ALL}), max_failed_records=1)

    assert LocalRun(job).run(numbers(10)).state is JobState.SUCCESSFUL


@pytest.mark.parametrize("limit", [0, 3])
def test_failures_of_other_shards_count(limit):
    step = Step(fails=set(range(100, 104)))
    run, result = run_of(step, count=300, limit=limit, shards=3, block_size=10)

    assert set(step.seen) >= set(range(110))
    assert not set(step.seen) & set(range(200, 300))
    assert result.not_run_records == 190
    closes = {shard: run.generation.attempts("s1", shard)[-1].outcome for shard in ("01", "02", "03")}
    assert closes == {"01": "done", "02": "limited", "03": "limited"}


def test_unlimited_failures_are_shouted(caplog):
    caplog.set_level(logging.INFO)

    run_of(Step(fails=set(range(10))), limit=-1)

    (shout,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "FAILED RECORDS: 10 of 10 records of job job failed" in shout.getMessage()
    assert "dead_letters/s1-01" in shout.getMessage()


def test_unlimited_without_failures_is_quiet(caplog):
    run_of(Step(), limit=-1)

    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# --- ratio ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize(
    ("bad", "state"),
    [
        pytest.param(20, JobState.SUCCESSFUL, id="exactly the ratio"),
        pytest.param(21, JobState.FAILED_PROCESS_RECORDS, id="one more"),
    ],
)
def test_ratio_is_asked_of_the_whole(bad, state, shards):
    step = Step(fails=set(range(200 - bad, 200)))
    _, result = run_of(step, count=200, max_failed_ratio=0.1, minimum_sample=50, shards=shards)

    assert (result.state, result.failed_records) == (state, bad)


def test_ratio_waits_for_the_sample():
    step = Step(fails={0, 1})
    _, result = run_of(step, count=100, max_failed_ratio=0.1, minimum_sample=20)

    assert (result.state, len(step.seen)) == (JobState.SUCCESSFUL, 100)


def test_ratio_trips_when_the_sample_is_there():
    step = Step(fails=set(range(100)))
    _, result = run_of(step, count=100, max_failed_ratio=0.5, minimum_sample=20)

    assert (result.state, len(step.seen)) == (JobState.FAILED_PROCESS_RECORDS, 20)
    assert "max_failed_ratio=0.5" in result.reason


def test_small_input_does_not_pass_with_every_record_failed():
    _, result = run_of(Step(fails=set(range(10))), max_failed_ratio=0.1)

    assert result.state is JobState.FAILED_PROCESS_RECORDS


def test_ratio_counts_a_record_once_however_many_steps_it_passed():
    """Of 100 records 30 fail in the second step: 30 % of the first block of 10, not 30 of 200."""
    later = Step(fails=set(range(30)))
    job = job_of(Step(), later, max_failed_records=0, max_failed_ratio=0.2, minimum_sample=10, block_size=10)

    LocalRun(job, clock=FakeClock(tick_seconds=1)).run(numbers(100))

    assert len(later.seen) == 30


def test_explicit_count_holds_beside_the_ratio():
    step = Step(fails={0, 1, 2})
    _, result = run_of(step, count=100, limit=2, max_failed_ratio=0.5, minimum_sample=10)

    assert "max_failed_records=2" in result.reason
    assert len(step.seen) == 4


# --- rounds ---------------------------------------------------------------------------------------------------


def test_verdict_counts_the_latest_outcome_of_every_record():
    step = Step(fails={0, 1})
    run, result = run_of(step, limit=1)
    assert result.state is JobState.FAILED_PROCESS_RECORDS
    step.fails = {0}

    run.next_round()
    run.process_all()

    assert run.complete().state is JobState.SUCCESSFUL


def test_running_limit_counts_only_this_rounds_failures():
    """Two failed before; in the redrive one fails again, which alone is within the limit of 1."""
    step = Step(fails={0, 1})
    run, _ = run_of(step, limit=1, block_size=1)
    step.forget()
    step.fails = {1}

    run.next_round()
    run.process_all()
    result = run.complete()

    assert sorted(step.seen) == list(range(10))
    assert (result.state, result.failed_records) == (JobState.SUCCESSFUL, 1)

"""The job's own deadline: checked between blocks, over the round's time, with the clock turned by the test."""

from __future__ import annotations

from datetime import timedelta

import pytest

from batch_provider import BatchJob, InvalidOptionError, JobState, Records
from batch_provider.domain.errors import DeadlineExceededError, SourceError
from batch_provider.engine.process.process import ShardTask, process_shard
from batch_provider.testing import FakeClock, LocalRun


def slow_job(clock, on_sla, seconds=3, **options):
    with BatchJob("job", block_size=2, sla=timedelta(seconds=10), on_sla=on_sla, **options) as job:

        @job.step
        def work(record):
            clock.advance(seconds)

    return job.spec


def records(count):
    return [{"n": n} for n in range(count)]


def test_stop_ends_at_the_next_block_boundary_and_keeps_what_is_done():
    clock = FakeClock()

    result = LocalRun(slow_job(clock, "stop"), clock=clock).run(records(10))

    assert result.state is JobState.STOPPED
    assert (result.successful_records, result.not_run_records) == (4, 6)
    assert "deadline" in result.reason
    assert "Clear the failed tasks" in result.reason


def test_a_rerun_carries_on_and_its_time_runs_from_its_own_start():
    clock = FakeClock()
    run = LocalRun(slow_job(clock, "stop"), clock=clock)
    run.run(records(10))
    clock.advance(3_600)

    run.next_round()
    run.process_all()
    second = run.complete()
    run.next_round()
    run.process_all()
    third = run.complete()

    assert (second.state, second.successful_records) == (JobState.STOPPED, 8)
    assert (third.state, third.successful_records) == (JobState.SUCCESSFUL, 10)


class CrashError(RuntimeError):
    """Ends a task, as an outage does; the task is retried."""


def crashing_job(clock, crashes):
    """Takes a second a record; its task crashes as often as ``crashes`` says, before a block."""
    job = slow_job(clock, "stop", seconds=1)
    left = iter(range(crashes))

    def cancelled():
        clock.advance(4)
        if next(left, None) is not None:
            raise CrashError
        return False

    return job, cancelled


@pytest.mark.parametrize("rerun", [False, True])
def test_a_retry_does_not_start_the_time_anew(rerun):
    """Four seconds before each look: the third try of a round is over its ten seconds before it does anything."""
    clock = FakeClock()
    job, cancelled = crashing_job(clock, crashes=2)
    run = LocalRun(job, clock=clock)
    run.load(records(10))
    if rerun:
        run.complete()
        clock.advance(3_600)
        run.next_round()

    for _ in range(2):
        work = run.generation.claim("work", "01", run.info, job)
        with pytest.raises(CrashError):
            process_shard(ShardTask(job, job.step("work"), work, clock, cancelled=cancelled))
    work = run.generation.claim("work", "01", run.info, job)
    with pytest.raises(DeadlineExceededError, match="has passed after 0:00:12"):
        process_shard(ShardTask(job, job.step("work"), work, clock, cancelled=cancelled))


def test_a_retry_of_the_load_does_not_start_the_time_anew():
    clock = FakeClock()
    run = LocalRun(slow_job(clock, "stop"), clock=clock)

    def down():
        clock.advance(60)
        raise ConnectionError("the source is down")
        yield

    with pytest.raises(SourceError):
        run.load(Records(down()))
    run.load(records(2))

    run.process_all()

    assert "has passed after 0:01:00" in run.complete().reason


def test_a_load_that_was_cleared_starts_the_time_anew():
    clock = FakeClock()
    run = LocalRun(slow_job(clock, "stop"), clock=clock)
    run.load(records(2))
    clock.advance(60)

    run.next_round()

    assert run.run(records(2)).state is JobState.SUCCESSFUL


def test_alert_says_so_once_and_goes_on(caplog):
    clock = FakeClock()

    result = LocalRun(slow_job(clock, "alert"), clock=clock, shards=2).run(records(10))

    late = [record for record in caplog.records if record.message.startswith("LATE")]
    assert result.state is JobState.SUCCESSFUL
    assert len(late) == 1
    assert "on_sla='alert'" in late[0].message


def test_whoever_asked_is_told_once_a_round():
    clock = FakeClock()
    run = LocalRun(slow_job(clock, "alert"), clock=clock, shards=2)
    told = []
    for shard in run.load(records(10)):
        work = run.generation.claim("work", shard, run.info)
        process_shard(ShardTask(run.job, run.job.step("work"), work, clock, on_late=told.append))

    assert len(told) == 1
    assert "has passed" in told[0]


def test_in_time_nobody_is_told(caplog):
    clock = FakeClock()

    result = LocalRun(slow_job(clock, "alert", seconds=0.1), clock=clock).run(records(10))

    assert result.state is JobState.SUCCESSFUL
    assert not [record for record in caplog.records if "LATE" in record.message]


@pytest.mark.parametrize(
    ("sla", "on_sla", "option"),
    [
        pytest.param(timedelta(0), "stop", "sla", id="no time"),
        pytest.param(3600, "stop", "sla", id="a number"),
        pytest.param(timedelta(hours=1), "page", "on_sla", id="unknown action"),
    ],
)
def test_options_that_mean_nothing_are_refused(sla, on_sla, option):
    with pytest.raises(InvalidOptionError, match=option):
        BatchJob("job", sla=sla, on_sla=on_sla)

"""``max_failed_ratio`` beside malformed input, in redrives and in the verdict: judged against what was looked at."""

from __future__ import annotations

from datetime import timedelta

import pytest

from batch_provider import Files, JobState
from batch_provider.domain.errors import FailureLimitExceededError
from batch_provider.testing import FakeClock, LocalRun
from tests.builders import Step, job_of, numbers


def lines(tmp_path, count, bad):
    """A file of ``count`` NDJSON lines, of which ``bad`` are malformed: they come first."""
    path = tmp_path / "input.ndjson"
    path.write_text("".join("garbage\n" if n < bad else f'{{"n": {n}}}\n' for n in range(count)))
    return Files(str(path))


def job(*steps, ratio, sample=100, **options):
    options.setdefault("block_size", 100)
    return job_of(*steps, max_failed_records=0, max_failed_ratio=ratio, minimum_sample=sample, **options)


@pytest.mark.parametrize("shards", [1, 3])
def test_a_healthy_input_with_some_malformed_lines_is_not_stopped(tmp_path, shards):
    """1 % of the input: far more than 2 % of the first few hundred records that the steps finish."""
    step = Step()

    result = LocalRun(job(step, Step(), ratio=0.02), shards=shards).run(lines(tmp_path, 3_000, bad=30))

    assert (result.state, result.failed_records, len(step.seen)) == (JobState.SUCCESSFUL, 30, 2_970)


def test_more_malformed_lines_than_the_ratio_allows_stop_it_before_the_first_block(tmp_path):
    step = Step()

    result = LocalRun(job(step, ratio=0.02)).run(lines(tmp_path, 1_000, bad=21))

    assert (result.state, step.seen) == (JobState.FAILED_PROCESS_RECORDS, [])
    assert result.reason == (
        "21 of 1,000 loaded records failed, more than max_failed_ratio=0.02 allows. Look at the error table, then put "
        "the input right and clear the load task with Downstream, or raise the limit."
    )


def test_failures_of_input_and_steps_add_up_while_it_runs_as_they_do_in_the_verdict(tmp_path):
    """1 % and 1.5 %: each alone is within 2 %, together they never are."""
    fails = Step(fails=set(range(0, 1_000, 66)))

    result = LocalRun(job(fails, ratio=0.02, sample=500)).run(lines(tmp_path, 1_000, bad=10))

    assert (result.state, len(fails.seen)) == (JobState.FAILED_PROCESS_RECORDS, 500)
    assert result.reason.startswith("10 of 1,000 loaded records and 8 of 500 finished failed, more than")


def test_the_message_says_of_how_many():
    run = LocalRun(job(Step(fails=set(range(0, 3_000, 12))), ratio=0.08, sample=1_000))
    run.load(numbers(3_000))

    with pytest.raises(FailureLimitExceededError, match=r"^84 of 1,000 finished records failed, more than max_failed_"):
        run.process(run.job.steps[0], "01")
    assert run.complete().reason.startswith("84 of 1,000 finished records failed, more than max_failed_ratio=0.08")


@pytest.mark.parametrize("bad", [0, 20])
def test_a_redrive_of_a_limited_instance_makes_progress(tmp_path, bad):
    step = Step(fails=set(range(100)))
    run = LocalRun(job(step, ratio=0.05))
    first = run.run(lines(tmp_path, 2_000, bad=bad))
    assert (first.state, first.not_run_records) == (JobState.FAILED_PROCESS_RECORDS, 1_900 - bad)
    step.forget()
    step.fails = set()

    run.next_round()
    run.process_all()
    result = run.complete()

    assert (result.state, result.failed_records) == (JobState.SUCCESSFUL, bad)
    assert len(step.seen) == 2_000 - bad


def test_a_redrive_of_one_shard_is_judged_by_the_whole_instance():
    """143 of 2,000 records are within 10 %, also when only their shard is cleared and all of them fail again."""
    step = Step(fails=set(range(1_000, 2_000, 7)))
    run = LocalRun(job(step, ratio=0.1), shards=2)
    assert run.run(numbers(2_000)).state is JobState.SUCCESSFUL
    step.forget()

    run.next_round()
    run.process(run.job.steps[0], "02")
    result = run.complete()

    assert (result.state, result.failed_records, len(step.seen)) == (JobState.SUCCESSFUL, 143, 143)


def test_a_stop_is_no_exceeded_ratio_because_of_malformed_lines(tmp_path):
    """The verdict of a stopped instance judges each failure as the running tasks did."""
    clock = FakeClock()
    slow = Step(returns=lambda record: clock.advance(0.01))
    options = {"sla": timedelta(seconds=2), "on_sla": "stop"}

    result = LocalRun(job(slow, ratio=0.02, **options), clock=clock).run(lines(tmp_path, 3_000, bad=30))

    assert (result.state, result.failed_records) == (JobState.STOPPED, 30)
    assert 0 < result.successful_records < 1_000


def test_a_ratio_is_the_number_that_is_written():
    """0.29 * 100 is a little less than 29."""
    result = LocalRun(job(Step(fails=set(range(29))), ratio=0.29, sample=1)).run(numbers(100))

    assert result.state is JobState.SUCCESSFUL

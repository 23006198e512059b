"""How an attempt ended: the same for every kind of step, and told wherever somebody asks for it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from batch_provider import BatchJob, JobState, SqlTable
from batch_provider.domain.errors import (
    BatchError,
    CheckpointMissingError,
    FailureLimitExceededError,
    InvalidExpressionError,
    JobFailedError,
    StopProcessingError,
    StorageError,
)
from batch_provider.domain.limits import FailureLimit
from batch_provider.domain.outcome import CloseOutcome
from batch_provider.engine.complete.report import render_report
from batch_provider.engine.process.process import ShardTask, process_shard
from batch_provider.engine.process.stream import StreamTask, process_stream
from batch_provider.notifications.facts import AlertFacts
from batch_provider.notifications.message import compose
from batch_provider.sources.access import LocalAccess
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.testing import FakeClock, Fault, Faults, FaultyBlobs, LocalRun, raising
from tests.builders import Killed, Step, job_of, numbers, outcomes


def ended(run, step="s1", shard="01"):
    """How the latest attempt ended, and why."""
    _, close = run.generation.latest(step, shard)
    return (close.outcome, close.reason) if close else None


# --- streaming aggregators ------------------------------------------------------------------------------------


def streaming(fails=(), **options):
    """A step that fails some records, then a stream; it can be told to stop in its call."""
    run_of: list[LocalRun] = []
    with BatchJob("job", block_size=2, **{"max_failed_records": -1, **options}) as job:
        checked = job.step(name="s1")(Step(fails=set(fails)))

        @job.aggregator("s2", streaming=True)
        def s2(records):
            taken = [record["n"] for record in records]
            if "stop" in asked:
                run_of[0].store.request_stop("the bank is closed")
            return None if taken else taken

    asked: set[str] = set()
    run_of.append(LocalRun(job.spec, shards=2, clock=FakeClock(tick_seconds=1)))
    return run_of[0], checked, asked


def test_a_stop_in_the_redrive_of_a_stream_reads_stopped():
    run, step, asked = streaming(fails=[1])
    assert run.run(numbers(8)).state is JobState.SUCCESSFUL
    step.fails = set()
    asked.add("stop")

    run.next_round()
    run.process_all()
    stopped = run.complete()
    asked.clear()
    run.next_round()
    run.process_all()
    done = run.complete()

    assert (stopped.state, "the bank is closed" in stopped.reason) == (JobState.STOPPED, True)
    assert (done.state, done.successful_records) == (JobState.SUCCESSFUL, 8)


@pytest.mark.parametrize("again", [False, True])
def test_a_limit_before_the_call_of_a_stream_is_closed_as_limited(again):
    """The step before was run under a higher limit than the stream is."""
    run, _, _ = streaming(fails=[0, 1, 2])
    if again:
        run.run(numbers(8))
        run.next_round()
    else:
        run.load(numbers(8))
    for shard in ("01", "02"):
        run.process(run.job.step("s1"), shard)
    run.job = replace(run.job, limit=FailureLimit(2))

    with pytest.raises(FailureLimitExceededError):
        run.stream(run.job.step("s2"))
    result = run.complete()

    for shard in ("01", "02"):
        assert ended(run, "s2", shard)[0] is CloseOutcome.LIMITED
    assert (result.state, "3 records failed" in result.reason) == (JobState.FAILED_PROCESS_RECORDS, True)


def test_a_stream_that_cannot_claim_every_shard_says_so_in_those_it_has():
    run, _, _ = streaming()
    run.load(numbers(8))
    run.process(run.job.step("s1"), "01")

    with pytest.raises(CheckpointMissingError):
        run.stream(run.job.step("s2"))

    outcome, reason = ended(run, "s2", "01")
    assert (outcome, reason.partition(":")[0]) == (CloseOutcome.FAILED, "CheckpointMissingError")
    run.process(run.job.step("s1"), "02")
    run.stream(run.job.step("s2"))
    assert run.complete().state is JobState.SUCCESSFUL


# --- errors ---------------------------------------------------------------------------------------------------


@pytest.fixture
def wrong_column(tmp_path):
    """A job that writes a column which its table does not have."""
    path = tmp_path / "warehouse.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE t (n INTEGER PRIMARY KEY)")
    job = BatchJob("job", max_failed_records=-1)
    job.write("store", SqlTable("warehouse", "t", columns=["n", "amuont"], key=["n"]))
    run = LocalRun(job.spec, access=LocalAccess({"warehouse": lambda: sqlite3.connect(path)}))
    run.load([{"n": n, "amuont": 1} for n in range(3)])
    with pytest.raises(BatchError) as caught:
        run.process(run.job.step("store"), "01")
    return run, caught.value


def test_the_error_that_ended_an_attempt_is_in_its_close_and_in_the_report(wrong_column):
    run, error = wrong_column

    outcome, reason = ended(run, "store")
    result = run.complete()

    assert (outcome, reason) == (CloseOutcome.FAILED, f"{type(error).__name__}: {error}")
    assert "amuont" in reason
    assert result.state is JobState.FAILED_PROCESS_RECORDS
    assert result.reason.startswith("Step 'store' of shard 01 did not finish: ")
    assert reason.removesuffix(".") in result.reason
    assert reason[:60] in render_report(result)
    assert run.query("SELECT outcome, reason FROM attempts") == [("failed", reason)]


def test_the_error_that_ended_an_attempt_is_in_the_alert(wrong_column):
    run, error = wrong_column
    context = {"ti": {"task_id": "job.on_complete"}, "exception": JobFailedError(run.complete())}

    message = compose(AlertFacts.from_context(context), "batch", None, lambda text: text)

    assert str(error)[:100] in message.text


@pytest.mark.parametrize("kind", ["record", "sql", "arrow", "aggregator", "stream"])
@pytest.mark.parametrize("moment", ["put:before */steps/*", "put:after */steps/*"])
def test_an_outage_ends_every_kind_of_step_alike_and_a_retry_goes_on(kind, moment):
    job = BatchJob("job", block_size=2, max_failed_records=-1)
    seen = []

    def take(records):
        seen.extend(record["n"] for record in records)

    {
        "record": lambda: job.step(name="s1")(lambda record: take([record])),
        "sql": lambda: job.sql_step("s1", assign={"m": "n + 1"}),
        "arrow": lambda: job.arrow_step(name="s1")(lambda block: block),
        "aggregator": lambda: job.aggregator("s1", size=2)(take),
        "stream": lambda: job.aggregator("s1", streaming=True)(take),
    }[kind]()
    down = StorageError("write", "/data/x", "the disk is full; free some space")
    store = FaultyBlobs(MemoryBlobs(), Faults(Fault(action=raising(down), at=moment, skip=kind != "stream")))
    run = LocalRun(job.spec, store=store)
    run.load(numbers(8))

    with pytest.raises(StorageError):
        run.stream(run.job.step("s1")) if kind == "stream" else run.process(run.job.step("s1"), "01")
    assert ended(run) == (CloseOutcome.FAILED, f"StorageError: {down}")
    run.process_all()  # the same round: a retry

    result = run.complete()
    assert (result.state, result.successful_records, result.step("s1").attempts) == (JobState.SUCCESSFUL, 8, 2)
    assert set(seen) in (set(), set(range(8)))
    assert len(seen) <= (16 if kind == "stream" else 10)


def test_a_retry_after_an_error_leaves_failed_records_failed_and_a_clear_does_not():
    step = Step(fails={0})
    down = StorageError("write", "/data/x", "the disk is full; free some space")
    store = FaultyBlobs(MemoryBlobs(), Faults(Fault(action=raising(down), at="put:before */steps/*", skip=1, times=2)))
    run = LocalRun(job_of(step, block_size=2), store=store)
    run.load(numbers(4))
    for _ in range(2):
        with pytest.raises(StorageError):
            run.process(run.job.steps[0], "01")
    assert step.forget() == [0, 1, 2, 3, 2, 3]

    run.process(run.job.steps[0], "01")
    assert step.forget() == [2, 3]
    assert outcomes(run, "s1")[0] == "FAILED"

    step.fails = set()
    run.next_round()
    run.process(run.job.steps[0], "01")
    assert step.seen == [0]


def test_an_error_before_the_first_block_is_told_too():
    run = LocalRun(job_of((Step(), {"accept_expression": "n.amount > 1"})))
    run.load(numbers(4))

    with pytest.raises(InvalidExpressionError):
        run.process(run.job.steps[0], "01")

    assert ended(run)[1].startswith("InvalidExpressionError: ")
    assert "n.amount" in run.complete().reason


def test_the_error_comes_before_steps_that_never_started():
    run = LocalRun(job_of((Step(), {"accept_expression": "n.amount > 1"}), Step()), shards=2)
    run.load(numbers(4))
    with pytest.raises(InvalidExpressionError):
        run.process(run.job.steps[0], "02")

    assert run.complete().reason.startswith(
        "Step 's1' of shard 02 (and 3 more) did not finish: InvalidExpressionError: "
    )


def test_a_store_that_takes_no_close_does_not_hide_what_ended_the_attempt(caplog):
    down = StorageError("write", "/data/x", "the disk is full; free some space")
    faults = Faults(
        Fault(action=raising(down), at="put:before */steps/*"),
        Fault(action=raising(StorageError("write", "/data/y", "still full")), at="put:before */attempts/*"),
    )
    run = LocalRun(job_of(Step()), store=FaultyBlobs(MemoryBlobs(), faults))
    run.load(numbers(4))

    with pytest.raises(StorageError, match="/data/x"):
        run.process(run.job.steps[0], "01")

    assert ended(run) is None
    assert "stays open: StorageError: Cannot write /data/y" in caplog.text
    run.process(run.job.steps[0], "01")
    assert run.complete().state is JobState.SUCCESSFUL


class TimeIsUp(BaseException):
    """Stands for Airflow's execution_timeout, which is no Exception."""


@pytest.mark.parametrize("kind", ["shard", "stream"])
@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        pytest.param(TimeIsUp("after 5 s"), (CloseOutcome.FAILED, "TimeIsUp: after 5 s"), id="time limit"),
        pytest.param(Killed(), None, id="kill"),
    ],
)
def test_a_time_limit_of_the_task_is_told_and_a_kill_cannot_be(kind, raised, expected):
    def end(records):
        raise raised

    job = BatchJob("job")
    job.aggregator("s1", size=2 if kind == "shard" else None, streaming=kind == "stream")(end)
    run = LocalRun(job.spec)
    run.load(numbers(4))
    work = run.generation.claim("s1", "01", run.info, run.job)
    step, clock = run.job.step("s1"), run.clock
    task = {
        "shard": lambda: process_shard(ShardTask(run.job, step, work, clock, interruptions=(TimeIsUp,))),
        "stream": lambda: process_stream(StreamTask(run.job, step, [work], clock, interruptions=(TimeIsUp,))),
    }[kind]

    with pytest.raises(type(raised)):
        task()
    assert ended(run) == expected


def test_what_has_ended_is_not_ended_again():
    """The last block trips the limit: all is done, the task fails, and the close says done."""
    run = LocalRun(job_of(Step(fails={3}), max_failed_records=0, block_size=2))
    run.load(numbers(4))

    with pytest.raises(StopProcessingError):
        run.process(run.job.steps[0], "01")

    assert ended(run) == (CloseOutcome.DONE, "")
    assert [close.outcome for close in run.generation.attempts("s1", "01")] == ["done"]

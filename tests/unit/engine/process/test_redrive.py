"""A redrive does again what failed or never ran, and keeps the rest; also when it is killed or stopped itself."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_provider import BatchJob, JobState
from batch_provider.domain.errors import StopRequestedError
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.storage.blobs.protocol import put_json
from batch_provider.testing import FakeClock, LocalRun
from tests.builders import DyingBlobs, Killed, Step, checkpoint_files, failures, job_of, numbers, with_outcome
from tests.unit.engine.attempts import die, last_attempt, loaded, process

# --- redrive --------------------------------------------------------------------------------------------------


def test_redrive_calls_only_failed_records_again():
    step = Step(fails={1, 5, 9})
    run, _ = loaded(step)
    process(run)
    assert run.complete().failed_records == 3
    step.forget()
    step.fails = {5}

    run.next_round()
    process(run)
    result = run.complete()

    assert step.seen == [1, 5, 9]
    assert (result.successful_records, result.failed_records) == (9, 1)
    assert failures(run) == [(5, "s1", "ValueError", "record 5 is bad")]
    assert last_attempt(run).tally.processed == 3


def test_redrive_keeps_what_succeeded_although_the_code_changed():
    step = Step(fails={1}, returns=lambda record: {"by": "old"})
    run, _ = loaded(step)
    run.process_all()
    step.fails, step.returns = set(), lambda record: {"by": "new"}

    run.next_round()
    run.process_all()

    assert [record["by"] for record in run.output()] == ["old", "new", *["old"] * 8]


def test_redrive_gives_a_record_the_payload_it_had_there():
    payloads = []

    def step(record, record_id):
        payloads.append(dict(record))
        if record_id == 1 and len(payloads) < 5:
            raise ValueError("bad")
        return {"n": -1}

    run, _ = loaded(Step(returns=lambda record: {"n": record["n"] * 10}), step, count=4)
    run.process_all()
    payloads.clear()
    payloads.extend([{}] * 5)
    run.next_round()
    process(run, "s1")
    process(run, "s2")

    assert payloads[5:] == [{"n": 10}]
    assert [record["n"] for record in run.output()] == [-1, -1, -1, -1]


def test_later_steps_take_only_what_is_new():
    first, second, third = Step(fails={2, 6}), Step(), Step()
    run, _ = loaded(first, second, third)
    run.process_all()
    run.complete()
    for step in (first, second, third):
        step.forget()
    first.fails = {6}

    run.next_round()
    run.process_all()
    result = run.complete()

    assert (first.seen, second.seen, third.seen) == ([2, 6], [2], [2])
    assert (result.successful_records, result.failed_records) == (9, 1)
    assert with_outcome(run, "s2", "SKIPPED") == {6}


def test_redrive_of_a_later_step_leaves_the_earlier_one_alone():
    first, second = Step(), Step(fails={3})
    run, _ = loaded(first, second)
    run.process_all()
    run.complete()
    first.forget()
    second.forget()
    second.fails = set()

    run.next_round()
    process(run, "s2")
    result = run.complete()

    assert (first.seen, second.seen) == ([], [3])
    assert result.failed_records == 0


def test_redrive_without_the_later_step_is_no_success():
    first = Step(fails={2})
    run, _ = loaded(first, Step())
    run.process_all()
    run.complete()
    first.fails = set()
    run.next_round()
    process(run, "s1")

    result = run.complete()

    assert result.state is JobState.FAILED_PROCESS_RECORDS
    assert (result.successful_records, result.not_run_records) == (9, 1)
    assert with_outcome(run, "s2", "NOT_RUN") == {2}
    assert result.reason == (
        "1 record processed again by a step and not yet by the steps after it. Clear step 's2' with Downstream."
    )


def test_redrive_heals_at_any_number_of_rounds():
    step = Step(fails={0, 3, 6, 9})
    run, _ = loaded(step)
    run.process_all()
    run.complete()
    for healed in (0, 3, 6, 9):
        step.fails.discard(healed)
        run.next_round()
        run.process_all()
        result = run.complete()
        assert result.failed_records == len(step.fails)
    assert result.successful_records == 10


def test_killed_redrive_is_resumed_where_it_was():
    step = Step(fails={1, 5, 9})
    run, _ = loaded(step)
    run.process_all()
    run.complete()
    step.forget()
    step.fails = {5}
    step.dies_at = 9

    run.next_round()
    die(run)
    assert step.forget() == [1, 5]
    process(run)
    result = run.complete()

    assert step.seen == [9]
    assert (result.successful_records, result.failed_records) == (9, 1)


def test_killed_redrive_of_a_later_step_is_resumed_where_it_was():
    first, second = Step(fails={1, 5, 9}), Step()
    run, _ = loaded(first, second)
    run.process_all()
    run.complete()
    first.fails = set()
    second.forget()
    second.dies_at = 9

    run.next_round()
    process(run, "s1")
    die(run, "s2")
    process(run, "s2")
    result = run.complete()

    assert second.seen == [1, 5, 9]
    assert result.successful_records == 10


def test_redrive_after_a_stop_does_the_failed_and_the_rest():
    step = Step(fails={1})
    run, _ = loaded(step, max_failed_records=0)
    run.process_all()
    assert run.complete().not_run_records == 6
    step.forget()
    step.fails = set()

    run.next_round()
    run.process_all()
    result = run.complete()

    assert sorted(step.seen) == [1, 4, 5, 6, 7, 8, 9]
    assert (result.state, result.successful_records) == (JobState.SUCCESSFUL, 10)


@pytest.mark.parametrize("block_size", [1, 5, 8])
@pytest.mark.parametrize("healed", [{1, 4, 7}, {4}, set()], ids=["all heal", "one heals", "none heals"])
def test_variables_and_text_kept_aside_survive_a_redrive(healed, block_size):
    heals, seen = set(), {}

    def step(record, record_id, variables):
        if record["t"] == "x" and record_id not in heals:
            raise ValueError("bad")
        variables["seen"] = record_id
        return {"t": 7 if record["t"] == "x" else int(record["t"])}

    def last(record, record_id, variables):
        seen[record_id] = (record["t"], variables.get("seen"))

    run = LocalRun(job_of(step, (last, {"accept_policy": "ALL"}), block_size=block_size))
    run.load([{"t": "x" if n % 3 == 1 else str(n)} for n in range(8)])
    run.process_all()
    assert seen == {n: ("x", None) if n % 3 == 1 else (n, n) for n in range(8)}

    heals |= healed
    run.next_round()
    run.process_all()

    expected = {n: ("x" if n % 3 == 1 else n, None if n % 3 == 1 else n) for n in range(8)}
    expected |= {n: (7, n) for n in healed}
    assert seen == expected
    assert run.output() == [{"t": expected[n][0]} for n in range(8)]


def test_column_that_was_dropped_does_not_come_back_in_a_redrive():
    """Step 2's block covers two blocks of step 1, of which one is made again."""
    blobs = MemoryBlobs()
    run = LocalRun(job_of(Step(), (Step(), {"drop": ["a"]}), block_size=4), store=blobs)
    run.load([{"a": n, "n": n} for n in range(8)])
    process(run, "s1")
    wide = LocalRun(job_of(Step(), (Step(), {"drop": ["a"]}), block_size=8), store=blobs)
    process(wide, "s2")
    assert wide.output() == numbers(8)
    blobs.delete(checkpoint_files(blobs, run, "s1")[0])

    run.next_round()
    wide.next_round()
    process(run, "s1")
    process(wide, "s2")

    assert [record.get("a") for record in wide.output()] == [None] * 8
    assert [record["n"] for record in wide.output()] == list(range(8))


def test_redrive_does_not_change_the_values_of_records_it_keeps():
    values = {1: 10, 2: "text"}
    step = Step(fails={2}, returns=lambda record: {"v": values[record["n"]]})
    run = LocalRun(job_of(step))
    run.load([{"n": 1}, {"n": 2}, {"n": 2}])
    step.fails = {1, 2}
    run.process_all()
    step.fails = set()
    run.next_round()
    run.process_all()

    assert run.output()[0]["v"] == 10


def test_retry_fails_the_same_records_as_an_attempt_that_was_not_killed():
    values = [1, "x", 2]
    step = Step(returns=lambda record: {"v": values[record["n"]]}, dies_at=1)
    run, _ = loaded(step, count=3, block_size=1)
    die(run)
    process(run)

    assert [failure[0] for failure in failures(run)] == [1]


def test_type_changed_in_one_block_only_is_the_type_of_those_records():
    seen = []
    blobs = MemoryBlobs()
    first = (lambda record: {"t": int(record["t"])}, {"accept_expression": lambda record: record["t"] > "4"})
    run = LocalRun(job_of(first, seen.append, block_size=5), store=blobs)
    run.load([{"t": str(n)} for n in range(10)])
    process(run, "s1")
    process(LocalRun(job_of(first, seen.append, block_size=10), store=blobs), "s2")

    assert [record["t"] for record in seen] == ["0", "1", "2", "3", "4", 5, 6, 7, 8, 9]


# --- a stopped redrive ----------------------------------------------------------------------------------------


def redriven_and_stopped(end):
    first, second = Step(fails={1, 9}), Step()
    run, blobs = loaded(first, second, clock=FakeClock(tick_seconds=1))
    run.process_all()
    run.complete()
    first.fails = set()
    run.next_round()
    if end == "killed":
        first.dies_at = 9
        die(run)
    else:
        stop = f"{run.generation.base}/stop/x.json"
        first.returns = lambda record: put_json(blobs, stop, {"reason": "maintenance"})
        with pytest.raises(StopRequestedError):
            process(run)
    return run, first, second


@pytest.mark.parametrize("end", ["killed", "stopped"])
def test_unfinished_redrive_leaves_records_not_run_in_later_steps(end):
    run, _, _ = redriven_and_stopped(end)

    result = run.complete()

    assert result.state is (JobState.STOPPED if end == "stopped" else JobState.FAILED_PROCESS_RECORDS)
    assert (result.successful_records, result.failed_records, result.not_run_records) == (8, 1, 1)
    assert with_outcome(run, "s2", "NOT_RUN") == {1}
    assert run.query("SELECT outcome, count(*) FROM records GROUP BY 1 ORDER BY 1") == [
        ("FAILED", 1),
        ("NOT_RUN", 1),
        ("SUCCEEDED", 8),
    ]


def test_unfinished_redrive_of_the_later_step_leaves_its_rest_not_run():
    first, second = Step(fails={1, 9}), Step()
    run, _ = loaded(first, second)
    run.process_all()
    run.complete()
    first.fails = set()
    second.dies_at = 9
    run.next_round()
    process(run, "s1")
    die(run, "s2")

    result = run.complete()

    assert (result.successful_records, result.failed_records, result.not_run_records) == (9, 0, 1)
    assert with_outcome(run, "s2", "NOT_RUN") == {9}


def test_errors_of_rows_that_do_not_count_any_more_are_in_no_report():
    first, second = Step(), Step(fails={1, 5})
    run, blobs = loaded(first, second, Step())
    run.process_all()
    run.complete()
    blobs.delete(checkpoint_files(blobs, run, "s1")[0])
    run.next_round()
    process(run, "s1")

    result = run.complete()

    assert (result.failed_records, result.not_run_records) == (1, 4)
    assert [(error.step, error.count) for error in result.errors] == [("s2", 1)]
    assert [failure[0] for failure in failures(run)] == [5]
    (dead,) = result.dead_letters
    assert pq.read_table(pa.BufferReader(blobs.get(f"{run.generation.base}/{dead}")))["_id"].to_pylist() == [5]


@pytest.mark.parametrize("end", ["killed", "stopped"])
def test_unfinished_redrive_can_be_finished_by_the_next(end):
    run, first, second = redriven_and_stopped(end)
    first.returns, first.dies_at = None, None
    second.forget()
    run.store.blobs.delete(f"{run.generation.base}/stop/x.json")

    run.next_round()
    run.process_all()
    result = run.complete()

    assert second.seen == [1, 9]
    assert (result.state, result.successful_records) == (JobState.SUCCESSFUL, 10)


# --- a streaming aggregator -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dies", ["in the call", "at the first checkpoint", "at the last checkpoint"])
def test_killed_redrive_of_a_stream_gets_again_only_what_is_new(dies):
    first, later, calls = Step(fails={1, 8}), Step(), []
    blobs = DyingBlobs()
    job = BatchJob("job", max_failed_records=-1)
    job.step(name="s1")(first)

    @job.aggregator(streaming=True)
    def stream(records):
        calls.append([record["n"] for record in records])
        if dying:
            blobs.left = {"at the first checkpoint": 0, "at the last checkpoint": 1}.get(dying.pop())
            if blobs.left is None:
                raise Killed

    job.step(name="s3")(later)
    dying = []
    run = LocalRun(job.spec, store=blobs, shards=2)
    run.run(numbers(10))
    first.fails = set()
    later.forget()
    calls.clear()
    dying.append(dies)

    run.next_round()
    with pytest.raises(Killed):
        run.process_all()
    run.process_all()
    result = run.complete()

    assert calls == [[1, 8], [1, 8]]
    assert later.seen == [1, 8]
    assert result.successful_records == 10


def test_an_attempt_killed_twice_makes_again_what_the_step_before_made_again_in_between():
    first, second = Step(fails={0}), Step(dies_at=5)
    # two deaths at one place would have the third attempt work in a child process, whose calls are not seen here
    run, _ = loaded(first, (second, {"accept_policy": "ALL"}), max_process_deaths=9)
    process(run, "s1")
    die(run, "s2")
    first.fails = set()
    run.next_round()
    process(run, "s1")
    second.dies_at = 5
    die(run, "s2")
    second.forget()

    process(run, "s2")

    assert 0 in second.seen
    assert run.complete().is_successful

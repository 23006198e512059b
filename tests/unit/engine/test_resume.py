"""A killed attempt, a retry, a redrive, a damaged file, two attempts at once: nothing is lost or done twice."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_provider import BatchJob, JobState
from batch_provider.domain.errors import (
    CheckpointMissingError,
    CorruptCheckpointError,
    DataLossError,
    FencedError,
    StopRequestedError,
)
from batch_provider.domain.layout import ClaimId, FileRef, Span
from batch_provider.domain.outcome import CloseOutcome
from batch_provider.engine.process import ShardTask, process_shard
from batch_provider.storage.blobs import LocalBlobs, MemoryBlobs, put_json
from batch_provider.storage.checkpoints import Footer, encode, open_checkpoint
from batch_provider.testing import FakeClock, LocalRun
from tests.builders import (
    DyingBlobs,
    Killed,
    Step,
    checkpoint_files,
    failures,
    job_of,
    numbers,
    outcomes,
    spans,
    with_outcome,
)


def loaded(*steps, count=10, clock=None, shards=None, **options):
    """A loaded job, and its store."""
    options.setdefault("block_size", 4)
    blobs = MemoryBlobs()
    run = LocalRun(job_of(*steps, **options), store=blobs, clock=clock, shards=shards)
    run.load(numbers(count))
    return run, blobs


def process(run, step="s1", shard="01"):
    run.process(run.job.step(step), shard)


def die(run, step="s1", shard="01"):
    with pytest.raises(Killed):
        process(run, step, shard)


def last_attempt(run, step="s1", shard="01"):
    return run.generation.attempts(step, shard)[-1]


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


# --- damaged files --------------------------------------------------------------------------------------------


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def empty(path):
    path.write_bytes(b"")


def replace_by_another(path):
    path.write_bytes(b"PAR1 something else PAR1")


def delete(path):
    path.unlink()


DAMAGES = [flip, truncate, empty, replace_by_another, delete]


def on_disk(tmp_path, *steps, **options):
    options.setdefault("block_size", 4)
    blobs = LocalBlobs(tmp_path)
    run = LocalRun(job_of(*steps, **options), store=blobs)
    run.load(numbers(10))
    return run, blobs


def file_of(tmp_path, blobs, run, step, index):
    return tmp_path / checkpoint_files(blobs, run, step)[index]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_checkpoint_is_not_adopted_by_a_retry(tmp_path, damage):
    step = Step(fails={1}, dies_at=9)
    run, blobs = on_disk(tmp_path, step)
    die(run)
    step.forget()
    damage(file_of(tmp_path, blobs, run, "s1", 0))

    process(run)
    result = run.complete()

    assert sorted(step.seen) == [0, 1, 2, 3, 8, 9]
    assert (result.successful_records, result.failed_records) == (9, 1)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_checkpoint_is_made_again_by_a_redrive(tmp_path, damage):
    first, second = Step(returns=lambda record: {"n": record["n"] + 1}), Step()
    run, blobs = on_disk(tmp_path, first, second)
    run.process_all()
    run.complete()
    first.forget()
    second.forget()
    damage(file_of(tmp_path, blobs, run, "s1", 1))

    run.next_round()
    run.process_all()
    result = run.complete()

    assert (first.seen, second.seen) == ([4, 5, 6, 7], [4, 5, 6, 7])
    assert result.successful_records == 10
    assert [record["n"] for record in run.output()] == list(range(1, 11))


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_checkpoint_is_a_clear_error_on_complete(tmp_path, damage):
    run, blobs = on_disk(tmp_path, Step(fails={5}))
    run.process_all()
    path = file_of(tmp_path, blobs, run, "s1", 1)
    damage(path)

    with pytest.raises(CorruptCheckpointError, match="Clear the task of the step that wrote it") as caught:
        run.complete()

    assert str(path) in str(caught.value)
    assert run.store.result() is None


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_upstream_checkpoint_is_a_clear_error_for_the_next_step(tmp_path, damage):
    run, blobs = on_disk(tmp_path, Step(), Step())
    process(run, "s1")
    damage(file_of(tmp_path, blobs, run, "s1", 2))

    with pytest.raises(CorruptCheckpointError, match="is damaged"):
        process(run, "s2")


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_input_is_a_clear_error(tmp_path, damage):
    run, blobs = on_disk(tmp_path, Step())
    directory = f"{run.generation.base}/input"
    damage(tmp_path / directory / blobs.files(directory)[0])

    with pytest.raises(CorruptCheckpointError, match=r"is damaged: .* clear the load task with Downstream"):
        process(run)


# --- manipulated files ----------------------------------------------------------------------------------------


def forge(run, blobs, change, step="s1", index=0):
    """Write a checkpoint again with other rows, under a name and digest that fit, and name it in the close."""
    generation = run.generation
    close = generation.attempts(step, "01")[-1]
    old = close.files[index]
    directory = f"{generation.base}/steps/{step}/01"
    opened = open_checkpoint(blobs, f"{directory}/{old.name}", old)
    rows = change(opened.read(opened.columns))
    buffer, digest = encode(rows, Footer(step, opened.footer.owners, opened.footer.tally))
    new = FileRef(old.span, old.claim, digest)
    blobs.put(f"{directory}/{new.name}", buffer)
    files = [new if file == old else file for file in close.files]
    path = f"{generation.base}/attempts/{step}/01/{close.claim}.json"
    put_json(blobs, path, {**close.to_json(), "files": [file.name for file in files]})


def with_column(table, name, values):
    return table.set_column(table.column_names.index(name), name, [values])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda t: t.slice(1), "a file of step 's1' does not hold its ids", id="a row is missing"),
        pytest.param(lambda t: t.take([0, 0, 2, 3]), "does not hold its ids", id="a row stands twice"),
        pytest.param(lambda t: t.take([1, 0, 2, 3]), "does not hold its ids", id="rows change places"),
        pytest.param(lambda t: t.slice(0, 0), "does not hold its ids", id="no rows"),
        pytest.param(
            lambda t: with_column(t, "_in", pa.array([7] * 4, pa.int32())),
            "was made from an earlier output of the step before (record ids 0, 1, 2, 3)",
            id="another upstream",
        ),
        pytest.param(
            lambda t: with_column(t, "_status", pa.array([1, 9, 1, 1], pa.uint8())),
            "does not agree with the step before on which records have failed (record ids 1)",
            id="failed before, it says",
        ),
    ],
)
def test_manipulated_checkpoint_is_data_loss(change, message):
    run, blobs = loaded(Step())
    run.process_all()
    forge(run, blobs, change)

    with pytest.raises(DataLossError) as caught:
        run.complete()

    assert message in str(caught.value)


def test_done_attempt_that_misses_a_file_is_data_loss():
    run, blobs = loaded(Step())
    run.process_all()
    close = last_attempt(run)
    path = f"{run.generation.base}/attempts/s1/01/{close.claim}.json"
    put_json(blobs, path, {**close.to_json(), "files": [file.name for file in close.files[1:]]})

    with pytest.raises(DataLossError, match="says it is done, but records are missing"):
        run.complete()


@pytest.mark.parametrize("part", ["shards", "files"])
def test_manifest_that_does_not_cover_its_records_is_data_loss(part):
    run, blobs = loaded(Step(), shards=2)
    run.process_all()
    manifest = run.generation.manifest.to_json()
    put_json(blobs, f"{run.generation.base}/manifest.json", {**manifest, part: manifest[part][1:]})

    with pytest.raises(DataLossError, match=r"its (shards|input files) do not cover 10 records"):
        run.complete()


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

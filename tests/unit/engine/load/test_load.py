"""Load and dispatch: all or nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pytest

from batch_provider import Files, JobState
from batch_provider.domain.errors import (
    DuplicateInstanceError,
    SourceError,
    StorageError,
    TooFewRecordsError,
    TooManyRecordsError,
    UnsupportedPayloadError,
)
from batch_provider.engine.load.load import RECORDS_PER_SHARD, default_shards
from batch_provider.engine.ports.store import MalformedRecord
from batch_provider.storage.blobs.local import LocalBlobs
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.testing import FakeClock, LocalRun
from tests.builders import Killed, Step, failures, job_of, numbers, outcomes


@dataclass
class Pieces:
    """A source that yields these pieces; an exception among them is raised."""

    pieces: list[Any] = field(default_factory=list)

    def describe(self):
        return "pieces"

    def read(self, access):
        for piece in self.pieces:
            if isinstance(piece, BaseException):
                raise piece
            yield piece


def batch(*values, name="n"):
    return pa.RecordBatch.from_arrays([pa.array(values)], [name])


def bad(line, text="garbage"):
    return MalformedRecord(line, text, "MalformedRecord", f"line {line} is no record")


def everything_in(blobs, directory=""):
    found = [f"{directory}/{name}".lstrip("/") for name in blobs.files(directory)]
    for name in blobs.directories(directory):
        found += everything_in(blobs, f"{directory}/{name}".lstrip("/"))
    return found


def run_of(*steps, blobs=None, **options):
    return LocalRun(job_of(*(steps or (Step(),)), **options), store=blobs or MemoryBlobs())


# --- all or nothing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "state"),
    [
        pytest.param(SourceError("pieces", "the line is cut."), JobState.FAILED_INPUT, id="the source"),
        pytest.param(UnsupportedPayloadError("A thing", "a list"), JobState.FAILED_INPUT, id="the payload"),
        pytest.param(RuntimeError("a bug"), JobState.FAILED_LOADING, id="a bug"),
    ],
)
@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_source_that_raises_in_the_middle_leaves_nothing_to_read(tmp_path, error, state, kind):
    blobs = MemoryBlobs() if kind == "memory" else LocalBlobs(tmp_path)
    run = run_of(blobs=blobs)
    many = pa.RecordBatch.from_arrays([pa.array(range(100_001))], ["n"])  # one file is written before it raises

    with pytest.raises(type(error)):
        run.load(Pieces([many, error]))

    failure = run.store.load_failure()
    assert (failure.state, failure.error_type, failure.message) == (state, type(error).__name__, str(error))
    assert run.store.latest() is None
    assert run.store.result() is None
    assert not [name for name in everything_in(blobs) if name.endswith(".parquet")]
    with pytest.raises(LookupError, match=r"call load\(\) first"):
        _ = run.generation


def test_killed_load_leaves_nothing_to_read_and_a_retry_loads():
    run = run_of()
    with pytest.raises(Killed):
        run.load(Pieces([batch(1, 2), Killed()]))
    assert run.store.latest() is None
    assert run.store.load_failure() is None

    assert run.run(numbers(3)).successful_records == 3


def test_failed_load_can_be_tried_again():
    run = run_of()
    with pytest.raises(SourceError):
        run.load(Pieces([SourceError("pieces", "down.")]))

    assert run.run(numbers(3)).successful_records == 3
    assert run.store.load_failure() is None
    assert run.generation.manifest.generation.startswith("g1-")


class ForgetfulBlobs(MemoryBlobs):
    """Cannot write down why a load failed."""

    def put(self, name, data, **options):
        if name.endswith(".failed.json"):
            raise StorageError("write", name, "the disk is full")
        super().put(name, data, **options)


def test_failure_that_cannot_be_written_down_hides_no_error(caplog):
    run = run_of(blobs=ForgetfulBlobs())

    with pytest.raises(SourceError, match="down"):
        run.load(Pieces([SourceError("pieces", "down.")]))

    assert "could not be written down" in caplog.text
    assert run.store.latest() is None


def test_long_load_tells_how_far_it_is(caplog):
    caplog.set_level("INFO")
    run = LocalRun(job_of(Step()), clock=FakeClock(tick_seconds=6))
    run.load(Pieces([batch(1, 2), batch(3)]))

    assert "Loading: 2 records so far" in caplog.text


# --- generations ----------------------------------------------------------------------------------------------


def test_retry_of_a_load_returns_the_committed_generation():
    run = run_of()
    run.load(numbers(3))
    first = run.generation.manifest

    assert run.load(numbers(5)) == ["01"]
    assert run.generation.manifest == first


def test_next_round_loads_a_next_generation_and_keeps_the_old():
    run = run_of()
    run.run(numbers(3))
    first = run.generation.manifest.generation
    run.next_round()

    result = run.run(numbers(5))

    assert result.total_records == 5
    assert result.generation.startswith("g2-")
    assert run.store.result(first).total_records == 3
    assert run.store.result().total_records == 5


def test_reload_that_fails_hides_the_old_generation():
    run = run_of()
    run.run(numbers(3))
    run.next_round()
    with pytest.raises(SourceError):
        run.load(Pieces([SourceError("pieces", "down.")]))

    assert run.store.latest() is None
    assert run.store.result() is None
    assert run.store.load_failure().state is JobState.FAILED_INPUT


def test_new_generation_without_a_result_never_reads_the_old_verdict():
    run = run_of()
    run.run(numbers(3))
    run.next_round()
    run.load(numbers(5))

    assert run.store.result() is None


# --- owners ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"dag_id": "other"}, id="another DAG"),
        pytest.param({"run_id": "other"}, id="another run"),
    ],
)
def test_m9_instance_id_of_another_is_refused_and_nothing_is_created(other):
    blobs = MemoryBlobs()
    LocalRun(job_of(Step()), store=blobs, instance_id="orders").run(numbers(3))
    before = {name: bytes(blobs.get(name)) for name in everything_in(blobs)}
    run = LocalRun(job_of(Step()), store=blobs, instance_id="orders", **other)

    with pytest.raises(DuplicateInstanceError, match="'orders' belongs to DAG 'local', run 'run', job 'job'; nothing"):
        run.load(numbers(5))

    assert {name: bytes(blobs.get(name)) for name in everything_in(blobs)} == before


def test_m9_instance_id_of_another_job_is_refused():
    blobs = MemoryBlobs()
    LocalRun(job_of(Step()), store=blobs, instance_id="orders").run(numbers(3))
    from batch_provider import JobSpec

    with pytest.raises(DuplicateInstanceError):
        LocalRun(JobSpec("another"), store=blobs, instance_id="orders").load(numbers(1))


def test_same_owner_carries_on_in_another_process():
    blobs, step = MemoryBlobs(), Step()
    LocalRun(job_of(step), store=blobs).load(numbers(3))
    again = LocalRun(job_of(step), store=blobs)

    again.load(numbers(99))
    again.process_all()

    assert again.complete().total_records == 3


# --- counts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("maximum", "count", "refused"),
    [
        pytest.param(2, 4, True, id="more than the maximum"),
        pytest.param(3, 4, True, id="one more"),
        pytest.param(4, 4, False, id="exactly"),
        pytest.param(4, 0, False, id="none"),
    ],
)
def test_a38_too_many_records_are_refused_before_processing(maximum, count, refused):
    run = run_of(max_records=maximum)
    if not refused:
        assert run.run(numbers(count)).total_records == count
        return

    with pytest.raises(TooManyRecordsError, match=f"more than max_records={maximum} records; nothing was processed"):
        run.load(numbers(count))

    assert run.store.latest() is None
    assert run.store.load_failure().state is JobState.FAILED_INPUT


@pytest.mark.parametrize(
    ("minimum", "count", "refused"),
    [
        pytest.param(4, 3, "3 records, fewer than min_records=4; nothing was processed", id="too few"),
        pytest.param(1, 0, "0 records, fewer than min_records=1", id="none"),
        pytest.param(2, 1, "1 record, fewer than min_records=2", id="one"),
        pytest.param(4, 4, None, id="exactly"),
        pytest.param(0, 0, None, id="none demanded"),
    ],
)
def test_too_few_records_are_refused_before_processing(minimum, count, refused):
    run = run_of(min_records=minimum)
    if refused is None:
        assert run.run(numbers(count)).total_records == count
        return

    with pytest.raises(TooFewRecordsError, match=refused):
        run.load(numbers(count))

    assert run.store.latest() is None
    assert run.store.load_failure().state is JobState.FAILED_INPUT


def test_malformed_records_are_records_when_they_are_counted(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("a,b\n1,2\n1\n")

    for copy in (True, False):
        assert run_of(min_records=2).run(Files(path, copy=copy)).failed_records == 1
        with pytest.raises(TooFewRecordsError):
            run_of(min_records=3).load(Files(path, copy=copy))


@pytest.mark.parametrize(
    ("total", "slots", "shards"),
    [
        pytest.param(0, 8, 1, id="none"),
        pytest.param(RECORDS_PER_SHARD, 8, 1, id="enough for one"),
        pytest.param(RECORDS_PER_SHARD + 1, 8, 2, id="one more"),
        pytest.param(10**9, 8, 8, id="no more than slots"),
    ],
)
def test_default_number_of_shards(total, slots, shards):
    assert default_shards(total, slots) == shards


def test_large_input_is_cut_into_files():
    run = run_of()
    run.load(Pieces([pa.RecordBatch.from_arrays([pa.array(range(250_000))], ["n"]), batch(1, 2)]))

    manifest = run.generation.manifest
    assert [(file.span.first, file.span.last) for file in manifest.files] == [
        (0, 99_999),
        (100_000, 199_999),
        (200_000, 250_001),
    ]
    assert manifest.total == 250_002


def test_manifest_says_what_was_loaded():
    run = LocalRun(job_of(Step(), variables={"v": 1}), clock=FakeClock())
    run.load(Pieces([batch(1, 2), [bad(3)], batch("x", name="t")]))

    manifest = run.generation.manifest
    assert (manifest.total, manifest.failed_on_input) == (4, 1)
    assert manifest.input_errors == {"MalformedRecord": 1}
    assert dict(manifest.columns) == {"n": "int64", "t": "string"}
    assert manifest.source == "pieces"
    assert manifest.variables == {"v": 1}
    assert manifest.created_at == "2030-01-01T00:00:00+00:00"


# --- malformed records ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("block_size", [1, 2, 10])
def test_malformed_records_failed_in_the_input_phase(shards, block_size):
    seen, repaired = [], []
    job = job_of(
        lambda record: seen.append(record["n"]),
        (
            lambda record, record_id, failures: repaired.append(
                (record_id, failures[0]["step"], failures[0]["message"])
            ),
            {"accept_policy": "ONLY_FAILURES"},
        ),
        block_size=block_size,
    )
    run = LocalRun(job, shards=shards)

    result = run.run(Pieces([batch(10, 11), [bad(3), bad(4)], batch(12)]))

    assert seen == [10, 11, 12]
    assert repaired == [(2, "input", "line 3 is no record"), (3, "input", "line 4 is no record")]
    assert (result.total_records, result.successful_records, result.failed_records) == (5, 3, 2)
    assert not result.failed_on_input_phase
    assert [(error.exception, error.step, error.count) for error in result.errors] == [("MalformedRecord", "input", 2)]
    assert outcomes(run, "input") == {0: "SUCCEEDED", 1: "SUCCEEDED", 2: "FAILED", 3: "FAILED", 4: "SUCCEEDED"}
    assert [failure[:3] for failure in failures(run)] == [
        (2, "input", "MalformedRecord"),
        (3, "input", "MalformedRecord"),
    ]


def test_malformed_records_count_against_the_limit():
    step = Step()
    run = LocalRun(job_of(step, max_failed_records=1))

    result = run.run(Pieces([[bad(1), bad(2)], batch(1)]))

    assert step.seen == []
    assert (result.state, result.failed_records, result.not_run_records) == (JobState.FAILED_PROCESS_RECORDS, 2, 1)


def test_input_of_malformed_records_only():
    run = run_of()

    result = run.run(Pieces([[bad(1)], [bad(2)]]))

    assert (result.total_records, result.failed_records) == (2, 2)


def test_pieces_without_records_are_nothing():
    run = run_of()

    assert run.run(Pieces([[], batch()])).total_records == 0


# --- types ----------------------------------------------------------------------------------------------------


def test_types_of_batches_are_widened():
    seen = []
    run = run_of(lambda record: seen.append(dict(record)))
    run.run(Pieces([batch(1), batch(0.5), batch("x", name="t")]))

    assert seen == [{"n": 1.0, "t": None}, {"n": 0.5, "t": None}, {"n": None, "t": "x"}]


def test_reserved_column_is_refused():
    run = run_of()

    with pytest.raises(SourceError, match="the column name '_id' is reserved; rename it"):
        run.load(Pieces([batch(1, name="_id")]))


def test_columns_come_by_name_not_by_position():
    first = pa.RecordBatch.from_pydict({"a": [1], "b": ["x"]})
    second = pa.RecordBatch.from_pydict({"b": ["y"], "a": [2]})
    seen = []
    run_of(lambda record: seen.append(dict(record))).run(Pieces([first, second]))

    assert seen == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


def test_large_whole_numbers_beside_floats_are_not_rounded():
    seen = []
    run_of(lambda record: seen.append(record["n"])).run(Pieces([batch(2**53 + 1), batch(0.5)]))

    assert 2**53 not in seen

"""On complete: the report, the callback, the verdict, the dead letters."""

from __future__ import annotations

import json
import logging

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_provider import BatchJob, BatchJobResult, JobState
from batch_provider.domain.errors import SourceError
from batch_provider.engine.complete.complete import load_failed
from batch_provider.engine.complete.report import render_report
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.testing import FakeClock, LocalRun
from tests.builders import Step, job_of, numbers


def run_with(callback=None, *steps, records=None, shards=None, **options):
    options.setdefault("max_failed_records", -1)
    job = BatchJob("job", **options)
    for number, step in enumerate(steps or (Step(),), 1):
        function, own = step if isinstance(step, tuple) else (step, {})
        job.step(name=f"s{number}", **own)(function)
    if callback is not None:
        job.on_complete(callback)
    run = LocalRun(job.spec, clock=FakeClock(tick_seconds=0.5), shards=shards)
    return run, run.run(numbers(5) if records is None else records)


def test_result_has_mules_thirteen_fields_and_more():
    _, result = run_with(None, Step(fails={1}), (Step(), {"accept_expression": "n > 2"}))

    assert result.job_instance_id == "local~run~job"
    assert (result.total_records, result.loaded_records, result.processed_records) == (5, 5, 5)
    assert (result.successful_records, result.failed_records, result.skipped_records) == (4, 1, 3)
    assert result.elapsed_seconds > 0
    assert (result.failed_on_input_phase, result.failed_on_loading_phase, result.failed_on_complete_phase) == (
        False,
    ) * 3
    assert (result.input_phase_exception, result.loading_phase_exception, result.on_complete_phase_exception) == (
        None,
    ) * 3
    assert (result.state, result.is_successful) == (JobState.SUCCESSFUL, True)
    assert (result.job, result.dag_id, result.run_id) == ("job", "local", "run")
    first, second = result.steps
    assert (first.received, first.successful, first.failed, first.skipped, first.not_run) == (5, 4, 1, 0, 0)
    assert (second.received, second.successful, second.failed, second.skipped, second.not_run) == (5, 2, 0, 3, 0)
    assert (first.processed, second.processed, first.attempts) == (5, 2, 1)
    assert first.share + second.share == pytest.approx(1.0)
    assert first.mean_call_seconds > 0
    assert result.bottleneck in result.steps


def test_callback_gets_the_result_after_the_report_is_written():
    seen = []

    def callback(result):
        seen.append((result, run_of_callback[0].store.result()))

    run_of_callback = []
    job = BatchJob("job")
    job.step(name="s1")(Step())
    job.on_complete(callback)
    run = LocalRun(job.spec)
    run_of_callback.append(run)

    result = run.run(numbers(3))

    ((given, stored),) = seen
    assert given == stored == result
    assert isinstance(given, BatchJobResult)


def test_callback_that_raises_loses_nothing():
    def callback(result):
        raise ValueError("no mail server")

    run, result = run_with(callback)

    assert result.state is JobState.FAILED_ON_COMPLETE
    assert result.failed_on_complete_phase
    assert result.on_complete_phase_exception == "ValueError: no mail server"
    assert result.reason == "on_complete raised ValueError: no mail server."
    assert result.successful_records == 5
    assert run.store.result() == result


def test_callback_that_raises_hides_no_earlier_failure():
    def callback(result):
        raise ValueError("no mail server")

    _, result = run_with(callback, Step(fails={0}), max_failed_records=0)

    assert result.state is JobState.FAILED_PROCESS_RECORDS
    assert result.failed_on_complete_phase
    assert "1 record failed" in result.reason


def test_callback_may_ask_for_the_instance():
    seen = []
    run_with(lambda result, instance: seen.append(instance.id))

    assert seen == ["local~run~job"]


def test_stop_iteration_in_the_callback_is_an_error_like_others():
    def callback(result):
        raise StopIteration

    assert run_with(callback)[1].state is JobState.FAILED_ON_COMPLETE


def test_completing_twice_gives_the_same_result():
    run, first = run_with(None, Step(fails={1}))

    second = run.complete()

    assert (second.state, second.successful_records, second.failed_records) == (
        first.state,
        first.successful_records,
        first.failed_records,
    )
    assert len(run.generation.result_claims()) == 2


@pytest.mark.parametrize(
    ("error", "state", "on_input"),
    [
        pytest.param(SourceError("x", "gone."), JobState.FAILED_INPUT, True, id="input"),
        pytest.param(RuntimeError("a bug"), JobState.FAILED_LOADING, False, id="loading"),
    ],
)
def test_result_of_a_failed_load_says_why(error, state, on_input):
    class Source:
        def describe(self):
            return "x"

        def read(self, access):
            raise error
            yield

    run = LocalRun(job_of(Step()))
    with pytest.raises(type(error)):
        run.load(Source())
    seen = []

    result = load_failed(run.instance, run.store.load_failure(), seen.append, run.clock)

    assert (result.state, result.total_records) == (state, 0)
    assert (result.failed_on_input_phase, result.failed_on_loading_phase) == (on_input, not on_input)
    problem = f"{type(error).__name__}: {error}"
    assert result.reason == problem
    assert (result.input_phase_exception or result.loading_phase_exception) == problem
    assert seen == [result]


def test_result_of_a_load_that_never_ended():
    run = LocalRun(job_of(Step()))

    result = load_failed(run.instance, None, None, run.clock)

    assert (result.state, result.reason) == (JobState.FAILED_LOADING, "the load task did not finish")


# --- dead letters ---------------------------------------------------------------------------------------------


def dead_letters(run, result):
    blobs, base = run.store.blobs, run.generation.base
    tables = [pq.read_table(pa.BufferReader(blobs.get(f"{base}/{name}"))) for name in result.dead_letters]
    return sorted((row for table in tables for row in table.to_pylist()), key=lambda row: row["_id"])


@pytest.mark.parametrize("shards", [1, 2])
def test_dead_letters_are_the_failed_records_as_they_came_to_the_step(shards):
    run, result = run_with(
        None,
        Step(fails={1}, returns=lambda record: {"n": record["n"] * 10}),
        Step(fails={3}, returns=lambda record: {"n": -1}),
        shards=shards,
    )

    rows = dead_letters(run, result)

    shown = [(row["_id"], row["n"], row["_step"], row["_error_type"], row["_error_message"]) for row in rows]
    assert shown == [
        (1, 1, "s1", "ValueError", "record 1 is bad"),
        (3, 30, "s2", "ValueError", "record 3 is bad"),
    ]
    assert all(row["_attempt"].startswith("000001-") and row["_failed_at"].year == 2030 for row in rows)


def test_record_that_failed_twice_is_one_dead_letter():
    run, result = run_with(None, Step(fails={1}), (Step(fails={1}), {"accept_policy": "ALL"}))

    assert [(row["_id"], row["_step"]) for row in dead_letters(run, result)] == [(1, "s1")]


def test_malformed_record_is_a_dead_letter_with_its_line_and_text():
    run, result = run_with(None, records=[{"n": 1}, "no record", {"n": 2}])

    ((row),) = dead_letters(run, result)
    assert (row["_step"], row["_line"]) == ("input", 2)
    assert json.loads(row["_raw"]) == "no record"


def test_no_failures_no_dead_letters():
    assert run_with()[1].dead_letters == ()


# --- the ledger file ------------------------------------------------------------------------------------------


def test_ledger_file_can_be_read_with_duckdb_alone(tmp_path):
    run, result = run_with(None, Step(fails={1}), shards=2)
    blobs, base = run.store.blobs, run.generation.base
    (name,) = [name for name in blobs.files(base) if name.startswith("ledger.")]
    path = tmp_path / "ledger.duckdb"
    path.write_bytes(blobs.get(f"{base}/{name}"))

    with duckdb.connect(str(path), read_only=True) as connection:
        records = connection.execute("SELECT outcome, count(*) FROM records GROUP BY 1 ORDER BY 1").fetchall()
        state = connection.execute("SELECT value FROM result WHERE field = 'state'").fetchone()
        attempts = connection.execute("SELECT count(*), sum(processed) FROM attempts").fetchone()
        errors = connection.execute("SELECT * FROM errors").fetchall()

    assert records == [("FAILED", 1), ("SUCCEEDED", 4)]
    assert state == (result.state,)
    assert attempts == (2, 5)
    assert errors == [("s1", "ValueError", 1, "record 1 is bad")]


# --- the report -----------------------------------------------------------------------------------------------


def test_report_shows_counts_steps_errors_and_the_slowest_step():
    _, result = run_with(None, Step(fails={1}), Step())

    text = render_report(result)

    assert "Job job: SUCCESSFUL" in text
    assert "5 records = 4 successful + 1 failed + 0 not run" in text
    assert "ValueError" in text
    assert "record 1 is bad" in text
    assert "Slowest step: s" in text
    assert "Dead letters: 1 records in 1 files" in text
    assert max(map(len, text.splitlines())) <= 118


def test_report_takes_nothing_of_a_message_for_markup():
    def step(record):
        raise ValueError("[red]x[/red] [/] [bold")

    _, result = run_with(None, step)

    assert "[red]x[/red] [/] [bold" in render_report(result)


def test_report_of_a_failed_load():
    run = LocalRun(job_of(Step()))
    result = load_failed(run.instance, None, None, run.clock)

    assert "the load task did not finish" in render_report(result)
    assert "generation none" in render_report(result)


def test_report_of_slow_and_unmeasured_steps():
    from dataclasses import replace

    _, result = run_with(None, Step())
    slow = replace(result.steps[0], name="slow", mean_call_seconds=0.5, call_deviation_seconds=0.1)
    idle = replace(slow, name="idle", mean_call_seconds=None, processed=0)

    text = render_report(replace(result, steps=(slow, idle)))

    assert "500.0 ± 300.0 ms" in text
    assert "–" in text


def test_nothing_is_shouted_when_the_limit_did_its_work(caplog):
    caplog.set_level(logging.ERROR)
    run_with(None, Step(fails={1}), max_failed_records=1)

    assert caplog.records == []


def test_dead_letters_are_cut_into_parts():
    blobs = MemoryBlobs()

    def step(record):
        raise ValueError("bad")

    run = LocalRun(job_of(step, block_size=30_000), store=blobs)
    result = run.run(pa.table({"n": pa.array(range(60_001))}))

    assert len(result.dead_letters) == 2
    assert len(dead_letters(run, result)) == 60_001

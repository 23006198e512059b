"""What a redrive keeps and what it does again: changed code, poison records, another list of steps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batch_provider import AggregatorSpec, BatchJob, JobState
from batch_provider.domain.errors import InvalidOptionError, StepsChangedError
from batch_provider.domain.spec import StepSpec
from batch_provider.engine.complete.report import render_report
from batch_provider.engine.process.fingerprint import fingerprint
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.storage.views.instance_view import InstanceView
from batch_provider.testing import LocalRun
from tests.builders import Killed, Step, job_of, numbers, with_outcome


def version(label, seen, *, fails=()):
    """A step's code as the author changed it: another constant, so another fingerprint."""
    if label == "old":

        def function(record, record_id):
            seen.append(record_id)
            if record_id in fails:
                raise ValueError("bad")
            return {"made_by": "old"}

        return function

    def function(record, record_id):
        seen.append(record_id)
        if record_id in fails:
            raise ValueError("still bad")
        return {"made_by": "new"}

    return function


def first_round(*steps, count=10, shards=None, **options):
    options.setdefault("block_size", 4)
    run = LocalRun(job_of(*steps, **options), shards=shards)
    return run, run.run(numbers(count))


def redrive(run, *steps, **options):
    """Clear everything but the load, with this code."""
    options.setdefault("block_size", 4)
    if steps:
        run.job = job_of(*steps, **options)
    run.next_round()
    run.process_all()
    return run.complete()


# --- on_code_change -------------------------------------------------------------------------------------------


def test_successes_of_older_code_are_kept_and_counted():
    seen = []
    run, _ = first_round(version("old", seen, fails={3}), Step())
    old = fingerprint(run.job.steps[0])
    seen.clear()

    result = redrive(run, version("new", seen), Step())

    assert seen == [3]
    assert result.step("s1").older_code == {old: 9}
    assert result.step("s2").older_code == {}
    assert [row["made_by"] for row in run.output()].count("old") == 9
    assert f"Done by older code of step s1, and kept: 9 records ({old}: 9)" in render_report(result)


def test_nothing_is_said_of_older_code_while_there_is_none():
    run, result = first_round(Step(fails={1}), Step())
    assert [step.older_code for step in result.steps] == [{}, {}]
    assert "older code" not in render_report(redrive(run))


def test_reprocess_redoes_what_older_code_did_and_later_steps_follow():
    seen, later = [], Step()
    run, _ = first_round((version("old", seen, fails={3}), {"on_code_change": "reprocess"}), later)
    seen.clear()
    later.forget()

    result = redrive(run, (version("new", seen), {"on_code_change": "reprocess"}), later)

    assert sorted(seen) == list(range(10))
    assert sorted(later.seen) == list(range(10))
    assert result.is_successful
    assert result.failed_records == 0
    assert result.step("s1").older_code == {}
    assert {row["made_by"] for row in run.output()} == {"new"}


def test_reprocess_does_nothing_twice_with_the_same_code():
    seen = []
    step = (version("old", seen, fails={3}), {"on_code_change": "reprocess"})
    run, _ = first_round(step)
    seen.clear()
    redrive(run)
    assert seen == [3]
    redrive(run)
    assert seen == [3, 3]


def test_only_the_shard_that_is_cleared_is_reprocessed():
    seen = []
    run, _ = first_round((version("old", seen), {"on_code_change": "reprocess"}), shards=2)
    old = fingerprint(run.job.steps[0])
    run.job = job_of((version("new", seen), {"on_code_change": "reprocess"}), block_size=4)
    seen.clear()
    run.next_round()
    run.process(run.job.step("s1"), "02")

    result = run.complete()

    assert sorted(seen) == [5, 6, 7, 8, 9]
    assert result.step("s1").older_code == {old: 5}


def test_a_crashed_reprocess_goes_on_where_it_was():
    seen = []
    run, _ = first_round((version("old", seen), {"on_code_change": "reprocess"}))
    step = Step(dies_at=5)
    run.job = job_of((step, {"on_code_change": "reprocess"}), block_size=4)
    run.next_round()
    with pytest.raises(Killed):
        run.process_all()
    run.process_all()
    assert step.seen == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9]
    assert run.complete().step("s1").older_code == {}


def test_a_retry_after_the_close_fails_no_poison_record_again():
    step = Step(fails={3})
    run, _ = first_round((version("old", []), {"on_code_change": "reprocess"}))
    run.job = job_of((step, {"on_code_change": "reprocess"}), block_size=4)
    run.next_round()
    run.process_all()
    step.forget()
    run.process_all()  # the worker died after its close
    assert step.seen == []


def test_code_that_changes_between_two_tries_is_taken_by_the_second():
    run, _ = first_round((version("old", []), {"on_code_change": "reprocess"}))
    seen = []
    run.job = job_of((version("new", seen), {"on_code_change": "reprocess"}), block_size=4)
    run.process_all()  # the same round: a retry
    assert sorted(seen) == list(range(10))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"aggregator": AggregatorSpec(size=3)}, id="sized aggregator"),
        pytest.param({"aggregator": AggregatorSpec(streaming=True)}, id="streaming aggregator"),
        pytest.param({"vectorised": True}, id="arrow step"),
    ],
)
def test_reprocess_is_for_every_kind_of_step(options):
    got = []

    def old(records):
        got.extend(record["n"] for record in getattr(records, "to_pylist", lambda: records)())

    def new(records):
        for record in getattr(records, "to_pylist", lambda: records)():
            got.append(record["n"])  # noqa: PERF401  # other code

    job = replace(job_of(Step(), block_size=4), steps=())
    first = replace(job, steps=(StepSpec("bulk", old, on_code_change="reprocess", **options),))
    run = LocalRun(first)
    run.run(numbers(10))
    got.clear()
    run.job = replace(job, steps=(StepSpec("bulk", new, on_code_change="reprocess", **options),))
    run.next_round()
    run.process_all()
    assert sorted(got) == list(range(10))
    got.clear()
    run.next_round()
    run.process_all()
    assert got == []


def test_a_sql_step_reprocesses_with_its_new_expression():
    def job(expression):
        builder = BatchJob("job", max_failed_records=-1, block_size=4)
        builder.sql_step("double", assign={"m": expression}, on_code_change="reprocess")
        return builder.spec

    run = LocalRun(job("n * 2"))
    run.run(numbers(5))
    run.job = job("n * 3")
    run.next_round()
    run.process_all()
    assert run.complete().is_successful
    assert [row["m"] for row in run.output()] == [0, 3, 6, 9, 12]


def test_a_wrong_word_is_refused():
    with pytest.raises(InvalidOptionError, match="'keep' or 'reprocess'"):
        job_of((Step(), {"on_code_change": "redo"}))


def test_a_writer_writes_each_record_once_whatever_its_options():
    class Writer:
        def open(self, *_): ...

        def describe(self): ...

    with pytest.raises(InvalidOptionError, match="a writer writes each record once"):
        BatchJob("job", max_failed_records=-1, block_size=4).write("store", Writer(), on_code_change="reprocess")


# --- max_redrives ---------------------------------------------------------------------------------------------


def test_a_record_that_failed_in_so_many_redrives_is_not_tried_again():
    step = Step(fails={3, 7})
    run, result = first_round(step, max_redrives=2)
    assert result.step("s1").given_up == 0
    step.forget()

    assert redrive(run).step("s1").given_up == 0
    step.fails = {3}
    second = redrive(run)
    third = redrive(run)

    assert step.seen == [3, 7, 3, 7]
    assert (second.step("s1").given_up, third.step("s1").given_up) == (1, 1)
    assert third.failed_records == 1
    assert [(error.exception, error.count) for error in third.errors] == [("ValueError", 1)]
    assert "Given up by step s1: 1 failed record not tried again, as max_redrives is reached" in render_report(third)


def test_raising_the_number_tries_it_again():
    step = Step(fails={3})
    run, _ = first_round(step, max_redrives=0)
    assert redrive(run).step("s1").given_up == 1
    step.forget()
    step.fails = set()
    result = redrive(run, step, max_redrives=1)
    assert step.seen == [3]
    assert result.failed_records == 0


def test_a_new_input_is_a_new_start():
    """The step before gives the record something new, so its failures of before do not count."""
    first, second = Step(fails={0}), Step(fails={0})
    run, _ = first_round(first, (second, {"accept_policy": "ALL"}), max_redrives=2, count=1)
    redrive(run)
    first.fails = set()
    second.forget()
    redrive(run)
    assert second.seen == [0]
    assert with_outcome(run, "s2", "FAILED") == {0}
    for _ in range(4):
        redrive(run)
    assert second.seen == [0, 0, 0]


def test_a_crash_within_a_redrive_does_not_count_it_twice():
    step = Step(fails={1})
    run, _ = first_round(step, max_redrives=2)
    step.dies_at, step.fails = 1, {1}
    run.next_round()
    with pytest.raises(Killed):
        run.process_all()
    run.process_all()
    assert run.complete().step("s1").given_up == 0
    assert redrive(run).step("s1").given_up == 1


def test_a_healed_record_is_counted_no_more():
    step = Step(fails={1, 2})
    run, _ = first_round(step, max_redrives=5, block_size=10)
    redrive(run)
    step.fails = {2}
    redrive(run)
    file = run.generation.current_files("s1", "01")[0]
    rows = run.generation.layer("s1", "01", (file,)).rows(run.generation.manifest.shards[0].span, ["_redrives"])
    assert rows["_redrives"].to_pylist() == [0, 0, 2, 0, 0, 0, 0, 0, 0, 0]


def test_a_stream_that_is_repeated_counts_its_redrive_once(monkeypatch):
    class Dying(MemoryBlobs):
        armed = False

        def put(self, name, data, *, durable=False):
            if self.armed and "/attempts/" in name:
                self.armed = False
                raise Killed
            super().put(name, data, durable=durable)

    calls = []

    def tell(records):
        calls.append([record["n"] for record in records])
        raise ValueError("no")

    job = BatchJob("job", max_failed_records=-1, block_size=4, max_redrives=2)
    job.aggregator("tell", streaming=True)(tell)
    blobs = Dying()
    run = LocalRun(job.spec, store=blobs)
    run.run(numbers(3))
    run.next_round()
    blobs.armed = True
    with pytest.raises(Killed):
        run.process_all()
    run.process_all()
    assert run.complete().step("tell").given_up == 0
    assert redrive(run).step("tell").given_up == 3
    calls.clear()
    redrive(run)
    assert calls == []


@pytest.mark.parametrize("value", [-1, 1.5, "2", True])
def test_a_number_of_redrives_that_means_nothing_is_refused(value):
    with pytest.raises(InvalidOptionError, match="max_redrives"):
        job_of(Step(), max_redrives=value)


# --- a result that is out of date -----------------------------------------------------------------------------


def view(run):
    return InstanceView(run.store)


def test_a_result_is_up_to_date_until_a_step_is_run_again():
    run, _ = first_round(Step(), Step())
    assert view(run).result().stale == ""
    assert "OUT OF DATE" not in view(run).result().summary()


def test_a_step_cleared_without_downstream_makes_the_result_stale():
    first = Step(fails={7})
    run, _ = first_round(first, Step(), Step(), shards=2)
    first.fails = set()
    run.next_round()
    run.process(run.job.step("s1"), "02")

    result = view(run).result()

    assert result.stale == (
        "after this result there was another attempt at step 's1' (shard 02). Clear step 's2' (shard 02) with "
        "Downstream, when its task has ended."
    )
    assert f"OUT OF DATE: {result.stale}" in " ".join(render_report(result).split())
    assert result.summary().endswith(result.stale)


def test_the_last_step_cleared_alone_asks_for_on_complete():
    last = Step(fails={1})
    run, _ = first_round(Step(), last)
    run.next_round()
    run.process(run.job.step("s2"), "01")
    assert view(run).result().stale.endswith("Clear on_complete, when its task has ended.")
    run.complete()
    assert view(run).result().stale == ""


def test_the_first_step_that_is_behind_is_named_for_each_shard():
    first, second = Step(fails={1}), Step(fails={8})
    run, _ = first_round(first, second, Step(), shards=2)
    run.next_round()
    run.process(run.job.step("s1"), "01")
    run.process(run.job.step("s2"), "02")
    assert "Clear step 's2' (shard 01), step 's3' (shard 02) with Downstream" in view(run).result().stale


def test_a_result_written_before_the_field_was_known_reads():
    _, result = first_round(Step())
    data = result.to_json()
    del data["stale"]
    assert type(result).from_json(data).stale == ""


# --- another list of steps ------------------------------------------------------------------------------------


def cleared(*names):
    """A job of three steps is done and cleared, when its DAG has these steps."""
    run, _ = first_round(Step(fails={1}), Step(), Step())
    run.job = replace(run.job, steps=tuple(StepSpec(name, Step()) for name in names))
    run.next_round()
    return run


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["s1", "s2", "s3", "s4"], id="added at the end"),
        pytest.param(["s1", "new", "s2", "s3"], id="added in between"),
        pytest.param(["s1", "s3"], id="removed"),
        pytest.param(["s1", "other", "s3"], id="renamed"),
        pytest.param(["s1", "s3", "s2"], id="another order"),
    ],
)
def test_a_shard_of_other_steps_is_not_carried_on(names):
    run = cleared(*names)
    before = run.generation.claim_ids("s1", "01")

    with pytest.raises(StepsChangedError, match="clear the load task with Downstream") as caught:
        run.process(run.job.steps[0], "01")

    assert caught.value.loaded == ("s1", "s2", "s3")
    assert caught.value.declared == tuple(names)
    assert run.generation.claim_ids("s1", "01") == before


def test_on_complete_alone_does_not_call_it_a_success():
    run = cleared("s1", "s2", "s3", "s4")
    result = run.complete()
    assert result.state is JobState.FAILED_PROCESS_RECORDS
    assert "was loaded with the steps s1, s2, s3 and has now s1, s2, s3, s4" in result.reason


def test_the_next_generation_has_the_new_steps():
    run = cleared("s1", "s4")
    result = run.run(numbers(10))
    assert result.is_successful
    assert [step.name for step in result.steps] == ["s1", "s4"]

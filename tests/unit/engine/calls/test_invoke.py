"""How the author's functions are called: what they get, and whose fault their exceptions are."""

from __future__ import annotations

import json
import logging

import pytest

from batch_provider import AcceptPolicy
from batch_provider.domain.errors import InvalidOptionError, SourceError
from batch_provider.engine.calls.invoke import LONGEST_MESSAGE
from batch_provider.testing import LocalRun
from tests.builders import Killed, Step, failures, job_of, numbers, outcomes


def raising(error):
    def step(record):
        if record["n"] == 1:
            raise error

    return step


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("block_size", [1, 2, 10])
def test_variables_follow_each_record_alone(shards, block_size):
    seen = {}

    def first(record, variables):
        variables["n"] = record["n"]
        variables["shared"].append(record["n"])

    def second(record, variables):
        seen[record["n"]] = variables

    job = job_of(first, Step(), second, variables={"shared": [], "preset": 1}, block_size=block_size)
    LocalRun(job, shards=shards).run(numbers(6))

    assert seen == {n: {"n": n, "shared": [n], "preset": 1} for n in range(6)}


def test_variables_of_a_failed_record_stay_as_they_came():
    seen = []

    def first(record, variables):
        variables["touched"] = True
        if record["n"] == 1:
            raise ValueError("bad")

    def second(record, variables):
        seen.append(variables)

    LocalRun(job_of(first, (second, {"accept_policy": AcceptPolicy.ALL}), variables={"v": 0})).run(numbers(2))

    assert seen == [{"v": 0, "touched": True}, {"v": 0}]


def test_variables_that_are_no_json_fail_the_record_only():
    def step(record, variables):
        variables["v"] = object() if record["n"] == 1 else record["n"]

    run = LocalRun(job_of(step))
    result = run.run(numbers(3))

    assert result.failed_records == 1
    assert "not JSON serializable" in failures(run)[0][3]


def test_variable_may_be_removed_and_set_again():
    seen = []

    def remove(record, variables):
        variables.clear()

    def again(record, variables):
        seen.append(dict(variables))
        variables["v"] = "new"

    def last(record, variables):
        seen.append(dict(variables))

    LocalRun(job_of(remove, again, last, variables={"v": "preset"})).run(numbers(1))

    assert seen == [{}, {"v": "new"}]


def test_failures_tell_what_happened_before_in_order_of_steps():
    seen = {}

    def last(record, failures):
        seen[record["n"]] = [(failure["step"], failure["type"], failure["message"]) for failure in failures]

    everything = {"accept_policy": AcceptPolicy.ALL}
    LocalRun(job_of(Step(fails={1, 2}), (Step(fails={2}), everything), (last, everything))).run(numbers(3))

    assert seen == {
        0: [],
        1: [("s1", "ValueError", "record 1 is bad")],
        2: [("s1", "ValueError", "record 2 is bad"), ("s2", "ValueError", "record 2 is bad")],
    }


@pytest.mark.parametrize("shards", [1, 4])
def test_record_id_is_the_position_in_the_input(shards):
    seen = {}
    LocalRun(job_of(lambda record, record_id: seen.update({record["n"]: record_id})), shards=shards).run(numbers(8))

    assert seen == {n: n for n in range(8)}


def test_instance_is_at_hand():
    seen = []
    run = LocalRun(job_of(lambda record, instance: seen.append(instance)), dag_id="etl", run_id="r1")
    run.run(numbers(1))

    assert (seen[0].id, seen[0].dag_id, seen[0].job) == ("etl~r1~job", "etl", "job")


def test_keywords_with_defaults_stay_with_their_defaults():
    def step(record, other=5, *, more="x"):
        return {"other": other, "more": more}

    run = LocalRun(job_of(step))
    run.run(numbers(1))

    assert run.output() == [{"n": 0, "other": 5, "more": "x"}]


def test_unknown_demanded_keyword_is_a_clear_error():
    def step(record, nonsense):
        return None

    run = LocalRun(job_of(step))
    run.load(numbers(1))

    with pytest.raises(InvalidOptionError, match="argument 'nonsense' of step 's1'='step' is not allowed; use only"):
        run.process(run.job.steps[0], "01")


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(json.dumps, id="library function"),
        pytest.param(print, id="builtin"),
        pytest.param(dict, id="class"),
    ],
)
def test_functions_of_any_kind_can_be_called(function):
    run = LocalRun(job_of(function))

    assert run.run(numbers(1)).total_records == 1


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(MemoryError("no memory"), id="MemoryError"),
        pytest.param(SourceError("x", "down."), id="an error of ours"),
        pytest.param(RuntimeError("Query interrupted"), id="a query that a timeout interrupted"),
        pytest.param(Killed(), id="no Exception at all"),
        pytest.param(KeyboardInterrupt(), id="KeyboardInterrupt"),
        pytest.param(SystemExit(1), id="SystemExit"),
    ],
)
def test_what_is_not_the_records_fault_goes_on_up(error):
    run = LocalRun(job_of(raising(error)))
    run.load(numbers(3))

    with pytest.raises(type(error)):
        run.process(run.job.steps[0], "01")

    assert outcomes(run, "s1") == dict.fromkeys(range(3), "NOT_RUN")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        pytest.param(KeyError("amount"), "KeyError", id="KeyError"),
        pytest.param(RuntimeError("interrupted"), "RuntimeError", id="RuntimeError"),
        pytest.param(RecursionError("too deep"), "RecursionError", id="RecursionError"),
        pytest.param(StopIteration("end"), "StopIteration", id="StopIteration"),
        pytest.param(GeneratorExit("x"), None, id="GeneratorExit is no Exception"),
        pytest.param(AssertionError(), "AssertionError", id="AssertionError"),
        pytest.param(TimeoutError("slow"), "TimeoutError", id="TimeoutError"),
    ],
)
def test_what_is_the_records_fault_fails_it(error, kind):
    run = LocalRun(job_of(raising(error)))
    if kind is None:
        with pytest.raises(GeneratorExit):
            run.run(numbers(3))
        return

    result = run.run(numbers(3))

    assert (result.successful_records, result.failed_records) == (2, 1)
    assert failures(run) == [(1, "s1", kind, str(error))]


class MuteError(Exception):
    def __str__(self):
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        pytest.param(ValueError("x" * 5_000), "x" * LONGEST_MESSAGE + "… (5,000 characters)", id="bounded"),
        pytest.param(ValueError("bad \ud800"), "bad \\ud800", id="surrogate"),
        pytest.param(ValueError("a\0b"), "a\0b", id="NUL"),
        pytest.param(MuteError(), "(its message cannot be read: RuntimeError)", id="__str__ raises"),
        pytest.param(ValueError(), "", id="empty"),
    ],
)
def test_message_is_kept_as_far_as_it_can_be(error, message):
    run = LocalRun(job_of(raising(error)))
    run.run(numbers(2))

    assert failures(run)[0][3] == message


def test_first_of_a_kind_is_logged_with_its_stack_the_rest_counted(caplog):
    caplog.set_level(logging.WARNING)
    result = LocalRun(job_of(Step(fails=set(range(5))))).run(numbers(5))

    stacks = [record for record in caplog.records if "first ValueError" in record.getMessage()]
    assert len(stacks) == 1
    assert "record 0 is bad" in stacks[0].getMessage()
    assert "Traceback" in stacks[0].getMessage()
    (error,) = result.errors
    assert (error.exception, error.step, error.count, error.sample) == ("ValueError", "s1", 5, "record 0 is bad")


def test_failed_record_keeps_the_payload_it_had():
    def step(record):
        record["n"] = -1
        if record["n"]:
            raise ValueError("bad")

    run = LocalRun(job_of(lambda record: {"n": record["n"] + 10}, step))
    run.run(numbers(2))

    assert run.output() == [{"n": 10}, {"n": 11}]


def test_failure_is_sticky():
    result = LocalRun(job_of(Step(fails={1}), (Step(), {"accept_policy": "ALL"}))).run(numbers(3))

    assert (result.successful_records, result.failed_records) == (2, 1)
    assert result.step("s2").successful == 3


def test_record_that_fails_in_two_steps_is_one_failed_record():
    result = LocalRun(job_of(Step(fails={1}), (Step(fails={1, 2}), {"accept_policy": "ALL"}))).run(numbers(4))

    assert result.failed_records == 2
    assert [(error.step, error.count) for error in result.errors] == [("s1", 1), ("s2", 2)]


def test_record_that_raises_inside_the_authors_own_try_is_not_failed():
    def step(record):
        try:
            raise ValueError("mine")
        except ValueError:
            return {"ok": False}

    assert LocalRun(job_of(step)).run(numbers(2)).failed_records == 0

"""Which records a step takes: the policy first, then the expression; both must hold."""

from __future__ import annotations

import pytest

from batch_provider import AcceptPolicy
from batch_provider.domain.errors import InvalidExpressionError, InvalidOptionError
from batch_provider.testing import LocalRun
from tests.builders import Step, failures, job_of, numbers, outcomes


def run_of(*steps, records=None, **options):
    run = LocalRun(job_of(*steps, **options))
    run.run(records or numbers(5))
    return run


@pytest.mark.parametrize(
    ("policy", "seen", "skipped"),
    [
        pytest.param("NO_FAILURES", [0, 2, 4], {1, 3}, id="NO_FAILURES"),
        pytest.param("ONLY_FAILURES", [1, 3], {0, 2, 4}, id="ONLY_FAILURES"),
        pytest.param("ALL", [0, 1, 2, 3, 4], set(), id="ALL"),
    ],
)
@pytest.mark.parametrize("block_size", [1, 2, 10])
def test_policy_decides_by_earlier_failures(policy, seen, skipped, block_size):
    step = Step()
    run = run_of(Step(fails={1, 3}), (step, {"accept_policy": policy}), block_size=block_size)

    assert step.seen == seen
    assert {record for record, outcome in outcomes(run, "s2").items() if outcome == "SKIPPED"} == skipped


def test_skipped_record_reaches_the_next_step():
    step = Step()
    run_of((Step(), {"accept_expression": "n > 100"}), step)

    assert step.seen == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "expression",
    [
        pytest.param("n % 2 = 0", id="SQL"),
        pytest.param(lambda record: record["n"] % 2 == 0, id="callable"),
        pytest.param(lambda record, record_id: record_id % 2 == 0, id="callable with a keyword"),
        pytest.param(lambda record: [] if record["n"] % 2 else [0], id="callable, any truth value"),
    ],
)
def test_expression_decides_by_the_record(expression):
    step = Step()
    run = run_of((step, {"accept_expression": expression}))

    assert step.seen == [0, 2, 4]
    assert outcomes(run, "s1") == {0: "SUCCEEDED", 1: "SKIPPED", 2: "SUCCEEDED", 3: "SKIPPED", 4: "SUCCEEDED"}


def test_expression_is_not_asked_for_records_that_the_policy_refuses():
    asked = []
    accept = {"accept_expression": lambda record: asked.append(record["n"])}
    run_of(Step(fails={1, 3}), (Step(), accept))

    assert asked == [0, 2, 4]


def test_policy_and_expression_must_both_hold():
    step = Step()
    run_of(Step(fails={1, 3}), (step, {"accept_policy": AcceptPolicy.ONLY_FAILURES, "accept_expression": "n > 1"}))

    assert step.seen == [3]


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        pytest.param("10 / CAST(t AS INTEGER) > 1", "ConversionException", id="SQL"),
        pytest.param(lambda record: int(record["t"]) > 1, "ValueError", id="callable"),
    ],
)
@pytest.mark.parametrize("block_size", [1, 2, 10])
def test_expression_that_raises_fails_that_record_only(expression, error, block_size):
    step = Step()
    records = [{"t": "4"}, {"t": "x"}, {"t": "5"}]
    run = run_of((step, {"accept_expression": expression}), records=records, block_size=block_size)

    assert step.seen == [0, 2]
    ((record, found_step, kind, _),) = failures(run)
    assert (record, found_step, kind) == (1, "s1", error)


def test_each_record_gets_its_own_error_whatever_raised_it():
    def accept(record, record_id):
        if record_id == 1:
            raise LookupError("accept")
        return True

    run = run_of((Step(fails={0}), {"accept_expression": accept}), records=numbers(2))

    assert [(f[0], f[2]) for f in failures(run)] == [(0, "ValueError"), (1, "LookupError")]


def test_expression_over_an_unknown_column_is_an_error_that_names_the_columns():
    run = LocalRun(job_of((Step(), {"accept_expression": "m > 1"})))

    with pytest.raises(InvalidExpressionError, match="there is no column 'm', only n"):
        run.load(numbers(2))


def test_expression_sees_variables_and_failures():
    def prepare(record, variables):
        variables["big"] = record["n"] > 2
        if record["n"] == 1:
            raise ValueError("bad")

    by_variable, by_failure = Step(), Step()
    run_of(
        prepare,
        (by_variable, {"accept_expression": "variables.big"}),
        (by_failure, {"accept_policy": "ALL", "accept_expression": lambda record, failures: bool(failures)}),
    )

    assert by_variable.seen == [3, 4]
    assert by_failure.seen == [1]


def test_callable_expression_with_an_unknown_keyword_is_a_clear_error():
    run = LocalRun(job_of((Step(), {"accept_expression": lambda record, nonsense: True})))
    run.load(numbers(2))

    with pytest.raises(InvalidOptionError, match="argument 'nonsense' of step 's1'"):
        run.process(run.job.steps[0], "01")


def test_expression_reads_columns_that_the_step_does_not():
    seen = []
    run_of((seen.append, {"reads": ["b"], "accept_expression": "a > 1"}), records=[{"a": 1, "b": 2}, {"a": 2, "b": 3}])

    assert [record["b"] for record in seen] == [3]


def test_expression_over_a_column_that_only_some_blocks_have_reads_null_in_the_others():
    step = Step()
    run_of(
        lambda record: {"fast": True} if record["n"] == 4 else None,
        (step, {"accept_expression": "fast"}),
        block_size=2,
    )

    assert step.seen == [4]

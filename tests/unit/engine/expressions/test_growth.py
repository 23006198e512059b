"""What an expression makes of a record is bounded before it runs."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from batch_provider import BatchJob
from batch_provider.domain.errors import ExpressionLimitError, InvalidExpressionError
from batch_provider.domain.layout import Span
from batch_provider.engine.columns.block import Block
from batch_provider.engine.expressions.check import growth_of
from batch_provider.engine.expressions.evaluate import ExpressionEvaluator
from batch_provider.engine.steps.asking import Asked, Asking
from batch_provider.testing import LocalRun


@pytest.mark.parametrize(
    ("expression", "times"),
    [
        pytest.param("s || s", 1, id="nothing"),
        pytest.param("repeat(s, 1_000)", 1_000, id="repeat"),
        pytest.param("lpad(s, 8, '0') || rpad(s, 10, '0')", 10, id="side by side"),
        pytest.param("repeat(lpad(s, 8, '0'), 10)", 80, id="nested"),
        pytest.param("range(7)", 8, id="series to"),
        pytest.param("generate_series(5, 10)", 6, id="series from, to"),
        pytest.param("range(10, 0, 2)", 6, id="series with a step"),
        pytest.param("range(0, 9, 0)", 10, id="series that stands still"),
        pytest.param("list_transform(range(99), lambda x: repeat(s, 50))", 5_000, id="lambda"),
        pytest.param("[repeat(s, 50) for x in range(99)]", 5_000, id="comprehension"),
        pytest.param("repeat(s, 10::BIGINT)", 10, id="cast"),
        pytest.param("repeat(s, -5)", 1, id="negative"),
        pytest.param("format('{:>12} {{}} {}', s, s)", 12, id="format"),
        pytest.param("printf('%05.2f %% %s', n, s)", 5, id="printf"),
        pytest.param("bar(n, 0, 10)", 1, id="default width"),
        pytest.param("list_resize(l, 30)", 30, id="list"),
    ],
)
def test_the_growth_of_an_expression_is_known(expression, times):
    assert growth_of(expression) == times


@pytest.mark.parametrize(
    "expression",
    [
        "repeat(s, n)",
        "REPEAT(s, n)",
        "repeat(s, 1 + 1)",
        "repeat(s, variables['n'])",
        "repeat(s, 3000000000)",
        "repeat(s, 3e9)",
        "s || lpad(s, n, 'x')",
        "rpad(s, 100001, 'x')",
        "range(n)",
        "range(0, n)",
        "range(0, 9, n)",
        "generate_series(0, 100001)",
        "list_resize(l, n)",
        "array_resize(l, 100001, 0)",
        "bitstring('1', n)",
        "bar(n, 0, 10, n)",
        "format('{:200000}', n)",
        "format('{:{}}', n, n)",
        "format(s, n)",
        "printf('%*d', n, n)",
        "printf('%.*f', n, n)",
        "printf(s, n)",
        "repeat(repeat(s, 1000), 1000)",
        "list_transform(range(1000), lambda x: repeat(s, 1000))",
        "[repeat(s, 1000) for x in list_transform(range(1000), lambda y: y)]",
    ],
)
def test_what_makes_an_unknown_or_unbounded_amount_is_refused_at_parse(expression):
    with BatchJob("job") as job, pytest.raises(InvalidExpressionError, match="Write a constant of at most 100,000"):
        job.sql_step("s", assign={"m": expression})


def test_growth_without_an_argument_is_left_to_duckdb():
    with pytest.raises(InvalidExpressionError, match="No function matches"):
        ExpressionEvaluator().evaluate("format()", pa.table({"s": ["x"]}))


def test_rows_are_evaluated_in_portions_that_leave_room_and_keep_their_errors():
    evaluator = ExpressionEvaluator(memory_limit="20MB")
    block = pa.table({"s": [str(n) if n % 7 else "x" for n in range(60)]})

    found = evaluator.evaluate("len(repeat(s, 50000)) + s::INT", block)

    assert list(found.errors) == [n for n in range(60) if n % 7 == 0]
    assert found.values.to_pylist() == [50_000 * len(str(n)) + n if n % 7 else None for n in range(60)]


def test_what_comes_of_all_rows_is_bounded_and_a_smaller_block_size_helps():
    evaluator = ExpressionEvaluator(memory_limit="20MB")
    block = pa.table({"s": ["x"] * 300})

    with pytest.raises(ExpressionLimitError, match=r"more than 20MB of memory for 300 records.*smaller block_size="):
        evaluator.evaluate("rpad(s, 100000, 'y')", block)
    assert len(evaluator.evaluate("rpad(s, 100000, 'y')", block.slice(0, 100)).values) == 100


@pytest.mark.parametrize("ask", [Asked.evaluate, Asked.accepts])
def test_a_limit_names_step_and_job(ask):
    text = "rpad(s, 100000, 'y') > ''" if ask is Asked.accepts else "rpad(s, 100000, 'y')"
    with BatchJob("job") as job:
        job.sql_step("grow", assign={"m": text})
    step, local = job.spec.steps[0], LocalRun(job.spec)
    local.load(pa.table({"s": ["x"] * 300}))
    block = Block(local.generation.claim("grow", "01", local.info, local.job).upstream, Span(0, 299))
    asking = Asking(job.spec, step, [text], ExpressionEvaluator(timeout=0.001, memory_limit="20MB"))
    (asked,) = asking.about(block, np.arange(300))

    with pytest.raises(ExpressionLimitError, match=r"in step 'grow' of job 'job' takes longer than 0\.001 s"):
        ask(asked, text)

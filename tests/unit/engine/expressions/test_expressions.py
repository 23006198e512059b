from __future__ import annotations

import datetime as dt
import inspect
import os
import pickle
import signal
import sys
import threading
import time
from decimal import Decimal

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_provider.domain.errors import ExpressionLimitError, InvalidExpressionError
from batch_provider.engine.expressions.evaluate import (
    EXACT_ERRORS,
    ExpressionEvaluator,
    _errors,
    check_expression,
    referenced_variables,
    resolve_columns,
    uses_failures,
)
from batch_provider.engine.expressions.sandbox import Sandbox, connect

_SHARED = ExpressionEvaluator()  # for the property, which no fixture of one example's life would suit
SLOW = "list_sum(list_transform(range(20000), lambda x: x * n)) > 0"  # minutes over MANY
MANY = pa.table({"n": range(200_000)})


@pytest.fixture(scope="module")
def evaluator():
    evaluator = ExpressionEvaluator()
    yield evaluator
    evaluator.close()


REFUSED = [
    pytest.param("", "empty", id="empty"),
    pytest.param(" \n\t", "empty", id="blank"),
    pytest.param("a, b", "several expressions", id="comma-list"),
    pytest.param("a;", "semicolon", id="semicolon"),
    pytest.param("a; DROP TABLE x", "more than one statement", id="second-statement-drop"),
    pytest.param("1=1; drop table x", "more than one statement", id="second-statement-in-small-letters"),
    pytest.param("a; SELECT 1", "more than one statement", id="second-statement-select"),
    pytest.param("DROP TABLE x", "", id="drop"),
    pytest.param("1=1) union select 1 --", "syntax error", id="union-injection"),
    pytest.param("1=1) FROM x WHERE (1=1", "syntax error", id="from-injection"),
    pytest.param("1) AS a, (2", "syntax error", id="list-injection"),
    pytest.param("1) + (2", "syntax error", id="brackets-that-close-ours"),
    pytest.param("(a", "syntax error", id="open-bracket"),
    pytest.param("a)", "syntax error", id="closing-bracket"),
    pytest.param("a -- always", "comment", id="line-comment"),
    pytest.param("a /* always */", "comment", id="block-comment"),
    pytest.param("a /* always", "comment", id="open-comment"),
    pytest.param("a UNION SELECT 1", "query", id="union"),
    pytest.param("a FROM x", "query", id="from"),
    pytest.param("a WHERE b", "query", id="where"),
    pytest.param("a LIMIT 1", "query", id="limit"),
    pytest.param("DISTINCT a", "query", id="distinct"),
    pytest.param("a AS b", "name follows", id="alias"),
    pytest.param("a b", "name follows", id="bare-alias"),
    pytest.param("(SELECT 1)", "subqueries", id="subquery"),
    pytest.param("EXISTS (FROM x)", "subqueries", id="exists"),
    pytest.param("a IN (SELECT 1)", "subqueries", id="in-subquery"),
    pytest.param("a = ANY([1])", "subqueries", id="any"),
    pytest.param("{'k': (VALUES (1))}", "subqueries", id="nested-values"),
    pytest.param("list_transform(a, lambda x: (SELECT x))", "subqueries", id="subquery-in-lambda"),
    pytest.param("sum(a)", "one record", id="aggregate"),
    pytest.param("count(*)", "one record", id="count-star"),
    pytest.param("list(a ORDER BY b)", "one record", id="ordered-aggregate"),
    pytest.param("abs(max(a))", "one record", id="nested-aggregate"),
    pytest.param("grouping(a)", "one record", id="grouping"),
    pytest.param("row_number() OVER ()", "window", id="window"),
    pytest.param("sum(a) OVER (PARTITION BY b)", "window", id="aggregate-window"),
    pytest.param("*", "name the columns", id="star"),
    pytest.param("t.*", "name the columns", id="qualified-star"),
    pytest.param("COLUMNS('a.*')", "name the columns", id="columns"),
    pytest.param("UNPACK(COLUMNS(*))", "name the columns", id="unpack"),
    pytest.param("a > $1", "parameters", id="numbered-parameter"),
    pytest.param("a > ?", "parameters", id="parameter"),
    pytest.param("a > $limit", "parameters", id="named-parameter"),
    pytest.param("#1", "not allowed", id="positional-reference"),
    pytest.param("DEFAULT", "not allowed", id="default"),
    pytest.param("unnest(a)", "not allowed", id="unnest"),
    pytest.param("read_text('/etc/passwd')", "not allowed", id="read-text"),
    pytest.param("read_csv('/etc/passwd')", "not allowed", id="read-csv"),
    pytest.param("glob('/etc/*')", "not allowed", id="glob"),
    pytest.param("duckdb_settings()", "not allowed", id="table-function"),
    pytest.param("getenv('HOME')", "no function", id="getenv"),
    pytest.param("current_setting('threads')", "not allowed", id="current-setting"),
    pytest.param("current_user()", "not allowed", id="current-user"),
    pytest.param("getvariable('x')", "not allowed", id="session-variable"),
    pytest.param("version()", "not allowed", id="version"),
    pytest.param("sleep_ms(100)", "not allowed", id="sleep"),
    pytest.param("pg_sleep(1)", "not allowed", id="pg-sleep"),
    pytest.param("nextval('s')", "not allowed", id="nextval"),
    pytest.param("random() < 0.5", "not allowed", id="random"),
    pytest.param("uuid()", "not allowed", id="uuid"),
    pytest.param("now()", "not allowed", id="now"),
    pytest.param("age(a)", "not allowed", id="age-of-today"),
    pytest.param("write_log('x')", "not allowed", id="log"),
    pytest.param("json_serialize_sql('SELECT 1')", "not allowed", id="parser"),
    pytest.param("no_such_function(a)", "no function no_such_function()", id="unknown-function"),
    pytest.param("main.upper(a)", "without a name", id="qualified-function"),
    pytest.param("a.upper()", "without a name", id="method-call"),
    pytest.param("list_transform(a, x -> x + 1)", "lambda x", id="arrow-lambda"),
    pytest.param("variables", "variables['name']", id="all-variables"),
    pytest.param("variables[a]", "variables['name']", id="computed-variable-name"),
    pytest.param("a'", "unterminated", id="open-string"),
    pytest.param("\ud800", "cannot be parsed", id="lone-surrogate"),
    pytest.param("(" * 50_000 + "a" + ")" * 50_000, "too deeply", id="100-kB-of-brackets"),
    pytest.param("(" * 5_000, "too deeply", id="open-brackets"),
    pytest.param("- " * 4_000 + "1", "too deeply", id="signs"),
    pytest.param("abs(" * 500 + "1" + ")" * 500, "too deeply", id="nested-calls"),
    pytest.param("NOT " * 900 + "a", "too deeply", id="negations"),
    pytest.param("a" + " + 1" * 900, "too deeply", id="a-long-sum"),
    pytest.param("a IN (" + "1," * 50_000 + "1)", "longer than 10,000", id="100-kB-of-list"),
]


@pytest.mark.parametrize(("expression", "reason"), REFUSED)
def test_what_is_not_one_scalar_expression_is_refused_at_once(expression, reason):
    started = time.monotonic()
    with pytest.raises(InvalidExpressionError) as caught:
        check_expression(expression)
    assert reason in caught.value.reason
    assert time.monotonic() - started < 5
    assert "\n" not in caught.value.reason
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="C code does not share the limit any more")
def test_an_expression_that_a_full_stack_cannot_hold_is_refused():
    def deeper(calls):
        return deeper(calls - 1) if calls else check_expression("abs(" * 150 + "a" + ")" * 150)

    with pytest.raises(InvalidExpressionError, match="nested too deeply"):
        deeper(sys.getrecursionlimit() - len(inspect.stack(0)) - 250)
    assert deeper(0) == {"a"}


@pytest.mark.parametrize(
    ("expression", "columns"),
    [
        pytest.param("true", set(), id="constant"),
        pytest.param("amount > 0 AND Country = 'NL'", {"amount", "Country"}, id="case-as-written"),
        pytest.param("distance / air_time * 60", {"distance", "air_time"}, id="arithmetic"),
        pytest.param('"order" > 1 OR "a b" IS NULL', {"order", "a b"}, id="quoted-names"),
        pytest.param("a BETWEEN 1 AND b", {"a", "b"}, id="between"),
        pytest.param("a NOT IN ('x', 'y')", {"a"}, id="in-list"),
        pytest.param("CASE WHEN a THEN b ELSE c END", {"a", "b", "c"}, id="case"),
        pytest.param("CASE a WHEN 1 THEN b END", {"a", "b"}, id="simple-case"),
        pytest.param("coalesce(a, nullif(b, ''))", {"a", "b"}, id="coalesce"),
        pytest.param("if(a, b, 0)", {"a", "b"}, id="if"),
        pytest.param("a::DECIMAL(10,2) > try_cast(b AS INT)", {"a", "b"}, id="casts"),
        pytest.param("TRY(a::DATE) IS NULL", {"a"}, id="try"),
        pytest.param("a LIKE 'x%' OR a SIMILAR TO 'y.*' OR a ~ 'z'", {"a"}, id="patterns"),
        pytest.param("regexp_extract(a, '(\\d+)', 1)", {"a"}, id="regexp"),
        pytest.param("extract(year FROM a) = 2024", {"a"}, id="extract"),
        pytest.param("a + INTERVAL 3 DAY > DATE '2024-01-01'", {"a"}, id="dates"),
        pytest.param("a AT TIME ZONE 'Europe/Amsterdam'", {"a"}, id="time-zone"),
        pytest.param("a->'$.x' = b->>'y'", {"a", "b"}, id="json"),
        pytest.param("s.f.g = s['h']", {"s"}, id="struct-fields"),
        pytest.param("list_transform(a, lambda x, i: x + i + b)", {"a", "b"}, id="lambda"),
        pytest.param("list_filter(a, lambda X: x.f > 1)", {"a"}, id="lambda-in-another-case"),
        pytest.param("list_transform(x, lambda x: x + 1)", {"x"}, id="lambda-shadows"),
        pytest.param("[x + b FOR x IN a IF x > 1]", {"a", "b"}, id="list-comprehension"),
        pytest.param("list_sum(a) > 1 AND len(a[1:2]) = 2", {"a"}, id="lists"),
        pytest.param("{'k': a, 'l': [b]}", {"a", "b"}, id="struct"),
        pytest.param("MAP {'k': a}", {"a"}, id="map"),
        pytest.param("(a, b) = (1, 2)", {"a", "b"}, id="row"),
        pytest.param("a COLLATE NOCASE = 'x'", {"a"}, id="collate"),
        pytest.param("a /* why */ > 1", {"a"}, id="comment-inside"),
        pytest.param("a > 1 -- why\n AND b", {"a", "b"}, id="line-comment-inside"),
        pytest.param("a = ') union select 1 --'", {"a"}, id="harmless-string"),
        pytest.param("variables['x'] = a", {"a"}, id="variables"),
        pytest.param("len(failures) > 0", set(), id="failures"),
        pytest.param("a IN (" + "'NL'," * 1_500 + "'BE')", {"a"}, id="long-list"),
        pytest.param(" || ".join(["a"] * 150), {"a"}, id="long-chain"),
    ],
)
def test_a_scalar_expression_names_its_columns(expression, columns):
    assert check_expression(expression) == columns


def test_the_variables_an_expression_reads_are_known():
    expression = "variables['x'] > 1 AND variables.y IS NULL AND Variables['it''s'].z AND other['v']"
    assert referenced_variables(expression) == {"x", "y", "it's"}
    assert check_expression(expression) == {"other"}


def test_whether_an_expression_reads_failures_is_known():
    assert uses_failures("failures[1].type = 'KeyError'")
    assert not uses_failures("list_filter(a, lambda failures: failures > 1)")


def test_columns_match_without_regard_to_case_but_exactly_first():
    assert resolve_columns("amount > 0 AND AMOUNT < 9", ["Amount"]) == {"amount": "Amount", "AMOUNT": "Amount"}
    assert resolve_columns("a > 0", ["A", "a"]) == {"a": "a"}


def test_columns_that_differ_by_case_only_are_refused_when_both_could_be_meant():
    with pytest.raises(InvalidExpressionError, match="case of letters"):
        resolve_columns("amount > 0", ["Amount", "AMOUNT"])
    with pytest.raises(InvalidExpressionError, match="case of letters"):
        resolve_columns("a > 0 AND A > 0", ["A", "a"])


def test_an_unknown_column_is_refused_with_those_that_exist(evaluator):
    with pytest.raises(InvalidExpressionError, match="no column 'amout', only amount, country") as caught:
        evaluator.evaluate("amout > 0", pa.table({"amount": [1], "country": ["NL"]}))
    assert caught.value.expression == "amout > 0"


@pytest.mark.parametrize("name", ["current_date", "user", "rowid", "__batch_block", "__batch_row"])
def test_a_name_that_sql_knows_is_still_only_a_column(evaluator, name):
    with pytest.raises(InvalidExpressionError, match="no column"):
        evaluator.evaluate(f'"{name}" IS NULL', pa.table({"a": [1]}))
    assert evaluator.evaluate(f'"{name}"', pa.table({name: ["x"]})).values.to_pylist() == ["x"]
    assert evaluator.evaluate(name, pa.table({name: ["x"]})).values.to_pylist() == ["x"]


@pytest.mark.parametrize(
    ("expression", "values", "expected", "failed"),
    [
        pytest.param("c::INT", ["1", "x", "3"], [1, None, 3], {1: "ConversionException"}, id="cast"),
        pytest.param("c::INT + c::INT", ["1", "x"], [2, None], {1: "ConversionException"}, id="cast-twice"),
        pytest.param("c::DATE", ["2024-02-29", "2023-02-29"], [dt.date(2024, 2, 29), None],
                     {1: "ConversionException"}, id="date"),
        pytest.param("c / 0 > 1", [1, None], [True, None], {}, id="division-gives-infinity"),
        pytest.param("6 // c", [2, 0, 3], [3, None, 2], {1: "InvalidInputException"}, id="whole-division-by-zero"),
        pytest.param("6 % c", [4, 0], [2, None], {1: "InvalidInputException"}, id="remainder-by-zero"),
        pytest.param("c + 9223372036854775800", [1, 100], [9223372036854775801, None],
                     {1: "OutOfRangeException"}, id="overflow"),
        pytest.param("regexp_matches('a', c)", ["a", "(", "b"], [True, None, False],
                     {1: "InvalidInputException"}, id="regexp"),
        pytest.param("strptime(c, '%Y')::DATE", ["2024", "?"], [dt.date(2024, 1, 1), None],
                     {1: "InvalidInputException"}, id="strptime"),
        pytest.param("list_transform([c, '2'], lambda x: x::INT)", ["1", "x"], [[1, 2], None],
                     {1: "ConversionException"}, id="in-a-lambda"),
        pytest.param("c <> 'x' AND c::INT > 0", ["1", "x"], [True, None],
                     {1: "ConversionException"}, id="and-does-not-guard"),
        pytest.param("CASE WHEN c <> 'x' THEN c::INT + c::INT > 0 END", ["1", "x"], [True, None], {},
                     id="case-guards"),
        pytest.param("TRY(c::INT)", ["1", "x"], [1, None], {}, id="try-guards"),
        pytest.param("TRY(c::INT + c::INT)", ["1", "x"], [2, None], {}, id="try-guards-what-stands-twice"),
        pytest.param("1 // 0", [1, 2], [None, None],
                     {0: "InvalidInputException", 1: "InvalidInputException"}, id="without-any-column"),
        pytest.param("c::INT", ["x", "y"], [None, None],
                     {0: "ConversionException", 1: "ConversionException"}, id="every-row"),
    ],
)  # fmt: skip
def test_a_row_that_fails_leaves_the_others_alone(evaluator, expression, values, expected, failed):
    found = evaluator.evaluate(expression, pa.table({"c": values}))
    assert found.values.to_pylist() == expected
    assert {row: kind for row, (kind, _) in found.errors.items()} == failed


def test_the_message_of_a_failed_row_is_that_of_its_own_value(evaluator):
    found = evaluator.evaluate("c::INT", pa.table({"c": ["x", "1", "y\n\nz", "x"]}))
    assert list(found.errors) == [0, 2, 3]
    assert found.errors[0] == found.errors[3]
    assert found.errors[0][1].startswith("Could not convert string 'x' to INT32")
    assert "y\n\nz" in found.errors[2][1]
    assert "LINE" not in found.errors[0][1]


def test_after_many_different_failed_rows_the_rest_share_a_message(evaluator):
    rows = EXACT_ERRORS + 50
    found = evaluator.evaluate("c::INT", pa.table({"c": [f"x{n}" for n in range(rows)]}))
    assert list(found.errors) == list(range(rows))
    assert f"'x{EXACT_ERRORS - 1}'" in found.errors[EXACT_ERRORS - 1][1]
    assert "the first of 50 failed records" in found.errors[rows - 1][1]
    assert {kind for kind, _ in found.errors.values()} == {"ConversionException"}


def test_after_failed_rows_the_next_evaluation_is_unaffected(evaluator):
    assert evaluator.evaluate("c::INT", pa.table({"c": ["x"]})).errors
    assert evaluator.evaluate("c::INT", pa.table({"c": ["1"]})).values.to_pylist() == [1]


def test_an_unused_value_of_a_dictionary_fails_no_row(evaluator):
    column = pa.DictionaryArray.from_arrays(pa.array([0, 2]), pa.array(["1", "x", "3"]))
    found = evaluator.evaluate("c::INT", pa.table({"c": column}))
    assert (found.values.to_pylist(), found.errors) == ([1, 3], {})


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        pytest.param("c + 1", "No function matches", id="no-such-operator"),
        pytest.param("c::NO_SUCH_TYPE", "Type with name", id="no-such-type"),
        pytest.param("c.f = 1", "Cannot extract field", id="no-struct"),
        pytest.param("regexp_matches(c, '(')", "missing )", id="constant-pattern"),
        pytest.param("c COLLATE no_such_collation", "ollation", id="no-such-collation"),
    ],
)
def test_what_no_row_could_satisfy_is_an_error_of_the_expression(evaluator, expression, reason):
    with pytest.raises(InvalidExpressionError) as caught:
        evaluator.evaluate(expression, pa.table({"c": ["x", "y"]}))
    assert reason in caught.value.reason
    assert "\n" not in caught.value.reason


@given(
    st.lists(st.one_of(st.integers(-9, 9).map(str), st.sampled_from(["", "x", "1e", "½"]), st.none()), max_size=80),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_exactly_the_rows_that_cannot_be_converted_fail(values, twice):
    block = pa.table({"c": pa.array(values, pa.string()), "i": pa.array(range(len(values)), pa.int64())})
    bad = [row for row, value in enumerate(values) if value in {"", "x", "1e", "½"}]
    found = _SHARED.evaluate("c::INT + c::INT + i" if twice else "c::INT + i", block)
    assert list(found.errors) == bad
    factor = 2 if twice else 1
    expected = [None if v is None or r in bad else factor * int(v) + r for r, v in enumerate(values)]
    assert found.values.to_pylist() == expected
    assert _SHARED.accepts("c::INT > 0", block).mask.tolist() == [
        v is not None and r not in bad and int(v) > 0 for r, v in enumerate(values)
    ]


def test_the_order_of_rows_is_kept_over_many_vectors_and_chunks(evaluator):
    numbers = [(n * 7919) % 30_011 for n in range(30_011)]
    block = pa.table({"n": pa.chunked_array([numbers[:5], numbers[5:17_000], numbers[17_000:]])})
    assert evaluator.evaluate("n", block).values.to_pylist() == numbers
    texts = pa.table({"n": ["x" if n % 1_000 == 7 else str(n) for n in numbers]})
    found = evaluator.evaluate("n::INT", texts)
    assert found.values.to_pylist() == [None if n % 1_000 == 7 else n for n in numbers]
    assert list(found.errors) == [row for row, n in enumerate(numbers) if n % 1_000 == 7]


@pytest.mark.parametrize(
    ("values", "expression", "expected"),
    [
        pytest.param(pa.array([Decimal("1.10"), None]), "c * 2", [Decimal("2.20"), None], id="decimal"),
        pytest.param(pa.array([1_704_164_400], pa.timestamp("s")), "c::DATE", [dt.date(2024, 1, 2)], id="timestamp"),
        pytest.param(pa.array([dt.datetime(2024, 1, 1, 23, tzinfo=dt.UTC)]).cast(pa.timestamp("us", "Asia/Tokyo")),
                     "c::DATE", [dt.date(2024, 1, 1)], id="zoned-timestamp-is-read-in-utc"),
        pytest.param(pa.array(["x", "y", "x"]).dictionary_encode(), "c || '!'", ["x!", "y!", "x!"], id="dictionary"),
        pytest.param(pa.array([[1, 2], [], None]), "len(c)", [2, 0, None], id="list"),
        pytest.param(pa.array([{"f": {"g": 1}}, None]), "c.f.g + 1", [2, None], id="struct"),
        pytest.param(pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), "c['k']", [1], id="map"),
        pytest.param(pa.array([b"ab"]), "octet_length(c)", [2], id="binary"),
        pytest.param(pa.array(["a"], pa.large_string()), "upper(c)", ["A"], id="large-string"),
        pytest.param(pa.array(["a"], pa.string_view()), "upper(c)", ["A"], id="string-view"),
        pytest.param(pa.nulls(2), "c IS NULL", [True, True], id="nothing-but-null"),
        pytest.param(pa.array(['{"k": 7}']), "(c->>'k')::INT", [7], id="json-text"),
        pytest.param(pa.array([2**63], pa.uint64()), "c - 1", [2**63 - 1], id="unsigned"),
    ],
)  # fmt: skip
def test_columns_of_every_kind_are_read(evaluator, values, expression, expected):
    found = evaluator.evaluate(expression, pa.table({"c": values}))
    assert (found.values.to_pylist(), found.errors) == (expected, {})


@pytest.mark.parametrize("name", ["order", "select", "a b", 'a"b', "s.f", "é", "🦆", "__batch_row_", "lambda"])
def test_a_name_that_needs_quotes_is_read(evaluator, name):
    quoted = '"' + name.replace('"', '""') + '"'
    block = pa.table({"other": [0, 0], name: ["1", "x"]})
    found = evaluator.evaluate(f"{quoted}::INT", block)
    assert (found.values.to_pylist(), list(found.errors)) == ([1, None], [1])


def test_only_the_columns_that_are_named_are_read(evaluator):
    unreadable = pa.array([1.5], pa.float16())
    assert evaluator.evaluate("a + 1", pa.table({"a": [1], "b": unreadable})).values.to_pylist() == [2]


@pytest.mark.parametrize(
    "expression", ["true", "n > 0", "variables['x'] = 1", "len(failures) = 0", "n::VARCHAR::INT > 0"]
)
def test_a_block_without_rows_gives_nothing(evaluator, expression):
    found = evaluator.accepts(expression, pa.table({"n": pa.array([], pa.int64())}), variables=[], failures=[])
    assert (found.mask.tolist(), found.errors) == ([], {})


def test_a_constant_has_a_value_for_every_row(evaluator):
    assert evaluator.evaluate("1 + 1", pa.table({"n": [5, 6, 7]})).values.to_pylist() == [2, 2, 2]


def test_null_and_failed_rows_are_not_accepted(evaluator):
    found = evaluator.accepts("c::INT > 1", pa.table({"c": ["1", None, "x", "2"]}))
    assert found.mask.tolist() == [False, False, False, True]
    assert found.mask.dtype == bool
    assert list(found.errors) == [2]


def test_a_block_whose_column_is_all_null_accepts_nothing(evaluator):
    assert evaluator.accepts("flag", pa.table({"flag": pa.nulls(2)})).mask.tolist() == [False, False]


def test_an_acceptance_that_is_not_boolean_is_refused_with_its_type(evaluator):
    with pytest.raises(InvalidExpressionError, match="of type int64, not true or false"):
        evaluator.accepts("n + 1", pa.table({"n": [1]}))


def test_variables_are_read_per_record_and_absent_ones_are_null(evaluator):
    block = pa.table({"n": [1, 2, 3]})
    found = evaluator.evaluate("variables['x'] + n", block, variables=[{"x": 10}, {"y": 1}, None])
    assert found.values.to_pylist() == [11, None, None]
    assert evaluator.evaluate("variables.x IS NULL", block).values.to_pylist() == [True] * 3


@pytest.mark.parametrize(
    ("values", "expression", "expected"),
    [
        pytest.param([1, 2.5], "variables.x * 2", [2.0, 5.0], id="numbers"),
        pytest.param([1, "a", True, None, [1], {"k": 1}], "variables.x",
                     ["1", "a", "true", None, "[1]", '{"k": 1}'], id="mixed-become-text"),
        pytest.param([2**70, 1], "variables.x", [str(2**70), "1"], id="too-large-become-text"),
        pytest.param([{"k": 1}, {"k": 2}], "variables.x.k", [1, 2], id="structs"),
        pytest.param([["a"], []], "len(variables['x'])", [1, 0], id="lists"),
        pytest.param([None, None], "variables.x = 1", [None, None], id="nothing-known"),
    ],
)  # fmt: skip
def test_a_variable_has_the_type_its_values_share(evaluator, values, expression, expected):
    block = pa.table({"n": range(len(values))})
    found = evaluator.evaluate(expression, block, variables=[{"x": value} for value in values])
    assert found.values.to_pylist() == expected


def test_variables_that_differ_by_case_only_are_refused_together(evaluator):
    block = pa.table({"n": [1]})
    assert evaluator.evaluate("variables['X']", block, variables=[{"x": 1, "X": 2}]).values.to_pylist() == [2]
    with pytest.raises(InvalidExpressionError, match="case of letters"):
        evaluator.evaluate("variables['X'] + variables['x']", block, variables=[{"x": 1, "X": 2}])


def test_failures_are_read_per_record(evaluator):
    failures = [[], [{"step": "price", "type": "KeyError", "message": "'k'", "at": "ignored"}]]
    block = pa.table({"n": [1, 2]})
    count = evaluator.evaluate("len(failures)", block, failures=failures)
    assert count.values.to_pylist() == [0, 1]
    kind = evaluator.accepts("list_contains([f.type FOR f IN failures], 'KeyError')", block, failures=failures)
    assert kind.mask.tolist() == [False, True]
    assert evaluator.evaluate("len(failures)", block).values.to_pylist() == [0, 0]


@pytest.mark.parametrize("name", ["variables", "failures", "Failures"])
def test_a_column_named_as_variables_or_failures_is_refused_only_where_it_could_be_meant(evaluator, name):
    block = pa.table({name: [1], "n": [1]})
    assert evaluator.evaluate("n + 1", block).values.to_pylist() == [2]
    expression = "variables['x'] = 1" if name == "variables" else "len(failures) = 0"
    with pytest.raises(InvalidExpressionError, match="there is a column of that name too"):
        evaluator.evaluate(expression, block)


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("SELECT * FROM read_text('/etc/hostname')", id="read"),
        pytest.param("COPY (SELECT 1) TO '/tmp/batch-provider-escape.csv'", id="write"),
        pytest.param("ATTACH '/tmp/batch-provider-escape.duckdb'", id="attach"),
        pytest.param("LOAD httpfs", id="extension"),
        pytest.param("SET enable_external_access = true", id="unlock"),
        pytest.param("SET memory_limit = '1TB'", id="more-memory"),
    ],
)
def test_the_sandbox_holds_even_when_a_statement_gets_through(statement):
    with connect() as conn, pytest.raises(duckdb.Error):
        conn.execute(statement)


def test_a_slow_expression_is_stopped_by_the_timeout_and_named():
    evaluator = ExpressionEvaluator(timeout=0.3)
    started = time.monotonic()
    with pytest.raises(ExpressionLimitError, match=r"takes longer than 0\.3 s for 200,000 records"):
        evaluator.accepts(SLOW, MANY)
    assert time.monotonic() - started < 20
    assert evaluator.accepts("n > 0", pa.table({"n": [0, 1]})).mask.tolist() == [False, True]


class _TaskTimeout(BaseException):
    """As Airflow's: no subclass of Exception."""


@pytest.mark.parametrize("raised", [_TaskTimeout, RuntimeError])
def test_what_a_signal_handler_raises_leaves_the_evaluation_at_once(raised):
    def handler(signum, frame):
        raise raised("Query interrupted")

    evaluator = ExpressionEvaluator()
    before = signal.signal(signal.SIGUSR1, handler)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1))
    started = time.monotonic()
    try:
        timer.start()
        with pytest.raises(raised, match=r"^Query interrupted$"):
            evaluator.accepts(SLOW, MANY)
    finally:
        signal.signal(signal.SIGUSR1, before)
        timer.cancel()
    assert time.monotonic() - started < 20
    assert evaluator.accepts("n > 0", pa.table({"n": [0, 1]})).mask.tolist() == [False, True]
    evaluator.close()


def test_a_query_that_somebody_else_interrupts_is_not_a_bad_record():
    sandbox = Sandbox()

    def interrupted(conn):
        threading.Timer(0.2, conn.interrupt).start()
        return conn.sql("SELECT sum(a.range * b.range) FROM range(100000) a, range(1000000) b").fetchall()

    with pytest.raises(duckdb.InterruptException):
        sandbox.run(interrupted)
    assert sandbox.run(lambda conn: conn.sql("SELECT 1").fetchall()) == [(1,)]
    sandbox.close()


def test_what_work_raises_leaves_the_sandbox_as_it_is():
    def fail(conn):
        raise RuntimeError("Query interrupted")

    with pytest.raises(RuntimeError, match=r"^Query interrupted$"):
        Sandbox().run(fail)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_process_opens_a_sandbox_of_its_own():
    evaluator = ExpressionEvaluator()
    block = pa.table({"c": ["1", "x"]})
    assert list(evaluator.evaluate("c::INT", block).errors) == [1]
    child = os.fork()
    if child == 0:
        same = evaluator.evaluate("c::INT", block).values.to_pylist() == [1, None]
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert evaluator.evaluate("c::INT", block).values.to_pylist() == [1, None]
    evaluator.close()


def test_an_evaluator_can_be_closed_twice_and_used_again():
    evaluator = ExpressionEvaluator()
    evaluator.close()
    block = pa.table({"n": [1]})
    assert evaluator.evaluate("n", block).values.to_pylist() == [1]
    evaluator.close()
    evaluator.close()
    assert evaluator.evaluate("n", block).values.to_pylist() == [1]
    evaluator.close()


def test_a_row_that_raises_among_others_and_not_alone_fails_all_the_same():
    """Not known to happen; its record must not be lost from the errors if it does."""
    table = pa.table({"n": [1], "__batch_row": [0]})
    assert _errors(connect(), "n > 0", table) == {
        0: ("ExpressionError", "the expression cannot be evaluated for this record")
    }


RAISES_FOR_SOME = [
    pytest.param("TIMESTAMP '2024-03-01' AT TIME ZONE zone", id="no-such-time-zone"),
    pytest.param("list_reduce(l, lambda a, b: a + b)", id="reduce-an-empty-list"),
    pytest.param("time_bucket(INTERVAL (len(l)) DAY, DATE '2024-03-01')", id="bucket-of-no-length"),
    pytest.param("regexp_matches('x', pattern)", id="pattern"),
]


@pytest.mark.parametrize("expression", RAISES_FOR_SOME)
@pytest.mark.parametrize("bad", [[2], [0, 1, 4], [0, 1, 2, 3, 4, 5]])
def test_whatever_running_raises_is_the_records_even_of_all_of_them(evaluator, expression, bad):
    rows = [{"zone": "UTC", "l": [1, 2], "pattern": "a"}] * 6
    for row in bad:
        rows[row] = {"zone": f"Nowhere/{row}", "l": [], "pattern": "("}
    schema = pa.schema({"zone": pa.string(), "l": pa.list_(pa.int64()), "pattern": pa.string()})

    found = evaluator.evaluate(expression, pa.Table.from_pylist(rows, schema))

    assert sorted(found.errors) == bad
    assert all(message for _, message in found.errors.values())
    values = found.values.to_pylist()
    assert [row for row, value in enumerate(values) if value is None] == bad
    alone = [evaluator.evaluate(expression, pa.Table.from_pylist([row], schema)) for row in rows]
    assert values == [one.values.to_pylist()[0] for one in alone], "a record's fate depends on itself alone"


@pytest.mark.parametrize("function", ["regexp_matches(c, '(')", "regexp_replace(c, '[', '')", "c SIMILAR TO 'a**{'"])
def test_a_constant_pattern_that_is_none_is_refused_while_the_dag_is_parsed(function):
    with pytest.raises(InvalidExpressionError):
        check_expression(function)


def test_a_pattern_taken_literally_is_none_to_be_checked(evaluator):
    found = evaluator.evaluate("regexp_matches(c, '(', 'l')", pa.table({"c": ["f(x)", "x"]}))
    assert (found.values.to_pylist(), found.errors) == ([True, False], {})


def test_memory_that_does_not_suffice_ends_the_task_and_fails_no_record():
    evaluator = ExpressionEvaluator(memory_limit="20MB")
    with pytest.raises(ExpressionLimitError, match="takes more than 20MB of memory for 2 records"):
        evaluator.evaluate("string_split(c, '')", pa.table({"c": ["x" * 4_000_000, "y"]}))

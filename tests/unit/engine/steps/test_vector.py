"""SQL and Arrow steps: vectorised, row by row by construction, each record's failure its own."""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from batch_provider import AggregatorSpec, BatchJob, InvalidOptionError, SqlSpec, StepSpec, failed
from batch_provider.domain.errors import InvalidExpressionError, InvalidReturnError
from batch_provider.testing import LocalRun

ORDERS = [
    {"qty": 1, "amount": "1.5"},
    {"qty": 2, "amount": "x"},
    {"qty": -1, "amount": "3"},
    {"qty": 4, "amount": "4"},
]


def run(job, records=ORDERS, **options):
    local = LocalRun(job.spec, **options)
    return local.run(records), local


def errors(result):
    return {(error.exception, error.step, error.count, error.sample) for error in result.errors}


BLOCKS = pytest.mark.parametrize("block_size", [pytest.param(1, id="blocks of 1"), pytest.param(3, id="blocks of 3")])


@BLOCKS
def test_checks_fail_records_with_their_message_and_assignments_are_for_the_rest(block_size):
    with BatchJob("job", max_failed_records=-1, block_size=block_size) as job:
        job.sql_step(
            "price",
            checks={"qty must be positive": "qty > 0", "no number": "try_cast(amount as double) is not null"},
            assign={"cents": "cast(round(cast(amount as double) * 100) as bigint)"},
        )

    result, local = run(job)

    assert errors(result) == {
        ("CheckFailed", "price", 1, "no number"),
        ("CheckFailed", "price", 1, "qty must be positive"),
    }
    assert [row["cents"] for row in local.output()] == [150, None, None, 400]
    assert local.query("SELECT record_id, message FROM failures ORDER BY 1") == [
        (1, "no number"),
        (2, "qty must be positive"),
    ]


@BLOCKS
def test_a_conversion_error_fails_its_record_alone(block_size):
    with BatchJob("job", max_failed_records=1, block_size=block_size) as job:
        job.sql_step("number", assign={"number": "cast(amount as double)"})

    result, local = run(job)

    assert [row["number"] for row in local.output()] == [1.5, None, 3.0, 4.0]
    assert [(error.exception, error.count) for error in result.errors] == [("ConversionException", 1)]


def test_a_check_that_is_null_fails_the_record():
    with BatchJob("job", max_failed_records=1) as job:
        job.sql_step("known", checks={"must be known": "n > 0"})

    result, _ = run(job, [{"n": 1}, {"n": None}])

    assert errors(result) == {("CheckFailed", "known", 1, "must be known")}


@BLOCKS
def test_a_check_keeps_records_from_the_checks_and_assignments_after_it(block_size):
    with BatchJob("job", max_failed_records=-1, block_size=block_size) as job:
        job.sql_step(
            "price",
            checks={"no number": "try_cast(amount as double) is not null", "too dear": "cast(amount as double) < 4"},
            assign={"euro": "cast(amount as double)"},
        )

    _, local = run(job)

    assert local.query("SELECT record_id, error_type, message FROM failures ORDER BY 1") == [
        (1, "CheckFailed", "no number"),
        (3, "CheckFailed", "too dear"),
    ]
    assert [row["euro"] for row in local.output()] == [1.5, None, 3.0, None]


def test_the_first_check_that_does_not_hold_is_the_error():
    with BatchJob("job", max_failed_records=-1) as job:
        job.sql_step("both", checks={"not negative": "qty >= 0", "at least 1": "qty >= 1"}, assign={"n": "qty"})

    result, local = run(job, [{"qty": -1}, {"qty": 0}, {"qty": 1}])

    assert [(error.sample, error.count) for error in result.errors] == [("at least 1", 1), ("not negative", 1)]
    assert [row["n"] for row in local.output()] == [None, None, 1]


@pytest.mark.parametrize(
    ("expressions", "named"),
    [
        pytest.param({"checks": {"fine": "qty > 0", "odd": "qty + 1"}}, "qty + 1", id="check that is no boolean"),
        pytest.param({"assign": {"n": "qty", "m": "year(amount)"}}, "year", id="function of another type"),
    ],
)
def test_an_expression_that_does_not_suit_the_columns_is_named(expressions, named):
    with BatchJob("job") as job:
        job.sql_step("wrong", **expressions)
    local = LocalRun(job.spec)
    local.load([{"qty": 1, "amount": [1]}])

    with pytest.raises(InvalidExpressionError, match=re.escape(named)):
        local.process_all()


def test_nothing_is_assigned_where_no_record_passes():
    with BatchJob("job", max_failed_records=-1) as job:
        job.sql_step("none", checks={"never": "qty > 9"}, assign={"n": "qty"})

    _, local = run(job, [{"qty": 1}, {"qty": 2}])

    assert local.output() == [{"qty": 1}, {"qty": 2}]


def test_assignments_see_the_record_as_it_came():
    with BatchJob("job") as job:
        job.sql_step("swap", assign={"a": "b", "b": "a"})

    _, local = run(job, [{"a": 1, "b": 2}])

    assert local.output() == [{"a": 2, "b": 1}]


@BLOCKS
def test_a_text_column_that_becomes_numbers_keeps_the_text_of_failed_records(block_size):
    with BatchJob("job", max_failed_records=1, block_size=block_size) as job:
        job.sql_step("convert", assign={"amount": "cast(amount as double)"})

    _, local = run(job)

    assert [row["amount"] for row in local.output()] == [1.5, "x", 3.0, 4.0]


def test_names_that_sql_would_misread_are_columns_all_the_same():
    with BatchJob("job") as job:
        job.sql_step("odd", assign={"it's": '"select" + 1', "a b": '"select"'})

    _, local = run(job, [{"select": 1}])

    assert local.output() == [{"select": 1, "it's": 2, "a b": 1}]


def test_a_sql_step_reads_only_the_columns_it_names():
    with BatchJob("job") as job:
        job.sql_step("twice", assign={"m": "N * 2"})

    _, local = run(job, [{"n": 2, "other": "x"}])

    assert local.output() == [{"n": 2, "other": "x", "m": 4}]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        pytest.param({}, InvalidOptionError, id="nothing to do"),
        pytest.param({"checks": {"x": "n >"}}, InvalidExpressionError, id="syntax"),
        pytest.param({"checks": {"x": "(SELECT 1)"}}, InvalidExpressionError, id="subquery"),
        pytest.param({"assign": {"m": "sum(n)"}}, InvalidExpressionError, id="aggregate"),
        pytest.param({"assign": {"_id": "n"}}, InvalidOptionError, id="reserved column"),
        pytest.param({"assign": {"m": 5}}, InvalidOptionError, id="no text"),
        pytest.param({"checks": {"x": "n > 0"}, "retries": 2}, InvalidOptionError, id="retries"),
        pytest.param({"checks": {"x": "n > 0"}, "output": "replace"}, InvalidOptionError, id="output"),
    ],
)
def test_a_wrong_sql_step_is_refused_where_it_is_declared(options, problem):
    with BatchJob("job") as job, pytest.raises(problem, match="'step' of job 'job'"):
        job.sql_step("step", **options)


@BLOCKS
def test_an_arrow_step_adds_and_replaces_columns(block_size):
    with BatchJob("job", block_size=block_size) as job:

        @job.arrow_step
        def twice(block):
            assert isinstance(block, pa.RecordBatch)
            return block.set_column(0, "qty", pc.multiply(block["qty"], 2)).append_column(
                "one", pa.array([1] * len(block))
            )

    _, local = run(job)

    assert [(row["qty"], row["one"]) for row in local.output()] == [(2, 1), (4, 1), (-2, 1), (8, 1)]


@pytest.mark.parametrize(
    "messages", [pytest.param("negative", id="one message"), pytest.param(["negative"] * 4, id="one each")]
)
def test_failed_names_the_records_that_fail(messages):
    with BatchJob("job", max_failed_records=1) as job:

        @job.arrow_step
        def check(block):
            return failed(pc.less(block["qty"], 0), messages, block.append_column("seen", block["qty"]))

    result, local = run(job)

    assert errors(result) == {("CheckFailed", "check", 1, "negative")}
    assert [row["seen"] for row in local.output()] == [1, 2, None, 4]


@BLOCKS
def test_a_raise_is_halved_until_the_bad_record_stands_alone(block_size):
    sizes = []
    with BatchJob("job", max_failed_records=1, block_size=block_size) as job:

        @job.arrow_step
        def parse(block):
            sizes.append(len(block))
            return block.append_column("number", pc.cast(block["amount"], pa.float64()))

    result, local = run(job)

    assert [row["number"] for row in local.output()] == [1.5, None, 3.0, 4.0]
    assert [(error.exception, error.count) for error in result.errors] == [("ArrowInvalid", 1)]
    assert 1 in sizes


def test_records_that_are_not_accepted_are_not_in_the_block():
    seen = []
    with BatchJob("job", max_failed_records=1) as job:
        job.sql_step("check", checks={"negative": "qty > 0"})

        @job.arrow_step(accept_expression="qty <> 2")
        def look(block, *, record_ids):
            seen.extend(zip(record_ids.tolist(), block["qty"].to_pylist(), strict=True))

    result, _ = run(job)

    assert seen == [(0, 1), (3, 4)]
    assert (result.step("look").successful, result.step("look").skipped) == (2, 2)


WRONG = [
    pytest.param(lambda block: block.slice(1), "3 rows for 4 records", id="fewer rows"),
    pytest.param(lambda block: block.slice(0, 3), "3 rows for 4 records", id="rows that halves would have"),
    pytest.param(lambda block: block.slice(0, 0), "0 rows for 4 records", id="no rows"),
    pytest.param(lambda block: pa.concat_batches([block, block]), "8 rows for 4 records", id="more rows"),
    pytest.param(lambda block: block.to_pylist(), "a list for 4 records", id="no batch"),
    pytest.param(lambda block: failed([True] * 5, "x"), "a failed(…) with 5 flags for 4 records", id="too many flags"),
    pytest.param(lambda block: failed(block["qty"], "x"), "mask is Int64Array of int64", id="numbers as flags"),
    pytest.param(lambda block: failed(["no"] * 4, "x"), "whose mask is list", id="texts as flags"),
    pytest.param(lambda block: failed(True, "x"), "whose mask is bool", id="one flag"),
    pytest.param(lambda block: failed([True] * 4, ["x"]), "a failed(…) with 1 message", id="too few messages"),
    pytest.param(lambda block: failed([True] * 4, ["x"] * 9), "with 9 messages", id="too many messages"),
    pytest.param(lambda block: failed([True] * 4, None), "whose message is NoneType", id="no message"),
    pytest.param(lambda block: failed([False] * 4, "x", block.slice(1)), "3 rows for 4", id="rows beside flags"),
    pytest.param(lambda block: block.append_column("_id", block["qty"]), "the column '_id'", id="reserved column"),
    pytest.param(lambda block: block.append_column("", block["qty"]), "the column ''", id="column without a name"),
    pytest.param(lambda block: block.append_column("qty", block["qty"]), "the column 'qty'", id="name twice"),
    pytest.param(
        lambda block: block.append_column("age", pa.array([(1, 2, 3)] * 4, pa.month_day_nano_interval())),
        "the column 'age' of type month_day_nano_interval",
        id="type that Parquet lacks",
    ),
]


@pytest.mark.parametrize(("returned", "came"), WRONG)
def test_a_wrong_return_of_an_arrow_step_ends_the_task_at_once_and_says_what_came(returned, came):
    calls = []
    with BatchJob("job", max_failed_records=-1, block_size=4) as job:

        @job.arrow_step
        def wrong(block):
            calls.append(len(block))
            return returned(block)

    local = LocalRun(job.spec)
    local.load(ORDERS)

    with pytest.raises(InvalidReturnError, match=re.escape(came)) as caught:
        local.process_all()
    assert caught.value.step == "wrong"
    assert not caught.value.retryable
    assert calls == [4]


@pytest.mark.parametrize(
    "mask",
    [
        pytest.param(lambda block: pa.chunked_array([pc.less(block["qty"], 0)]), id="chunked"),
        pytest.param(lambda block: pc.less(block["qty"], 0).to_numpy(zero_copy_only=False), id="numpy"),
        pytest.param(lambda block: [q < 0 or None for q in block["qty"].to_pylist()], id="list with nulls"),
    ],
)
def test_a_mask_may_be_any_array_of_booleans(mask):
    with BatchJob("job", max_failed_records=1) as job:

        @job.arrow_step
        def check(block):
            return failed(mask(block), "negative", pa.Table.from_batches([block]))

    result, _ = run(job)

    assert errors(result) == {("CheckFailed", "check", 1, "negative")}


def test_a_mask_of_nothing_but_nulls_fails_nobody():
    with BatchJob("job") as job:
        job.arrow_step(name="check")(lambda block: failed(pa.nulls(len(block)), "never"))

    result, _ = run(job)

    assert result.failed_records == 0


def test_a_vector_step_resumes_and_redrives_as_any_other():
    broken = [True]
    with BatchJob("job", max_failed_records=-1, block_size=2) as job:

        @job.arrow_step
        def check(block):
            return failed(pc.less(block["qty"], 0), "negative") if broken else None

        job.sql_step("after", assign={"n": "qty + 1"})

    local = LocalRun(job.spec, shards=2)
    first = local.run(ORDERS)
    broken.clear()
    local.next_round()
    local.process_all()
    second = local.complete()

    assert (first.failed_records, second.failed_records) == (1, 0)
    assert [row["n"] for row in local.output()] == [2, 3, 0, 5]


def test_a_step_may_retype_a_column_for_the_records_it_accepts():
    with BatchJob("job") as job:
        job.sql_step("half", accept_expression="n > 1", assign={"n": "n / 2.0"})

    _, local = run(job, [{"n": 1}, {"n": 3}])

    assert local.output() == [{"n": 1.0}, {"n": 1.5}]


def test_halves_that_replace_a_column_only_here_and_there_keep_the_rest():
    with BatchJob("job", max_failed_records=1) as job:

        @job.arrow_step
        def parse(block):
            if len(block) > 1:
                raise ValueError("one at a time")
            if block["qty"][0].as_py() == -1:
                raise ValueError("negative")
            return block.set_column(0, "qty", pa.array([0])) if block["qty"][0].as_py() == 4 else None

    _, local = run(job)

    assert [row["qty"] for row in local.output()] == [1, 2, -1, 0]


def test_messages_may_be_an_arrow_array():
    with BatchJob("job", max_failed_records=1) as job:

        @job.arrow_step
        def check(block):
            return failed(pc.less(block["qty"], 0), pc.binary_join_element_wise("bad", block["amount"], " "))

    result, _ = run(job)

    assert errors(result) == {("CheckFailed", "check", 1, "bad 3")}


def test_a_block_of_which_nothing_is_accepted_calls_nothing():
    calls = []
    with BatchJob("job", block_size=1) as job:
        job.arrow_step(name="never", accept_expression="qty > 100")(calls.append)

    result, _ = run(job)

    assert calls == []
    assert result.step("never").skipped == 4


def test_an_aggregator_is_neither_sql_nor_vectorised():
    with pytest.raises(InvalidOptionError, match=r"aggregator of step 's'=SqlSpec.*a function that takes a list"):
        StepSpec("s", SqlSpec(checks={"x": "n > 0"}), aggregator=AggregatorSpec(size=2))


def test_a_sql_step_has_no_function():
    with pytest.raises(TypeError, match="calls no function"):
        _ = StepSpec("s", SqlSpec(checks={"x": "n > 0"})).call


def set_rate(record, variables):
    if record["n"] == 2:
        variables["rate"] = 9
    if record["n"] == 3:
        raise ValueError("bad")


SQL_STEPS = {
    "accept": {"accept_expression": "variables['rate'] > 10", "assign": {"tax": "n * 2"}},
    "check": {"checks": {"too low": "variables['rate'] > 10"}, "assign": {"tax": "n * 2"}},
}


@BLOCKS
def test_variables_are_those_of_the_record_in_every_expression(block_size):
    with BatchJob("job", max_failed_records=-1, block_size=block_size, variables={"rate": 21}) as job:
        job.step(set_rate)
        job.sql_step("tax", assign={"tax": "n * variables['rate']", "none": "variables['unknown']"})
        job.sql_step("check", checks={"too low": "variables.rate > 10"}, assign={"ok": "true"})
        job.sql_step("take", accept_expression="variables['rate'] > 10", assign={"taken": "true"})

    _, local = run(job, [{"n": 1}, {"n": 2}, {"n": 3}, {"n": 4}])

    rows = local.output()
    assert [row["tax"] for row in rows] == [21, 18, None, 84]
    assert [row["none"] for row in rows] == [None] * 4
    assert [row["ok"] for row in rows] == [True, None, None, True]
    assert [row["taken"] for row in rows] == [True, None, None, True]


@BLOCKS
@pytest.mark.parametrize("raising", [pytest.param("true", id="in one"), pytest.param("1 // (n - 4) < 9", id="in turn")])
def test_failures_are_those_of_the_record_in_every_expression(block_size, raising):
    with BatchJob("job", max_failed_records=-1, block_size=block_size) as job:
        job.step(set_rate)
        job.sql_step(
            "after",
            accept_policy="ALL",
            checks={"never": raising},
            assign={"fails": "len(failures)", "why": "failures[-1].message"},
        )

    _, local = run(job, [{"n": 1}, {"n": 2}, {"n": 3}, {"n": 4}])

    last = None if raising != "true" else 0
    assert [row["fails"] for row in local.output()] == [0, 0, 1, last]
    assert [row["why"] for row in local.output()] == [None, None, "bad", None]


@pytest.mark.parametrize("fuse_steps", [False, True])
@pytest.mark.parametrize("name", ["variables", "Failures"])
@pytest.mark.parametrize("place", ["accept", "check", "assign"])
def test_a_column_that_hides_variables_or_failures_is_refused_everywhere(place, name, fuse_steps):
    text = "variables['rate'] > 0" if name == "variables" else "len(failures) > 0"
    options = {
        "accept": {"accept_expression": text, "assign": {"m": "1"}},
        "check": {"checks": {"wrong": text}},
        "assign": {"assign": {"m": text}},
    }
    with BatchJob("job", max_failed_records=-1, variables={"rate": 1}, fuse_steps=fuse_steps) as job:
        job.sql_step("first", assign={name: "5"})
        job.sql_step("uses", **options[place])
    local = LocalRun(job.spec)
    local.load([{"n": 1}])

    with pytest.raises(InvalidExpressionError, match=r"of that name too\. Give the column another"):
        local.process_all()


def test_a_column_of_that_name_does_no_harm_where_no_expression_means_the_other():
    with BatchJob("job") as job:
        job.sql_step("plain", accept_expression="n > 0", assign={"m": "n"})

    _, local = run(job, [{"n": 1, "variables": 2, "failures": 3}])

    assert local.output() == [{"n": 1, "variables": 2, "failures": 3, "m": 1}]


@pytest.mark.parametrize("fuse_steps", [False, True])
@pytest.mark.parametrize("kind", ["sql", "arrow", "record", "aggregator"])
def test_a_callable_accept_expression_sees_every_column_in_every_kind_of_step(kind, fuse_steps):
    seen = []

    def accept(record):
        seen.append(record)
        return record["b"] == 1

    with BatchJob("job", fuse_steps=fuse_steps) as job:
        job.sql_step("first", assign={"c": "a"})
        if kind == "sql":
            job.sql_step("s", accept_expression=accept, assign={"m": "a + 1"})
        elif kind == "arrow":
            job.arrow_step(name="s", accept_expression=accept)(lambda block: None)
        elif kind == "record":
            job.step(name="s", accept_expression=accept)(lambda record: None)
        else:
            job.aggregator("s", size=2, accept_expression=accept)(lambda records: None)

    result, _ = run(job, [{"a": 1, "b": 1}, {"a": 2, "b": 2}])

    assert seen == [{"a": 1, "b": 1, "c": 1}, {"a": 2, "b": 2, "c": 2}]
    assert (result.step("s").successful, result.step("s").skipped) == (1, 1)


def test_reads_bounds_what_a_callable_sees_and_not_what_the_expressions_of_the_step_read():
    seen = []
    with BatchJob("job") as job:
        job.sql_step(
            "s", reads=["b"], accept_expression=lambda record: seen.append(dict(record)) or True, assign={"m": "a + 1"}
        )

    _, local = run(job, [{"a": 1, "b": 1}])

    assert seen == [{"b": 1}]
    assert local.output() == [{"a": 1, "b": 1, "m": 2}]


def test_a_sql_step_reads_null_where_only_records_of_other_blocks_have_the_column():
    with BatchJob("job", block_size=2) as job:
        job.step(name="some")(lambda record: {"fast": record["n"]} if record["n"] == 3 else None)
        job.sql_step("uses", assign={"m": "coalesce(fast, -1)"})

    _, local = run(job, [{"n": n} for n in range(4)])

    assert [row["m"] for row in local.output()] == [-1, -1, -1, 3]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        pytest.param({"assign": {"x": "qty * 2", "y": "amout * 2"}}, "'amout * 2' in step 'wrong' of job", id="assign"),
        pytest.param({"checks": {"c": "qty > 0", "d": "amout > 2"}}, "'amout > 2' in step 'wrong' of job", id="check"),
        pytest.param({"checks": {"c": "qty > 0"}, "assign": {"m": "year(qty)"}}, "'year(qty)' in step", id="binding"),
        pytest.param({"assign": {"a": "qty", "m": "INTERVAL 3 DAY"}}, "'INTERVAL 3 DAY' in step 'wrong'", id="type"),
        pytest.param({"assign": {"m": "{'a': union_value(x := qty)}"}}, "which Parquet cannot hold", id="union"),
        pytest.param({"accept_expression": "amout", "assign": {"m": "1"}}, "Write 'amount', if that is", id="accept"),
    ],
)
def test_a_wrong_expression_is_named_as_the_author_wrote_it(options, named):
    with BatchJob("job") as job:
        job.sql_step("wrong", **options)
    with pytest.raises(InvalidExpressionError, match=re.escape(named)):
        LocalRun(job.spec).run(ORDERS)


def test_a_record_that_raises_in_several_assignments_fails_by_the_first():
    assign = {"a": "n", "b": "n::INT", "c": "n || 'x'", "d": "cast(n as date)", "e": "1"}
    with BatchJob("job", max_failed_records=-1) as job:
        job.sql_step("make", assign=assign)

    _, local = run(job, [{"n": "x"}, {"n": "1"}, {"n": "2020-01-01"}])

    found = local.query("SELECT record_id, error_type, message FROM failures ORDER BY 1")
    assert [(record, kind, "INT32" in text) for record, kind, text in found] == [
        (0, "ConversionException", True),
        (1, "ConversionException", False),
        (2, "ConversionException", True),
    ]
    assert [{**row} for row in local.output()] == [{"n": "x"}, {"n": "1"}, {"n": "2020-01-01"}]


def test_more_expressions_than_one_statement_may_hold_are_asked_one_by_one():
    long = " + ".join(["n"] * 100)
    with BatchJob("job") as job:
        job.sql_step("many", assign={f"m{number}": f"{long} + {number}" for number in range(40)})

    _, local = run(job, [{"n": 1}])

    assert local.output()[0]["m39"] == 139


KINDS = [1, 2.5, "3", True, None, 7, "x", [1, 2], {"a": 1}, 2**70, 4.0, False, ["y"]]


@pytest.mark.parametrize("block_size", [1, 4, 100])
@pytest.mark.parametrize("place", ["accept", "check", "assign"])
def test_what_a_variable_is_to_an_expression_does_not_depend_on_the_records_beside_it(place, block_size):
    seen = {}
    with BatchJob("job", block_size=block_size, max_failed_records=-1, variables={"kinds": KINDS}) as job:

        @job.step
        def choose(record, variables):
            variables["x"] = variables["kinds"][record["n"]]

        text = "typeof(variables['x'])"
        if place == "accept":
            job.sql_step("uses", accept_expression=f"{text} = 'BIGINT'", assign={"is": "true"})
        elif place == "check":
            job.sql_step("uses", checks={"other": f"{text} = 'BIGINT'"}, assign={"is": "true"})
        else:
            job.sql_step("uses", assign={"is": f"{text} = 'BIGINT' OR NULL"})

    _, local = run(job, [{"n": n} for n in range(len(KINDS))])

    for row in local.output():
        seen[row["n"]] = row["is"]
    assert [n for n, is_whole in seen.items() if is_whole] == [0, 5]


@pytest.mark.parametrize("block_size", [1, 4, 100])
def test_values_of_several_types_become_one_column_and_none_is_lost(block_size):
    values = [1, 2, "3", 2.5, "x", 4]
    with BatchJob("job", block_size=block_size, variables={"values": values}) as job:

        @job.step
        def choose(record, variables):
            variables["x"] = variables["values"][record["n"]]

        job.sql_step("take", assign={"x": "variables['x']"})
        job.sql_step("again", assign={"n": "n + 1"})

    _, local = run(job, [{"n": n} for n in range(len(values))])

    assert [row["x"] for row in local.output()] == values

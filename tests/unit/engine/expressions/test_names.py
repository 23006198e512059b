"""A name that no record can have, or turns out to have, is told before it looks like success."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest

from batch_provider import BatchJob, Files, InvalidOptionError, Records, SqlTable
from batch_provider.domain.errors import InvalidExpressionError, InvalidReturnError
from batch_provider.domain.outcome import JobState
from batch_provider.testing import LocalRun

CLOSED = {"schema": {"n": "int64"}, "extra_columns": "drop"}


def adds(record):
    return {"m": record["n"]} if record["n"] >= 0 else None


def declare(job, kind, name="missing"):
    if kind == "accept":
        job.step(name="uses", accept_expression=f"{name} > 0")(lambda record: None)
    elif kind == "check":
        job.sql_step("uses", checks={"c": f"{name} > 0"})
    elif kind == "assign":
        job.sql_step("uses", assign={"x": f"{name} + 1"})
    elif kind == "aggregator":
        job.aggregator("uses", size=2, accept_expression=f"{name} > 0")(lambda records: None)
    elif kind == "columns":
        job.write("uses", SqlTable("db", "t", columns=["n", name]))
    else:
        job.write("uses", SqlTable("db", "t", key=[name]))


EXPRESSIONS = ["accept", "check", "assign", "aggregator"]
WRITERS = ["columns", "key"]
BEFORE = {
    "nothing": lambda job: None,
    "a SQL step": lambda job: job.sql_step("before", assign={"other": "n"}),
    "a step with writes=": lambda job: job.step(name="before", writes=["m"])(adds),
    "an Arrow step with writes=": lambda job: job.arrow_step(name="before", writes=["m"])(lambda block: None),
    "a transaction": lambda job: job.step(name="before", transaction="db")(lambda record: None),
    "a stream": lambda job: job.aggregator("before", streaming=True)(lambda records: None),
}


@pytest.mark.parametrize("kind", [*EXPRESSIONS, *WRITERS])
@pytest.mark.parametrize("before", BEFORE)
def test_a_name_that_nobody_can_have_is_refused_at_parse_or_by_the_load(kind, before):
    error = InvalidExpressionError if kind in EXPRESSIONS else InvalidOptionError
    named = "there is no column 'missing', only n" if kind in EXPRESSIONS else "'missing' is not allowed in step 'uses'"
    with BatchJob("job") as job:
        BEFORE[before](job)
        declare(job, kind)
    with pytest.raises(error, match=re.escape(named)):
        LocalRun(job.spec).load([{"n": 1}])

    with BatchJob("job", source=Files("in.csv", **CLOSED)) as job:
        BEFORE[before](job)
        with pytest.raises(error, match=re.escape(named)):
            declare(job, kind)


@pytest.mark.parametrize("kind", [*EXPRESSIONS, *WRITERS])
@pytest.mark.parametrize(
    "before",
    [
        pytest.param(lambda job: job.sql_step("before", assign={"missing": "n"}), id="assigned"),
        pytest.param(lambda job: job.step(name="before", writes=["missing"])(adds), id="in writes="),
        pytest.param(lambda job: job.step(name="before")(adds), id="any column"),
        pytest.param(lambda job: job.arrow_step(name="before")(lambda block: None), id="any column of an Arrow step"),
        pytest.param(lambda job: job.aggregator("before", size=3)(lambda records: None), id="any of an aggregator"),
    ],
)
def test_a_name_that_somebody_may_have_is_not(kind, before):
    with BatchJob("job", source=Files("in.csv", **CLOSED)) as job:
        before(job)
        declare(job, kind)

    LocalRun(job.spec).load([{"n": 1}])


@pytest.mark.parametrize("schema", [{}, {"schema": {"n": "int64"}}, {"schema": {"n": "int64", "missing": "int64"}}])
def test_what_the_contract_leaves_open_is_no_error_at_parse(schema):
    with BatchJob("job", source=Records([{"n": 1}], **schema)) as job:
        declare(job, "accept", "MISSING")


def test_an_input_without_records_or_columns_is_no_error():
    with BatchJob("job") as job:
        declare(job, "accept")

    assert LocalRun(job.spec).run([]).is_successful


@pytest.mark.parametrize("fuse_steps", [False, True])
@pytest.mark.parametrize(
    ("kind", "what"), [("accept", "took none of 3"), ("aggregator", "took none of 3"), ("check", "failed 3 records")]
)
def test_a_step_that_did_nothing_because_of_a_name_fails_the_job(kind, what, fuse_steps, caplog):
    with BatchJob("job", max_failed_records=-1, fuse_steps=fuse_steps) as job:
        job.step(name="before")(adds)
        declare(job, kind)
    local = LocalRun(job.spec, shards=2)

    result = local.run([{"n": n} for n in range(3)])

    assert result.state is JobState.FAILED_PROCESS_RECORDS
    assert "No record has a column 'missing'" in result.reason
    assert what in result.reason
    assert "it counted as NULL" in caplog.text


@pytest.mark.parametrize("fuse_steps", [False, True])
def test_a_name_that_nobody_has_is_warned_of_where_records_got_through(fuse_steps, caplog):
    with BatchJob("job", fuse_steps=fuse_steps) as job:
        job.step(name="before")(adds)
        declare(job, "assign")

    assert LocalRun(job.spec).run([{"n": 1}]).is_successful
    assert "No record has a column 'missing', which the expression 'missing + 1' of step 'uses' names" in caplog.text


@pytest.mark.parametrize("fuse_steps", [False, True])
def test_a_column_that_one_record_has_is_no_name_that_nobody_has(fuse_steps, caplog):
    with BatchJob("job", fuse_steps=fuse_steps, block_size=1) as job:
        job.step(name="before")(lambda record: {"missing": -1} if record["n"] == 2 else None)
        declare(job, "accept")

    assert LocalRun(job.spec, shards=2).run([{"n": n} for n in range(4)]).is_successful
    assert "No record has" not in caplog.text


@pytest.mark.parametrize(
    ("source", "options"),
    [
        pytest.param(None, {"writes": ["missing"]}, id="writes="),
        pytest.param(Records([{"n": 1}], schema={"n": "int64", "missing": "int64"}), {}, id="contract"),
    ],
)
def test_a_declared_column_may_be_absent(source, options, caplog):
    with BatchJob("job", source=source) as job:
        job.step(name="before", **options)(lambda record: None)
        declare(job, "accept")

    assert LocalRun(job.spec).run([{"n": 1}]).is_successful
    assert "No record has" not in caplog.text


@pytest.mark.parametrize("policy", ["NO_FAILURES", "ONLY_FAILURES", "ALL"])
def test_records_that_the_policy_keeps_away_are_not_the_names_fault(policy):
    """Of one failed record the first is asked of none, the others of one."""

    def fails(record):
        raise ValueError("bad")

    with BatchJob("job", max_failed_records=-1) as job:
        job.step(name="before")(fails)
        job.step(name="uses", accept_policy=policy, accept_expression="missing > 0")(lambda record: None)

    assert LocalRun(job.spec).run([{"n": 1}]).is_successful is (policy == "NO_FAILURES")


def test_a_job_that_has_not_finished_is_not_blamed_for_its_names(caplog):
    with BatchJob("job") as job:
        job.step(name="before")(adds)
        declare(job, "accept")
    local = LocalRun(job.spec)
    local.load([{"n": 1}])

    assert "did not finish" in local.complete().reason
    assert "No record has" not in caplog.text


@pytest.mark.parametrize("function", [lambda record: {"m": 1, "x": 1}, lambda record: {"x": 1}])
def test_a_key_that_writes_does_not_name_fails_the_record(function):
    with BatchJob("job", max_failed_records=-1) as job:
        job.step(name="s", writes=["m"])(function)

    (error,) = LocalRun(job.spec).run([{"n": 1}, {"n": 2}]).errors

    assert (error.exception, error.count) == ("InvalidPatchError", 2)
    assert "the key 'x', which its writes= does not name" in error.sample


def test_a_column_that_writes_does_not_name_is_an_error_of_an_arrow_step():
    with BatchJob("job") as job:
        job.arrow_step(name="s", writes=["m"])(lambda block: block.append_column("x", block["n"]))

    with pytest.raises(
        InvalidReturnError, match="the column 'x' for 2 records; it must return columns of its writes=: m"
    ):
        LocalRun(job.spec).run(pa.table({"n": [1, 2]}))


@pytest.mark.parametrize(
    "declared",
    [
        pytest.param(lambda job: job.sql_step("s", assign={"m": "1"}, writes=["m"]), id="SQL step"),
        pytest.param(lambda job: job.write("s", SqlTable("db", "t"), writes=["m"]), id="writer"),
        pytest.param(lambda job: job.step(name="s", transaction="db", writes=["m"])(adds), id="transaction"),
        pytest.param(lambda job: job.aggregator("s", streaming=True, writes=["m"])(adds), id="stream"),
        pytest.param(lambda job: job.step(name="s", writes="m")(adds), id="text"),
        pytest.param(lambda job: job.step(name="s", writes=["_id"])(adds), id="reserved"),
    ],
)
def test_writes_is_of_steps_whose_function_returns_columns(declared):
    with BatchJob("job") as job, pytest.raises(InvalidOptionError, match="writes="):
        declared(job)

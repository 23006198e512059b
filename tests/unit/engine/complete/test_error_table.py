"""The error table tells checks and constraints apart, in the result, its text and the ledger alike."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from batch_provider import BatchJob, SqlTable, failed
from batch_provider.engine.complete.account import MOST_CHECKS, Account
from batch_provider.engine.complete.report import render_report
from batch_provider.sources.access import LocalAccess
from batch_provider.testing import LocalRun
from tests.builders import Step, job_of, numbers

NO_NUMBER, NOT_POSITIVE = "the price is no number", "must be positive"


def prices():
    return [{"price": "x"} for _ in range(8)] + [{"price": "-1"} for _ in range(12)] + [{"price": "1"}]


def table(result):
    return [(error.exception, error.step, error.count, error.sample) for error in result.errors]


@pytest.mark.parametrize("fuse", [False, True])
def test_two_checks_of_a_step_are_two_rows(fuse):
    job = BatchJob("job", max_failed_records=-1, block_size=5, fuse_steps=fuse)
    job.sql_step("check", checks={NO_NUMBER: "try_cast(price as int) is not null", NOT_POSITIVE: "price::int > 0"})
    job.step(name="after")(Step())
    run = LocalRun(job.spec, shards=2)

    result = run.run(prices())

    assert table(result) == [("CheckFailed", "check", 12, NOT_POSITIVE), ("CheckFailed", "check", 8, NO_NUMBER)]
    assert NO_NUMBER in render_report(result)
    assert sorted(run.query("SELECT error_type, step, records, sample FROM errors")) == sorted(table(result))


def test_messages_of_an_arrow_step_are_told_apart():
    job = BatchJob("job", max_failed_records=-1)

    @job.arrow_step
    def check(block):
        number = pc.match_substring_regex(block["price"], "^-?[0-9]+$")
        messages = pc.if_else(number, NOT_POSITIVE, NO_NUMBER)
        return failed(pc.not_equal(block["price"], "1"), messages, block)

    assert Counter({row[3]: row[2] for row in table(LocalRun(job.spec).run(prices()))}) == {
        NOT_POSITIVE: 12,
        NO_NUMBER: 8,
    }


def test_constraints_of_a_database_are_told_apart(tmp_path):
    path = tmp_path / "warehouse.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE t (n INTEGER NOT NULL CHECK (n < 5), m INTEGER UNIQUE)")
    job = BatchJob("job", max_failed_records=-1)
    job.write("store", SqlTable("warehouse", "t"))
    run = LocalRun(job.spec, access=LocalAccess({"warehouse": lambda: sqlite3.connect(path)}))

    result = run.run([{"n": 1, "m": 1}, {"n": 7, "m": 2}, {"n": 8, "m": 3}, {"n": None, "m": 4}, {"n": 2, "m": 1}])

    samples = {(row[2], row[3].partition(":")[0]) for row in table(result)}
    assert samples == {
        (2, "CHECK constraint failed"),
        (1, "NOT NULL constraint failed"),
        (1, "UNIQUE constraint failed"),
    }


def test_what_a_database_adds_about_the_row_does_not_tell_errors_apart():
    account = Account()
    row = 'new row for relation "t" violates check constraint "positive"\nDETAIL:  Failing row contains ({n}).'
    errors = [{"type": "CheckViolation", "message": row.format(n=n)} for n in range(3)]
    errors += [{"type": "CheckViolation", "message": 'violates check constraint "small"\nDETAIL: (9)'}]

    account.take_errors(["s1"], [pa.table({"_error": pa.array(errors)})])

    assert sorted(account.errors.values()) == [1, 3]


def test_messages_that_are_all_different_become_one_row():
    job = BatchJob("job", max_failed_records=-1, block_size=50)
    count = MOST_CHECKS + 30

    @job.arrow_step
    def check(block):
        return failed(pc.greater_equal(block["n"], 0), pc.cast(block["n"], pa.string()), block)

    result = LocalRun(job.spec).run(numbers(count))

    assert [error.count for error in result.errors] == [30] + [1] * MOST_CHECKS
    assert sum(error.count for error in result.errors) == count


def test_other_exceptions_stay_one_row_whatever_they_say():
    result = LocalRun(job_of(Step(fails={1, 2, 3}))).run(numbers(5))

    assert table(result) == [("ValueError", "s1", 3, "record 1 is bad")]

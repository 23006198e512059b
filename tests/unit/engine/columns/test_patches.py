"""What a step returns: patches over the payload, and what becomes of the others."""
# ruff: noqa: DTZ001  # times without a zone are values like others

from __future__ import annotations

import uuid
from datetime import date, datetime
from decimal import Decimal

import duckdb
import pytest

from batch_provider import AcceptPolicy, BatchJob
from batch_provider.testing import LocalRun
from tests.builders import Step, failures, job_of, numbers


def output(function, records, options=None, **job_options):
    run = LocalRun(job_of((function, options or {}), **job_options))
    run.run(records)
    return run.output()


ONE = [{"a": 1, "b": "x"}]


@pytest.mark.parametrize(
    ("returned", "payload"),
    [
        pytest.param(None, {"a": 1, "b": "x"}, id="None changes nothing"),
        pytest.param({}, {"a": 1, "b": "x"}, id="empty patch changes nothing"),
        pytest.param({"c": 2.5}, {"a": 1, "b": "x", "c": 2.5}, id="new key"),
        pytest.param({"a": 2}, {"a": 2, "b": "x"}, id="replaced key"),
        pytest.param({"a": "one"}, {"a": "one", "b": "x"}, id="replaced key of another type"),
        pytest.param({"a": None}, {"a": None, "b": "x"}, id="None as a value"),
        pytest.param({"a": {"x": [{"y": [2]}]}}, {"a": {"x": [{"y": [2]}]}, "b": "x"}, id="nested"),
        pytest.param({"a.b": 1, 'q"': 2, "ü ": 3, "_x": 4}, {**ONE[0], "a.b": 1, 'q"': 2, "ü ": 3, "_x": 4}, id="keys"),
        pytest.param({"c": uuid.UUID(int=3)}, {**ONE[0], "c": uuid.UUID(int=3)}, id="uuid"),
        pytest.param({"c": Decimal("1.10")}, {**ONE[0], "c": Decimal("1.10")}, id="decimal"),
    ],
)
def test_patch_is_added_to_the_payload(returned, payload):
    assert output(lambda record: returned, ONE) == [payload]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        pytest.param(5, "the step returned int 5; it must return a dict with the keys to change, or None", id="number"),
        pytest.param("text", "the step returned str 'text'", id="text"),
        pytest.param([("a", 1)], "the step returned list [('a', 1)]", id="list of pairs"),
        pytest.param(True, "the step returned bool True", id="bool"),
        pytest.param({1: 2}, "the step returned a key that is no string: 1", id="key no string"),
        pytest.param({"": 2}, "the step returned a key without a name: ''", id="empty key"),
        pytest.param({"_id": 2}, "the step returned the key '_id', which is reserved", id="reserved key"),
        pytest.param({"_vars": "{}"}, "the step returned the key '_vars', which is reserved", id="side column"),
        pytest.param({"\ud800": 2}, "the step returned the key '\\ud800', which is no valid text", id="surrogate"),
    ],
)
def test_what_is_no_patch_fails_the_record(returned, message):
    run = LocalRun(job_of(lambda record: returned if record["n"] == 1 else {"ok": True}))

    result = run.run(numbers(3))

    assert (result.successful_records, result.failed_records) == (2, 1)
    ((record, step, kind, found),) = failures(run)
    assert (record, step, kind) == (1, "s1", "InvalidPatchError")
    assert message in found
    assert run.output() == [{"n": 0, "ok": True}, {"n": 1, "ok": None}, {"n": 2, "ok": True}]


@pytest.mark.parametrize("block_size", [1, 2, 5])
def test_key_for_some_records_only_is_null_for_the_others(block_size):
    found = output(lambda record: {"even": True} if record["n"] % 2 == 0 else None, numbers(4), block_size=block_size)

    assert found == [{"n": n, "even": True if n % 2 == 0 else None} for n in range(4)]


def test_replaced_key_for_some_records_only_keeps_the_others():
    assert output(lambda record: {"n": -1} if record["n"] == 1 else None, numbers(3)) == [{"n": 0}, {"n": -1}, {"n": 2}]


def test_mutating_the_record_changes_nothing():
    def step(record):
        record["n"] = 99
        record["x"] = 1
        record.clear()

    assert output(step, numbers(2)) == numbers(2)


def test_mutated_values_inside_the_record_change_nothing():
    def step(record):
        record["list"].append(9)

    assert output(step, [{"list": [1]}]) == [{"list": [1]}]


@pytest.mark.parametrize("block_size", [1, 2, 5])
def test_dropped_columns_are_gone(block_size):
    found = output(lambda record: None, [{"a": 1, "b": 2}, {"a": 3, "b": 4}], {"drop": ["a"]}, block_size=block_size)

    assert found == [{"b": 2}, {"b": 4}]


def test_column_that_is_returned_and_dropped_is_gone():
    assert output(lambda record: {"a": 5, "c": 6}, ONE, {"drop": ["a", "c"]}) == [{"b": "x"}]


def test_dropping_what_is_not_there_is_no_error():
    assert output(lambda record: None, ONE, {"drop": ["zzz"]}) == ONE


def test_failed_record_keeps_dropped_columns():
    found = output(Step(fails={1}), [{"a": 1}, {"a": 2}], {"drop": ["a"]})

    assert found == [{"a": None}, {"a": 2}]


@pytest.mark.parametrize("block_size", [1, 2, 5])
def test_replace_makes_the_dict_the_whole_payload(block_size):
    def step(record):
        return {"a": 9} if record["n"] else {"b": 1}

    found = output(step, [{"n": 0, "a": 5}, {"n": 1, "a": 5}], {"output": "replace"}, block_size=block_size)

    assert found == [{"a": None, "b": 1}, {"a": 9, "b": None}]


@pytest.mark.parametrize("block_size", [1, 2, 5])
def test_none_changes_nothing_also_when_replacing(block_size):
    def step(record):
        return None if record["n"] == 0 else {"a": 9}

    found = output(step, numbers(2), {"output": "replace"}, block_size=block_size)

    assert found == [{"n": 0, "a": None}, {"n": None, "a": 9}]


def test_empty_dict_replaces_the_payload_by_nothing():
    assert output(lambda record: {}, ONE, {"output": "replace"}) == [{}]


def test_what_is_no_dict_cannot_replace_the_payload():
    run = LocalRun(job_of((lambda record: 5, {"output": "replace"})))
    run.run(ONE)

    assert failures(run)[0][3] == "the step returned int 5; it must return a dict, the whole payload"
    assert run.output() == ONE


def test_reads_gives_only_these_columns():
    seen = []
    run = LocalRun(job_of((seen.append, {"reads": ["b", "zzz"]})))
    run.run([{"a": 1, "b": 2, "c": 3}])

    assert seen == [{"b": 2}]
    assert run.output() == [{"a": 1, "b": 2, "c": 3}]


def test_reads_nothing_gives_an_empty_record():
    seen = []
    LocalRun(job_of((seen.append, {"reads": []}))).run(numbers(2))

    assert seen == [{}, {}]


def test_record_with_one_bad_value_fails_whole():
    def step(record):
        return {"good": 1, "bad": object() if record["n"] == 1 else 2}

    run = LocalRun(job_of(step))
    run.run(numbers(3))

    assert run.output() == [
        {"n": 0, "good": 1, "bad": 2},
        {"n": 1, "good": None, "bad": None},
        {"n": 2, "good": 1, "bad": 2},
    ]
    ((record, _, kind, message),) = failures(run)
    assert (record, kind) == (1, "FieldTypeError")
    assert message.startswith("field 'bad': object cannot be held by Arrow")


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(2**63, id="beyond int64"),
        pytest.param("\ud800", id="surrogate"),
        pytest.param({1: 2}, id="key no string"),
        pytest.param([1, "x"], id="mixed list"),
        pytest.param([{}], id="nested empty dict"),
        pytest.param(1j, id="complex"),
    ],
)
def test_value_that_cannot_be_stored_fails_its_record_alone(value):
    run = LocalRun(job_of(lambda record: {"v": value} if record["n"] == 1 else None), shards=2)

    result = run.run(numbers(4))

    assert (result.successful_records, result.failed_records) == (3, 1)
    assert [failure[0] for failure in failures(run)] == [1]


def test_int_then_float_widens_from_block_to_block():
    found = output(
        lambda record: {"v": record["n"] / 2 if record["n"] % 2 else record["n"] // 2}, numbers(4), block_size=1
    )

    assert [record["v"] for record in found] == [0, 0.5, 1, 1.5]


def test_int_then_text_fails_just_the_records_that_cause_it():
    values = [1, "x", 2, "y", 3]
    run = LocalRun(job_of(lambda record: {"v": values[record["n"]]}, block_size=1))

    result = run.run(numbers(5))

    assert result.failed_records == 2
    assert [(f[0], f[3]) for f in failures(run)] == [
        (1, "field 'v': 'x' is string, the column is int64"),
        (3, "field 'v': 'y' is string, the column is int64"),
    ]
    assert [record["v"] for record in run.output()] == [1, None, 2, None, 3]


TEXTS = [{"v": "1"}, {"v": "two"}, {"v": "3"}, {"v": None}]


def to_number(record):
    return {"v": int(record["v"]) if record["v"] is not None else 0}


@pytest.mark.parametrize("block_size", [1, 2, 5])
@pytest.mark.parametrize("shards", [1, 2])
def test_failed_record_keeps_its_text_when_the_column_becomes_numbers(block_size, shards):
    seen = []
    run = LocalRun(
        job_of(
            to_number,
            (seen.append, {"accept_policy": AcceptPolicy.ONLY_FAILURES}),
            lambda record: {"double": record["v"] * 2},
            block_size=block_size,
        ),
        shards=shards,
    )

    result = run.run(TEXTS)

    assert (result.successful_records, result.failed_records) == (3, 1)
    assert seen == [{"v": "two"}]
    assert run.output() == [
        {"v": 1, "double": 2},
        {"v": "two", "double": None},
        {"v": 3, "double": 6},
        {"v": 0, "double": 0},
    ]


def test_kept_text_follows_the_record_through_many_steps():
    seen = []
    job = job_of(to_number, Step(), Step(), (seen.append, {"accept_policy": AcceptPolicy.ALL}))
    LocalRun(job).run(TEXTS)

    assert [record["v"] for record in seen] == [1, "two", 3, 0]


def test_step_that_heals_kept_text_puts_it_into_the_column():
    run = LocalRun(job_of(to_number, (lambda record: {"v": 2}, {"accept_policy": AcceptPolicy.ONLY_FAILURES})))
    result = run.run(TEXTS)

    assert [record["v"] for record in run.output()] == [1, 2, 3, 0]
    assert result.failed_records == 1  # failure is sticky


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({"drop": ["v"]}, {"v": None}, id="drop"),
        pytest.param({"output": "replace"}, {"v": None, "w": 1}, id="replace"),
    ],
)
def test_kept_text_goes_when_its_column_goes(options, expected):
    def step(record):
        return {"w": 1} if "output" in options else None

    run = LocalRun(job_of(to_number, (step, {"accept_policy": AcceptPolicy.ONLY_FAILURES, **options})))
    run.run(TEXTS)

    assert run.output()[1] == expected


def test_kept_text_is_read_only_by_steps_that_read_its_column():
    seen = []
    read = {"accept_policy": AcceptPolicy.ONLY_FAILURES, "reads": ["w"]}
    LocalRun(job_of(to_number, (seen.append, read))).run([{"v": "two", "w": 1}, {"v": "3", "w": 2}])

    assert seen == [{"w": 1}]


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        pytest.param("x", str, id="text"),
        pytest.param(5, int, id="int"),
        pytest.param(0.5, float, id="float"),
        pytest.param([1, 2], list, id="list"),
        pytest.param({"a": 1}, dict, id="dict"),
        pytest.param({"$type": "date", "value": "2020-01-01"}, dict, id="dict that looks like a tag"),
        pytest.param(True, bool, id="bool"),
    ],
)
def test_kept_values_come_back_as_they_were(given, kind):
    seen = []

    def step(record, record_id):
        if record_id == 1:
            raise ValueError("bad")
        return {"v": [[date(2020, 1, 1)]]}

    run = LocalRun(job_of(step, (seen.append, {"accept_policy": AcceptPolicy.ONLY_FAILURES})))
    run.run([{"v": given}, {"v": given}])

    assert seen == [{"v": given}]
    assert type(seen[0]["v"]) is kind
    assert run.output()[1] == {"v": given}


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(date(2020, 1, 1), id="date"),
        pytest.param(datetime(2020, 1, 1, 5), id="datetime"),
        pytest.param(Decimal("1.10"), id="decimal"),
        pytest.param(b"\xff", id="bytes"),
    ],
)
def test_kept_values_that_json_does_not_know_come_back_as_they_were_too(given):
    seen = []

    def step(record, record_id):
        if record_id == 1:
            raise ValueError("bad")
        return {"v": "text now"}

    run = LocalRun(job_of(step, (seen.append, {"accept_policy": AcceptPolicy.ONLY_FAILURES})))
    run.run([{"v": given}, {"v": given}])

    assert seen == [{"v": given}]


def test_large_whole_number_that_stays_beside_floats_is_not_rounded():
    def step(record, record_id):
        if record_id == 1:
            raise ValueError("bad")
        return {"v": 0.5}

    seen = []
    run = LocalRun(job_of(step, (seen.append, {"accept_policy": AcceptPolicy.ONLY_FAILURES}), Step()))
    run.run([{"v": 1}, {"v": 2**60 + 1}, {"v": 3}])

    assert seen == [{"v": 2**60 + 1}]
    assert run.output() == [{"v": 0.5}, {"v": 2**60 + 1}, {"v": 0.5}]


def test_second_change_of_a_column_leaves_what_was_kept():
    run = LocalRun(job_of(to_number, lambda record: {"v": record["v"] + 10}))
    run.run(TEXTS)

    assert [record["v"] for record in run.output()] == [11, "two", 13, 10]


def test_records_without_columns_are_records():
    run = LocalRun(job_of(lambda record, record_id: {"id": record_id}))

    assert run.run([{}, {}]).successful_records == 2
    assert run.output() == [{"id": 0}, {"id": 1}]


def test_column_with_a_leading_underscore_is_a_column():
    run = LocalRun(job_of(lambda record: {"_b": record["_a"] + 1}))
    run.run([{"_a": 1}])

    assert run.output() == [{"_a": 1, "_b": 2}]


@pytest.mark.parametrize(
    "accepted",
    [
        pytest.param("n < 4096", id="the first two thirds"),
        pytest.param("n % 7 <> 0", id="most, here and there"),
        pytest.param("n % 7 = 0", id="few, here and there"),
    ],
)
def test_records_between_those_that_are_accepted_stay_as_they_are(accepted):
    with BatchJob("job", block_size=6_144) as job:
        job.step(lambda record: {"m": record["n"], "n": str(record["n"])}, name="all", accept_expression="n % 5 <> 0")
        job.step(lambda record: {"p": repr(record["n"])}, name="some", accept_expression=accepted.replace("n", "id"))
    given = [{"id": n, "n": n} for n in range(6_144)]

    run = LocalRun(job.spec)
    run.run(given)

    taken = {row for (row,) in duckdb.sql(f"SELECT n FROM range(6144) r(n) WHERE {accepted}").fetchall()}
    assert run.output() == [
        {
            "id": n,
            "n": n if n % 5 == 0 else str(n),
            "m": None if n % 5 == 0 else n,
            "p": None if n not in taken else repr(n if n % 5 == 0 else str(n)),
        }
        for n in range(6_144)
    ]

"""Values that Arrow or Parquet cannot hold for their depth fail their record, and nothing else."""

from __future__ import annotations

import json
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_provider.domain.errors import UnstorableColumnsError
from batch_provider.domain.tally import Tally
from batch_provider.engine.columns.depth import MOST_LEVELS, MOST_PARQUET_LEVELS, unbearable
from batch_provider.engine.columns.rows import build_column
from batch_provider.storage.reading.checkpoint_file import Footer, encode
from batch_provider.testing import LocalRun
from tests.builders import failures, job_of, numbers


def nested(levels, wrap=lambda value: [value]):
    value = 1
    for _ in range(levels):
        value = wrap(value)
    return value


def holding_itself():
    value = [1]
    value.append({"inside": value})
    return value


def in_a_dict(value):
    return {"a": value}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (holding_itself(), "it holds itself"),
        (nested(60_000), "it nests deeper"),
        (nested(60_000, in_a_dict), "it nests deeper"),
        (nested(40, lambda value: [value, value]), "it unfolds to more"),
    ],
)
def test_what_cannot_be_held_is_told_before_arrow_sees_it(value, why):
    array, bad = build_column([1, value, 3] if why == "" else [[1], value, None])

    assert list(bad) == [1]
    assert why in bad[1]
    assert array.to_pylist() == [[1], None, None]


@pytest.mark.parametrize(
    ("wrap", "most"), [(lambda value: [value], MOST_PARQUET_LEVELS // 2), (in_a_dict, MOST_LEVELS)]
)
def test_the_deepest_value_that_is_let_through_can_be_read_again_and_sent(wrap, most):
    assert unbearable([nested(most + 1, wrap)])
    array, bad = build_column([nested(most, wrap)])
    assert bad == {}
    table = pa.table({"x": array})
    buffer, _ = encode(table, Footer("s", {}, Tally()))
    assert pq.ParquetFile(pa.BufferReader(buffer)).read().equals(table)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)


def test_a_value_held_in_two_places_is_no_cycle():
    shared = nested(12)
    array, bad = build_column([[shared, shared]])
    assert bad == {}
    assert array.to_pylist() == [[shared, shared]]


def test_looking_costs_as_much_as_there_is_to_see():
    began = time.perf_counter()
    assert unbearable([nested(300, lambda value: [value, value])])
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("returned", [lambda: {"x": holding_itself()}, lambda: {"x": nested(60_000)}])
def test_a_record_whose_step_returns_what_cannot_be_held_fails_alone(returned):
    run = LocalRun(job_of(lambda record: returned() if record["n"] == 1 else {"x": [1]}))
    result = run.run(numbers(3))

    ((record, step, kind, message),) = failures(run)
    assert (record, step, kind) == (1, "s1", "FieldTypeError")
    assert "cannot be held by Arrow" in message
    assert (result.successful_records, result.failed_records) == (2, 1)


def test_a_record_whose_step_returns_a_deep_list_for_a_patch_fails_alone():
    run = LocalRun(job_of(lambda record: nested(60_000) if record["n"] == 1 else None))
    run.run(numbers(3))
    ((record, _, kind, message),) = failures(run)
    assert (record, kind) == (1, "InvalidPatchError")
    assert "list that nests too deep to be shown" in message


def test_a_record_whose_variables_nest_too_deep_fails_alone():
    def sets(record, variables):
        variables["x"] = nested(60_000) if record["n"] == 1 else 1

    run = LocalRun(job_of(sets))
    run.run(numbers(3))
    assert [(record, kind) for record, _, kind, _ in failures(run)] == [(1, "VariableTypeError")]


def test_a_file_that_could_not_be_opened_again_is_not_committed():
    deep = pa.array([nested(150)])  # pyarrow 25 opens 100 levels again, 26 no more than 45
    table = pa.table({"_id": pa.array([0], pa.int64()), "fine": ["x"], "deep": deep})

    with pytest.raises(UnstorableColumnsError, match=r"'prices' cannot be read again.*Columns: deep\. ") as caught:
        encode(table, Footer("prices", {}, Tally()))
    assert caught.value.columns == ("deep",)
    assert json.loads(json.dumps(caught.value.reason))

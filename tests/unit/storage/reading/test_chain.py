"""Reading a step's output: each column from the step that owns it, over any span."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_provider.domain.errors import CheckpointMissingError
from batch_provider.domain.layout import Span
from batch_provider.testing import LocalRun
from tests.builders import Step, job_of, numbers


def reader_of(*steps, count=10, records=None, step=None, **options):
    options.setdefault("block_size", 3)
    run = LocalRun(job_of(*steps, **options))
    run.load(numbers(count) if records is None else records)
    run.process_all()
    return run, run.generation.latest_reader(step or run.job.steps[-1].name, "01")


def test_columns_stay_with_the_step_that_owns_them():
    run, reader = reader_of(
        Step(returns=lambda record: {"a": 1}), Step(), Step(returns=lambda record: {"n": record["n"] + 100})
    )

    assert reader.owners(Span(0, 9)) == {"n": "s3", "a": "s1"}
    assert run.generation.latest_reader("s2", "01").owners(Span(0, 9)) == {"n": "input", "a": "s1"}
    assert {name: str(kind) for name, kind in reader.schema().items()} == {"n": "int64", "a": "int64"}


def test_owner_is_unknown_where_blocks_differ():
    _, reader = reader_of(lambda record: {"n": -1} if record["n"] < 3 else None)

    assert reader.owners(Span(0, 2)) == {"n": "s1"}
    assert reader.owners(Span(3, 9)) == {"n": "input"}
    assert reader.owners(Span(0, 9)) == {"n": None}
    assert reader.read(Span(0, 5))["n"].to_pylist() == [-1, -1, -1, 3, 4, 5]


@settings(max_examples=40)
@given(ends=st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_any_span_can_be_read(ends):
    first, last = sorted(ends)

    table = READER.read(Span(first, last), ["n", "double"])

    assert table["_id"].to_pylist() == list(range(first, last + 1))
    assert table["n"].to_pylist() == list(range(first, last + 1))
    assert table["double"].to_pylist() == [2 * n for n in range(first, last + 1)]


READER = reader_of(lambda record: {"double": record["n"] * 2}, Step())[1]


def test_columns_that_nobody_has_are_left_out():
    _, reader = reader_of(Step())

    assert reader.read(Span(0, 1), ["zzz", "n"]).column_names == ["n", "_id", "_status", "_out"]
    assert reader.read(Span(0, 1), []).column_names == ["_id", "_status", "_out"]


def test_variables_travel_beside_the_payload():
    def step(record, variables):
        if record["n"] == 1:
            variables["v"] = 1

    _, reader = reader_of(step, Step())

    assert reader.read(Span(0, 2), [])["_vars"].to_pylist() == [None, '{"v": 1}', None]


def test_failures_of_the_whole_chain_come_in_order_of_steps():
    _, reader = reader_of(Step(fails={1, 4}), (Step(fails={4}), {"accept_policy": "ALL"}))

    found = [(row["_id"], row["step"], row["message"]) for row in reader.failures(Span(0, 9))]

    assert found == [(1, "s1", "record 1 is bad"), (4, "s1", "record 4 is bad"), (4, "s2", "record 4 is bad")]
    assert reader.failures(Span(5, 9)) == []


def test_input_is_readable_by_itself():
    run, _ = reader_of(Step())
    reader = run.generation.reader("01", None)

    table = reader.read(Span(2, 4))

    assert table["n"].to_pylist() == [2, 3, 4]
    assert set(table["_status"].to_pylist()) == {1}
    assert set(table["_out"].to_pylist()) == {0}


def test_span_that_is_not_there_is_a_clear_error():
    run, _ = reader_of(Step())
    manifest = run.generation.manifest
    layer = run.generation.layer("s1", "01", run.generation.current_files("s1", "01")[1:])

    with pytest.raises(CheckpointMissingError, match="records 0 to 4 are incomplete"):
        layer.require(Span(0, 4), manifest.shards[0].id)
    assert layer.rows(Span(0, 2), ["n"]).num_rows == 0


def test_output_of_nothing_has_no_schema():
    run = LocalRun(job_of(Step()), shards=1)
    run.load(numbers(1))
    reader = run.generation.reader("01", None)

    assert reader.schema().keys() == {"n"}
    assert type(reader)([run.generation.layer("s1", "01", ())], "01", Span(0, 0)).schema() == {}

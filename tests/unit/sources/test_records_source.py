import datetime as dt
from decimal import Decimal
from types import MappingProxyType

import pyarrow as pa
import pytest

from batch_provider.domain.errors import InvalidOptionError, SourceError, UnsupportedPayloadError
from batch_provider.engine.ports.store import Source
from batch_provider.sources import Files, LocalAccess, Records
from tests.unit.sources.source_reading import batches, read, types

TABLE = pa.table({"a": [1, 2], "b": ["x", None]})
ROWS: list[dict[str, object]] = [{"a": 1, "b": "x"}, {"a": 2, "b": None}]


class CapsuleStream:
    """What pandas and polars data frames look like from here."""

    def __arrow_c_stream__(self, requested_schema=None):
        return TABLE.__arrow_c_stream__(requested_schema)


class CapsuleArray:
    def __arrow_c_array__(self, requested_schema=None):
        return TABLE.to_batches()[0].__arrow_c_array__(requested_schema)


@pytest.mark.parametrize(
    "records",
    [
        pytest.param(ROWS, id="list"),
        pytest.param(tuple(ROWS), id="tuple"),
        pytest.param((row for row in ROWS), id="generator"),
        pytest.param(lambda: (row for row in ROWS), id="function"),
        pytest.param([MappingProxyType(row) for row in ROWS], id="mappings"),
        pytest.param(TABLE, id="table"),
        pytest.param(TABLE.to_batches()[0], id="batch"),
        pytest.param(TABLE.to_reader(), id="reader"),
        pytest.param(lambda: TABLE, id="function-to-table"),
        pytest.param(CapsuleStream(), id="capsule-stream"),
        pytest.param(CapsuleArray(), id="capsule-array"),
    ],
)
def test_records_come_from(records):
    assert read(Records(records)) == (ROWS, [])


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param("text", id="text"),
        pytest.param(b"text", id="bytes"),
        pytest.param(5, id="number"),
        pytest.param(None, id="none"),
        pytest.param({"a": 1}, id="single-dict"),
        pytest.param(object(), id="object"),
        pytest.param(pa.array([1, 2]), id="arrow-column"),
        pytest.param(lambda: 5, id="function-to-number"),
    ],
)
def test_what_cannot_be_split_says_what_to_convert_to(payload):
    with pytest.raises(UnsupportedPayloadError, match="convert it to a list of dicts"):
        read(Records(payload))


def test_an_element_that_is_no_record_is_malformed_with_its_position():
    rows, malformed = read(Records([{"a": 1}, 5, {1: 2}, {"": 3}, {"_id": 4}, {"a": 6}]))

    assert rows == [{"a": 1}, {"a": 6}]
    assert [(bad.line, bad.raw) for bad in malformed] == [(2, "5"), (3, '{"1": 2}'), (4, '{"": 3}'), (5, '{"_id": 4}')]
    assert [
        next(part for part in ("int", "1", "''", "'_id'") if part in bad.message.split(":", 1)[1]) for bad in malformed
    ] == ["int", "1", "''", "'_id'"]


def test_a_value_that_arrow_cannot_hold_fails_its_record_and_names_the_field():
    rows, malformed = read(Records([{"a": 1}, {"a": object()}, {"a": "x"}, {"a": 2**70}, {"a": 2.5}]))

    assert [row["a"] for row in rows] == [1, 2.5]
    assert [bad.line for bad in malformed] == [2, 3, 4]
    assert all("column 'a'" in bad.message for bad in malformed)


def test_types_are_carried_from_one_block_to_the_next():
    source = Records([{"a": 1}] * 10_000 + [{"a": "x"}] * 2 + [{"a": 2}, {"b": dt.date(2024, 2, 29)}])

    rows, malformed = read(source)

    assert (len(rows), [bad.line for bad in malformed]) == (10_002, [10_001, 10_002])
    assert types(source) == {"a": "int64", "b": "date32[day]"}


def test_a_generator_is_read_lazily():
    taken = []

    def generate():
        for number in range(1_000_000):
            taken.append(number)
            yield {"a": number}

    pieces = Records(generate()).read(LocalAccess())
    next(pieces)

    assert len(taken) <= 10_000


@pytest.mark.parametrize(
    "records",
    [pytest.param((row for row in ROWS), id="generator"), pytest.param(TABLE.to_reader(), id="reader")],
)
def test_what_can_be_read_once_is_not_read_as_nothing_the_second_time(records):
    source = Records(records)
    read(source)

    with pytest.raises(SourceError, match="lambda"):
        read(source)


def test_a_function_can_be_read_again():
    source = Records(lambda: iter(ROWS))

    assert read(source) == read(source)


def test_a_generator_that_raises_is_a_source_error_that_says_how_far_it_came():
    def generate():
        yield {"a": 1}
        raise KeyError("page")

    with pytest.raises(SourceError, match="KeyError: 'page', after 1 of them") as raised:
        read(Records(generate()))

    assert isinstance(raised.value.__cause__, KeyError)


def test_a_contract_coerces_values_of_any_type():
    rows, malformed = read(
        Records(
            [{"n": "1", "t": 5, "d": 1.5}, {"n": 2.5, "t": {"x": [1]}, "d": 2}, {"n": 3, "t": None, "d": "x"}],
            schema={"n": "int64", "t": "string", "d": "decimal128(5, 2)"},
        )
    )

    assert rows == [{"n": 1, "t": "5", "d": Decimal("1.50")}]
    assert [bad.line for bad in malformed] == [2, 3]
    assert "2.5 is not int64" in malformed[0].message
    assert "'x' is not decimal128(5, 2)" in malformed[1].message


def test_text_may_hold_what_is_nested_or_mixed():
    rows, malformed = read(Records([{"t": [1, {"a": "é"}]}, {"t": 2**70}, {"t": True}], schema={"t": "string"}))

    assert ([row["t"] for row in rows], malformed) == (['[1, {"a": "é"}]', str(2**70), "true"], [])


def test_columns_of_a_table_must_differ():
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])

    with pytest.raises(SourceError, match="'a' is there twice"):
        read(Records(table))


def test_records_without_keys_are_counted():
    assert sum(batch.num_rows for batch in batches(Records([{}, {}]))) == 2


def test_no_records_are_no_error():
    assert read(Records([])) == ([], [])


def test_records_are_never_rendered_as_templates():
    assert Records([{"a": "{{ secret }}"}]).template_values() == {}
    assert Records("{{ ti.xcom_pull('x') }}").template_values() == {"records": "{{ ti.xcom_pull('x') }}"}


class TaskOutput:
    """What an Airflow task's output looks like from here."""

    def resolve(self, context):
        return ROWS

    def iter_references(self):
        return iter(())


def test_the_output_of_a_task_is_filled_in_when_the_dag_runs():
    source = Records(TaskOutput())

    (name,) = source.template_values()
    rendered = source.with_template_values({name: source.template_values()[name].resolve({})})

    assert source.describe() == "the output of a task"
    assert read(rendered)[0] == ROWS
    assert Files(TaskOutput()).describe() == "files named by a task"
    assert Files([TaskOutput(), "a.csv"]).describe() == "a task's output, a.csv"


def test_a_source_of_records_is_declared_without_them():
    source = Records([{"a": "secret"}], schema={"a": "string"})

    assert isinstance(source, Source)
    assert repr(source) == "Records(records (list), schema={'a': 'string'}, extra_columns='keep')"
    with pytest.raises(InvalidOptionError, match="extra_columns"):
        Records([], extra_columns="some")

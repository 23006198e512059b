"""Between Arrow and Python: nothing is lost, and a value that cannot stand fails alone."""
# ruff: noqa: DTZ001  # times without a zone are values like others

from __future__ import annotations

import math
import uuid
from contextlib import nullcontext
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_provider.engine.columns.joining import concat_by_name, conform
from batch_provider.engine.columns.kept import kept_values
from batch_provider.engine.columns.rows import (
    build_column,
    is_storable,
    one_chunk,
    picked,
    scatter,
    spread,
    to_python,
    unify,
)

INDIA = timezone(timedelta(hours=5, minutes=30))

COLUMNS = [
    pytest.param(pa.array([1, None, -3], pa.int8()), [1, None, -3], id="int8"),
    pytest.param(pa.array([1, None], pa.int64()), [1, None], id="int64"),
    pytest.param(pa.array([2**64 - 1, None], pa.uint64()), [2**64 - 1, None], id="uint64"),
    pytest.param(pa.array([1.5, None], pa.float16()), [1.5, None], id="float16"),
    pytest.param(pa.array([0.1, None], pa.float64()), [0.1, None], id="float64"),
    pytest.param(pa.array([True, None, False]), [True, None, False], id="bool"),
    pytest.param(pa.array(["ü", None, ""]), ["ü", None, ""], id="string"),
    pytest.param(pa.array(["ü", None], pa.large_string()), ["ü", None], id="large_string"),
    pytest.param(pa.array(["ü", None], pa.string_view()), ["ü", None], id="string_view"),
    pytest.param(pa.array([b"\xff", None]), [b"\xff", None], id="binary"),
    pytest.param(pa.array([b"12", None], pa.binary(2)), [b"12", None], id="fixed binary"),
    pytest.param(pa.array([date(2020, 2, 29), None]), [date(2020, 2, 29), None], id="date32"),
    pytest.param(pa.array([date(2020, 2, 29)], pa.date64()), [date(2020, 2, 29)], id="date64"),
    pytest.param(pa.array([datetime(1, 1, 1), None]), [datetime(1, 1, 1), None], id="timestamp[us]"),
    pytest.param(pa.array([10**9], pa.timestamp("s")), [datetime(2001, 9, 9, 1, 46, 40)], id="timestamp[s]"),
    pytest.param(
        pa.array([10**18 + 1_001, None], pa.timestamp("ns")),
        [datetime(2001, 9, 9, 1, 46, 40, 1), None],
        id="timestamp[ns] in microseconds",
    ),
    pytest.param(
        pa.array([10**18 + 1_001, None], pa.timestamp("ns", "UTC")),
        [datetime(2001, 9, 9, 1, 46, 40, 1, tzinfo=UTC), None],
        id="timestamp[ns, UTC] in microseconds",
    ),
    pytest.param(
        pa.array([datetime(2020, 1, 1, tzinfo=INDIA), None]),
        [datetime(2020, 1, 1, tzinfo=INDIA), None],
        id="timestamp with an offset",
    ),
    pytest.param(pa.array([time(5, 6, 7, 8), None]), [time(5, 6, 7, 8), None], id="time64[us]"),
    pytest.param(pa.array([1_001, None], pa.time64("ns")), [time(0, 0, 0, 1), None], id="time64[ns] in microseconds"),
    pytest.param(pa.array([timedelta(days=-1), None]), [timedelta(days=-1), None], id="duration[us]"),
    pytest.param(pa.array([1_001, None], pa.duration("ns")), [timedelta(microseconds=1), None], id="duration[ns]"),
    pytest.param(pa.array([Decimal("1.10"), None]), [Decimal("1.10"), None], id="decimal128"),
    pytest.param(pa.array([Decimal(10) ** 60], pa.decimal256(61, 0)), [Decimal(10) ** 60], id="decimal256"),
    pytest.param(pa.array([[1, None], [], None]), [[1, None], [], None], id="list"),
    pytest.param(pa.array([[1, 2], None], pa.list_(pa.int64(), 2)), [[1, 2], None], id="fixed list"),
    pytest.param(pa.array([{"a": {"b": [1]}}, None]), [{"a": {"b": [1]}}, None], id="struct"),
    pytest.param(pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), [[("k", 1)]], id="map"),
    pytest.param(pa.array(["a", "b", None]).dictionary_encode(), ["a", "b", None], id="dictionary"),
    pytest.param(pa.array([uuid.UUID(int=7), None]), [uuid.UUID(int=7), None], id="uuid"),
    pytest.param(pa.nulls(2), [None, None], id="null"),
    pytest.param(pa.nulls(2, pa.int32()), [None, None], id="nulls of a type"),
    pytest.param(pa.array([], pa.timestamp("us")), [], id="empty"),
]


@pytest.mark.parametrize(("column", "values"), COLUMNS)
def test_column_becomes_python_values(column, values):
    assert to_python(column) == values
    assert [type(value) for value in to_python(column)] == [type(value) for value in values]


@pytest.mark.parametrize(("column", "values"), COLUMNS)
def test_slices_and_chunks_become_python_values(column, values):
    chunked = pa.chunked_array([column, column], column.type)

    assert to_python(chunked) == values * 2
    assert to_python(column.slice(1)) == values[1:]


def test_nan_stays_nan():
    assert math.isnan(to_python(pa.array([math.nan, None]))[0])


scalars = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.booleans(),
    st.dates(),
    st.datetimes(),
    st.datetimes(timezones=st.just(UTC)),
    st.times(),
    st.timedeltas(min_value=timedelta(days=-100_000), max_value=timedelta(days=100_000)),
    st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9),
    st.uuids(),
)
one_kind = st.sampled_from(
    [
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False),
        st.text(),
        st.binary(),
        st.booleans(),
        st.dates(),
        st.datetimes(),
        st.datetimes(timezones=st.just(UTC)),
        st.times(),
        st.timedeltas(min_value=timedelta(days=-100_000), max_value=timedelta(days=100_000)),
        st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9),
        st.lists(st.integers(-5, 5)),
        st.fixed_dictionaries({"a": st.integers(-5, 5), "b": st.text(max_size=3)}),
    ]
).flatmap(lambda values: st.lists(st.none() | values))


def encodable(value):
    try:
        str(value).encode()
    except UnicodeEncodeError:
        return False
    return True


@given(one_kind)
def test_values_of_one_kind_all_stand(values):
    array, bad = build_column(values)

    assert {index for index, value in enumerate(values) if not encodable(value)} >= bad.keys()
    assert to_python(array) == [None if index in bad else value for index, value in enumerate(values)]


@given(st.lists(st.none() | scalars, max_size=8))
def test_of_values_of_any_kind_each_stands_unchanged_or_fails(values):
    array, bad = build_column(values)

    found = to_python(array)

    assert len(found) == len(values)
    for index, value in enumerate(values):
        assert found[index] == (None if index in bad else value)
        if isinstance(value, (str, bytes, bool, Decimal, datetime)) and index not in bad:
            assert type(found[index]) is type(value)


@pytest.mark.parametrize(
    ("values", "stand", "reasons"),
    [
        pytest.param([1, "a", 2], [1, None, 2], {1: "'a' is string, the column is int64"}, id="text among numbers"),
        pytest.param(["a", 1], ["a", None], {1: "1 is int64, the column is string"}, id="number among text"),
        pytest.param([True, 1, False], [True, None, False], {1: "1 is int64, the column is bool"}, id="number, bools"),
        pytest.param(["a", b"b"], ["a", None], {1: "b'b' is binary, the column is string"}, id="bytes among text"),
        pytest.param([1, 2.5], [1.0, 2.5], {}, id="whole numbers among floats widen"),
        pytest.param(
            [2**60 + 1, 0.5],
            [None, 0.5],
            {0: "1152921504606846977 is int64, the column is double"},
            id="too large for a float",
        ),
        pytest.param([Decimal("1.1"), 2], [Decimal("1.1"), Decimal(2)], {}, id="whole number among decimals widens"),
        pytest.param(
            [Decimal("1.1"), 2.5],
            [Decimal("1.1"), None],
            {1: "2.5 is double, the column is decimal128(2, 1)"},
            id="float among decimals",
        ),
        pytest.param(
            [0.5, Decimal("0.1")],
            [0.5, None],
            {1: "Decimal('0.1') is decimal128(1, 1), the column is double"},
            id="decimal among floats",
        ),
        pytest.param(
            [Decimal("1.25"), Decimal(10) ** 20], [Decimal("1.25"), Decimal(10) ** 20], {}, id="wide decimals"
        ),
        pytest.param(
            [date(2020, 1, 1), datetime(2020, 1, 1, 5), date(2020, 1, 2)],
            [date(2020, 1, 1), None, date(2020, 1, 2)],
            {1: "datetime.datetime(2020, 1, 1, 5, 0) is timestamp[us], the column is date32[day]"},
            id="datetime among dates",
        ),
        pytest.param(
            [datetime(2020, 1, 1), datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 1, 2)],
            [datetime(2020, 1, 1), None, datetime(2020, 1, 2)],
            {1: "is timestamp[us, tz=UTC], the column is timestamp[us]"},
            id="aware among naive",
        ),
        pytest.param([date(2020, 1, 1), 0], [date(2020, 1, 1), None], {1: "0 is int64"}, id="number among dates"),
        pytest.param([time(5), 0], [time(5), None], {1: "0 is int64"}, id="number among times"),
        pytest.param([1, 2**63], [1, None], {1: "int cannot be held by Arrow"}, id="beyond int64"),
        pytest.param([-(2**63) - 1], [None], {0: "int cannot be held by Arrow"}, id="below int64"),
        pytest.param([Decimal("NaN")], [None], {0: "Decimal cannot be held by Arrow"}, id="decimal NaN"),
        pytest.param([Decimal(10) ** 80], [None], {0: "Decimal cannot be held by Arrow"}, id="81 digits"),
        pytest.param(["\ud800", "a"], [None, "a"], {0: "str cannot be held by Arrow"}, id="lone surrogate"),
        pytest.param([object, 1], [None, 1], {0: "type cannot be held by Arrow"}, id="object"),
        pytest.param([{1: 2}, {"a": 1}], [None, {"a": 1}], {0: "dict cannot be held by Arrow"}, id="key no string"),
        pytest.param([1j], [None], {0: "complex cannot be held by Arrow"}, id="complex"),
        pytest.param([[1], ["x"]], [[1], None], {1: "['x'] is list<item: string>"}, id="lists of two kinds"),
        pytest.param([[1, "x"]], [None], {0: "list cannot be held by Arrow"}, id="a list of two kinds"),
        pytest.param([{"a": 1}, {"a": "x"}], [{"a": 1}, None], {1: "{'a': 'x'} is struct"}, id="dicts of two kinds"),
        pytest.param([[{}]], [None], {0: "cannot be written to Parquet"}, id="nested dict without keys"),
        pytest.param([pa.MonthDayNano([1, 2, 3])], [None], {0: "cannot be written to Parquet"}, id="interval"),
        pytest.param([None, None], [None, None], {}, id="only None"),
        pytest.param([], [], {}, id="nothing"),
        pytest.param([{}], [None], {}, id="dict without keys is null"),
        pytest.param([{"a": 1}, {"b": 2}], [{"a": 1, "b": None}, {"a": None, "b": 2}], {}, id="dicts share their keys"),
        pytest.param([(1, 2)], [[1, 2]], {}, id="tuple is a list"),
        pytest.param([np.int32(5), np.float64(0.5)], [5.0, 0.5], {}, id="numpy numbers"),
        pytest.param([np.array([1, 2])], [[1, 2]], {}, id="numpy array"),
    ],
)
def test_value_that_cannot_stand_fails_alone_and_says_why(values, stand, reasons):
    array, bad = build_column(values)

    assert to_python(array) == stand
    assert bad.keys() == reasons.keys()
    for index, reason in reasons.items():
        assert reason in bad[index]


DAY, NOON = date(2026, 1, 1), datetime(2026, 1, 1, 12)


@pytest.mark.parametrize(
    ("values", "bad"),
    [
        pytest.param([{"d": DAY}, {"d": NOON}], [1], id="in a dict"),
        pytest.param([[DAY], None, [NOON, NOON]], [2], id="in a list"),
        pytest.param([[DAY, NOON], [DAY]], [0], id="in one list"),
        pytest.param([{"a": {"d": [DAY]}}, {"a": {"d": [NOON]}}, {"a": None}], [1], id="deep inside"),
        pytest.param([{"x": 1.5}, {"x": Decimal("1.1")}], [1], id="a decimal among floats"),
        pytest.param([{"x": 1.5}, {"x": True}], [1], id="a bool among floats"),
        pytest.param([[b"x"], ["x"]], [1], id="text among bytes"),
        pytest.param([[{"a": b"x"}], [{"a": "x"}]], [1], id="text among bytes in dicts"),
        pytest.param([{"a": 1, "d": DAY}, {"b": "x", "d": DAY}], [], id="other keys"),
        pytest.param([[1, 2.5], [None], []], [], id="whole numbers among floats"),
        pytest.param([[NOON], [NOON]], [], id="all the same"),
    ],
)
def test_nothing_inside_a_value_is_changed_in_silence(values, bad):
    array, found = build_column(values)
    assert sorted(found) == bad
    back = [value if not isinstance(value, dict) else _without_nulls(value) for value in array.to_pylist()]
    expected = [value if not isinstance(value, dict) else _without_nulls(value) for value in values]
    assert back == [None if position in bad else value for position, value in enumerate(expected)]


def _without_nulls(value):
    return {key: inner for key, inner in value.items() if inner is not None}


@pytest.mark.parametrize(
    ("hint", "values", "kind", "bad"),
    [
        pytest.param(pa.int64(), [1.5], pa.float64(), set(), id="int then float widens"),
        pytest.param(pa.float64(), [1], pa.float64(), set(), id="float then int fits"),
        pytest.param(pa.float64(), [2**60 + 1, 1], pa.float64(), {0}, id="float then a large int fails that one"),
        pytest.param(pa.int64(), ["a", 2, "b"], pa.int64(), {0, 2}, id="int then text fails just the text"),
        pytest.param(pa.int64(), ["a", "b"], pa.int64(), {0, 1}, id="int then only text fails all"),
        pytest.param(pa.string(), [b"x"], pa.string(), {0}, id="text then bytes"),
        pytest.param(pa.decimal128(5, 2), [0.5], pa.decimal128(5, 2), {0}, id="decimal then float"),
        pytest.param(pa.decimal128(3, 2), [Decimal("100.125")], pa.decimal128(6, 3), set(), id="decimals widen"),
        pytest.param(pa.null(), ["a"], pa.string(), set(), id="null then text"),
        pytest.param(pa.string(), [None], pa.string(), set(), id="text then null"),
        pytest.param(pa.date32(), [datetime(2020, 1, 1, 5)], pa.date32(), {0}, id="date then datetime"),
        pytest.param(
            pa.timestamp("us", "UTC"),
            [datetime(2020, 1, 1, 5, 30, tzinfo=INDIA)],
            pa.timestamp("us", "UTC"),
            set(),
            id="another offset is the same instant",
        ),
        pytest.param(
            pa.struct([("a", pa.int64())]),
            [{"b": 1}],
            pa.struct([("a", pa.int64()), ("b", pa.int64())]),
            set(),
            id="dicts gain keys",
        ),
    ],
)
def test_type_of_earlier_blocks_is_widened_or_kept(hint, values, kind, bad):
    array, found = build_column(values, hint)

    assert array.type == kind
    assert found.keys() == bad


def test_offsets_within_a_block_are_the_same_instants():
    values = [datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=INDIA), datetime(2020, 7, 1)]

    array, bad = build_column(values)

    assert to_python(array) == [values[0], values[1], None]
    assert bad.keys() == {2}


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        pytest.param(pa.int8(), pa.int64(), pa.int64(), id="integers"),
        pytest.param(pa.int64(), pa.float64(), pa.float64(), id="int and float"),
        pytest.param(pa.string(), pa.large_string(), pa.large_string(), id="text"),
        pytest.param(pa.timestamp("s"), pa.timestamp("us"), pa.timestamp("us"), id="units"),
        pytest.param(pa.timestamp("s", "+01:00"), pa.timestamp("us", "+02:00"), pa.timestamp("us", "UTC"), id="zones"),
        pytest.param(
            pa.timestamp("ms", "+01:00"), pa.timestamp("s", "+01:00"), pa.timestamp("ms", "+01:00"), id="zone"
        ),
        pytest.param(pa.null(), pa.date32(), pa.date32(), id="null"),
        pytest.param(pa.string(), pa.binary(), None, id="text and bytes"),
        pytest.param(pa.large_string(), pa.binary(), None, id="large text and bytes"),
        pytest.param(pa.float64(), pa.decimal128(5, 2), None, id="float and decimal"),
        pytest.param(pa.timestamp("us"), pa.timestamp("us", "UTC"), None, id="naive and aware"),
        pytest.param(pa.date32(), pa.timestamp("us"), None, id="date and datetime"),
        pytest.param(pa.int64(), pa.string(), None, id="number and text"),
        pytest.param(pa.bool_(), pa.int64(), None, id="bool and number"),
        pytest.param(pa.struct([("a", pa.int64())]), pa.string(), None, id="dict and text"),
    ],
)
def test_types_unify_only_without_loss(first, second, expected):
    assert unify(first, second) == expected
    assert unify(second, first) == expected


@given(
    count=st.integers(1, 20),
    chosen=st.sets(st.integers(0, 19)),
    order=st.randoms(use_true_random=False),
)
def test_scatter_puts_values_at_their_positions_in_any_order(count, chosen, order):
    positions = [position for position in chosen if position < count]
    order.shuffle(positions)
    base = pa.array([{"at": -1}] * count)
    values = pa.array([{"at": position} for position in positions], base.type)

    found = scatter(values, np.array(positions, dtype=np.int64), base)

    assert found.to_pylist() == [{"at": at if at in positions else -1} for at in range(count)]


def test_one_chunk_of_none():
    assert len(one_chunk(pa.chunked_array([], pa.int64()))) == 0
    assert one_chunk(pa.chunked_array([[1], [2]])).to_pylist() == [1, 2]


def test_tables_are_joined_by_name():
    first, second = pa.table({"a": [1], "b": ["x"]}), pa.table({"b": [None], "a": [0.5], "c": [True]})

    table = concat_by_name([first, second])

    assert table.to_pylist() == [{"a": 1.0, "b": "x", "c": None}, {"a": 0.5, "b": None, "c": True}]
    assert concat_by_name([first]) is first


@pytest.mark.parametrize(
    ("parts", "values", "kept"),
    [
        pytest.param([[1], ["x", "y"]], [None, "x", "y"], {0: {"a": 1}}, id="the type of more rows wins"),
        pytest.param([[1, 2], ["x"]], [1, 2, None], {2: {"a": "x"}}, id="in any order"),
        pytest.param(
            [[1], [0.5, 2.5], ["x"]], [1.0, 0.5, 2.5, None], {3: {"a": "x"}}, id="what unifies stays together"
        ),
        pytest.param(
            [[1, 2], [Decimal("1.5")], [0.5]],
            [1, 2, Decimal("1.5"), None],
            {3: {"a": 0.5}},
            id="types of which only some unify",
        ),
        pytest.param([[None], ["x"], [1]], [None, "x", None], {2: {"a": 1}}, id="null goes with any"),
        pytest.param([[{"b": 1}], ["x", None]], [None, "x", None], {0: {"a": {"b": 1}}}, id="nested"),
    ],
)
def test_types_with_nothing_in_common_lose_no_value(parts, values, kept):
    table = concat_by_name([pa.table({"a": part}) for part in parts])

    assert table["a"].to_pylist() == values
    assert kept_values(table["_kept"]) == kept


def test_conform_gives_exactly_the_columns_of_the_schema():
    table = conform(pa.table({"b": [1], "a": [2]}), pa.schema([("a", pa.float64()), ("c", pa.string())]))

    assert table.to_pylist() == [{"a": 2.0, "c": None}]


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 5))
def test_picked_rows_are_those_at_the_positions(chosen, pieces):
    values = pa.array([{"n": row} if row % 3 else None for row in range(len(chosen))])
    step = -(-len(chosen) // pieces)
    chunks = [values.slice(start, step) for start in range(0, len(chosen), step)]
    positions = np.flatnonzero(chosen)

    table = picked(pa.table({"v": pa.chunked_array(chunks)}), positions)

    assert table["v"].to_pylist() == [values[row].as_py() for row in positions.tolist()]


@given(st.lists(st.booleans(), max_size=40))
def test_spread_values_stand_at_their_positions_and_null_elsewhere(chosen):
    positions = np.flatnonzero(chosen)
    values = pa.array([f"at {row}" for row in positions.tolist()], pa.string())

    column = spread(values, positions, len(chosen))

    assert column.to_pylist() == [f"at {row}" if there else None for row, there in enumerate(chosen)]


@pytest.mark.parametrize(
    ("kind", "fits"),
    [
        pytest.param(pa.map_(pa.string(), pa.int64()), True, id="map"),
        pytest.param(pa.map_(pa.string(), pa.month_day_nano_interval()), False, id="map of intervals"),
        pytest.param(pa.list_(pa.month_day_nano_interval()), False, id="list of intervals"),
        pytest.param(pa.struct([("a", pa.sparse_union([pa.field("a", pa.int64())]))]), False, id="union inside"),
        pytest.param(pa.run_end_encoded(pa.int32(), pa.string()), False, id="run ends"),
        pytest.param(pa.dictionary(pa.int8(), pa.string()), True, id="dictionary"),
    ],
)
def test_what_parquet_can_hold_is_known_before_it_is_written(kind, fits):
    assert is_storable(kind) is fits
    with nullcontext() if fits else pytest.raises(pa.ArrowNotImplementedError):
        pq.ParquetWriter(pa.BufferOutputStream(), pa.schema([("x", kind)])).close()

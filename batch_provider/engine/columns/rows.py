"""Between Arrow columns and Python values, the fastest measured way (docs/performance.md), losing nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from numbers import Number
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch_provider.engine.columns.depth import unbearable

ERROR_TYPE = pa.struct(
    [("type", pa.string()), ("message", pa.string()), ("c", pa.string()), ("at", pa.timestamp("us", "UTC"))]
)
"""Of the column ``_error``: what was raised, by which claim's attempt, and when."""

Bad = dict[int, str]
"""Position → why the value there cannot stand in the column."""

_STRINGS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)


def to_python(column: pa.ChunkedArray | pa.Array) -> list[Any]:
    """The values of a column as Python objects; numpy does what it can, as ``to_pylist`` is 5 to 25 times slower."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    kind = array.type
    if any(check(kind) for check in _STRINGS):
        return list(array.to_numpy(zero_copy_only=False).tolist())
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return _with_nulls(array, lambda dense: dense.to_numpy(zero_copy_only=False).tolist())
    if pa.types.is_timestamp(kind) and kind.tz is None:
        micros = array.cast(pa.timestamp("us"), safe=False)
        return _with_nulls(micros, _datetimes)
    if coarser := _MICROSECONDS.get(str(kind).partition(",")[0].rstrip("]")):  # Python has no nanoseconds
        return list(array.cast(coarser(kind), safe=False).to_pylist())
    return list(array.to_pylist())


_MICROSECONDS: dict[str, Callable[[pa.DataType], pa.DataType]] = {
    "timestamp[ns": lambda kind: pa.timestamp("us", kind.tz),
    "time64[ns": lambda _: pa.time64("us"),
    "duration[ns": lambda _: pa.duration("us"),
}


def _with_nulls(array: pa.Array, convert: Any) -> list[Any]:
    if array.null_count == 0:
        return list(convert(array))
    if array.null_count == len(array):
        return [None] * len(array)
    filler = array.drop_null()[0]
    values = list(convert(array.fill_null(filler)))
    for position in np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False)).tolist():
        values[position] = None
    return values


def _datetimes(array: pa.Array) -> list[Any]:
    values = array.to_numpy(zero_copy_only=False).astype("datetime64[us]").tolist()
    # numpy hands back an int for an instant outside the years 1 to 9999; Arrow then raises a clear error
    return array.to_pylist() if any(isinstance(value, int) for value in values) else values  # type: ignore[no-any-return]


def unify(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    """The type that holds the values of both without loss, or None."""
    if first == second:
        return first
    if _mix_kinds(first, second):
        return None
    if pa.types.is_timestamp(first) and pa.types.is_timestamp(second) and first.tz and second.tz:
        return pa.timestamp(_finer(first.unit, second.unit), first.tz if first.tz == second.tz else "UTC")
    try:
        schemas = [pa.schema([("x", first)]), pa.schema([("x", second)])]
        joint = pa.unify_schemas(schemas, promote_options="permissive").field("x").type
        if pa.types.is_decimal(joint) and (pa.types.is_integer(first) or pa.types.is_integer(second)):
            return pa.decimal128(38, joint.scale)  # Arrow's own answer has no room for every integer
        return joint
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return None


def _mix_kinds(first: pa.DataType, second: pa.DataType) -> bool:
    """Whether Arrow would promote one to the other and change its values: text to bytes, decimals to floats."""
    if pa.types.is_struct(first) and pa.types.is_struct(second):
        inside = {field.name: field.type for field in first.fields}
        return any(_mix_kinds(inside.get(field.name, field.type), field.type) for field in second.fields)
    if all(pa.types.is_nested(kind) and hasattr(kind, "value_type") for kind in (first, second)):
        return _mix_kinds(first.value_type, second.value_type)
    pair = (first, second)
    text = any(map(pa.types.is_string, pair)) or any(map(pa.types.is_large_string, pair))
    raw = any(map(pa.types.is_binary, pair)) or any(map(pa.types.is_large_binary, pair))
    return (text and raw) or (any(map(pa.types.is_decimal, pair)) and any(map(pa.types.is_floating, pair)))


def _finer(first: str, second: str) -> str:
    return max(first, second, key=("s", "ms", "us", "ns").index)


def build_column(values: Sequence[Any], hint: pa.DataType | None = None) -> tuple[pa.Array, Bad]:
    """Make an Arrow array of Python values.

    Args:
        values: one for each row; None is null.
        hint: the type that earlier blocks gave this column; widened when that loses nothing.

    Returns:
        The array (null where a value could not stand) and, by position, why.
    """
    if too_deep := unbearable(values):
        array, bad = build_column([None if at in too_deep else value for at, value in enumerate(values)], hint)
        found = {at: f"{type(values[at]).__name__} cannot be held by Arrow ({why})" for at, why in too_deep.items()}
        return array, bad | found
    try:
        array = pa.array(values)
        if _changed(array.type, values) or not is_storable(array.type):
            return _build_one_by_one(values, hint)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return _build_one_by_one(values, hint)
    if hint is None or array.type == hint:
        return array, {}
    target = unify(hint, array.type)
    if target is not None:
        try:
            return array.cast(target), {}
        except pa.ArrowInvalid:
            pass  # an integer too large for a float, for example: only its record fails
    return _build_one_by_one(values, hint)


_FOREIGN: list[tuple[Callable[[pa.DataType], bool], tuple[type, ...]]] = [
    (pa.types.is_date, (datetime, Number)),  # the time would be cut off, 0 would be 1970
    (pa.types.is_temporal, (Number,)),
    (pa.types.is_floating, (Decimal, bool)),
    (pa.types.is_binary, (str,)),
]
"""Kinds of column, and the values that Arrow would change to put them there."""


def _changed(kind: pa.DataType, values: Sequence[Any]) -> bool:
    """Whether Arrow has changed values of another kind in silence to make them all ``kind``."""
    if pa.types.is_timestamp(kind) and len({v.tzinfo is None for v in values if isinstance(v, datetime)}) > 1:
        return True
    if pa.types.is_nested(kind):
        return _changed_inside(kind, values)
    foreign = next((others for matches, others in _FOREIGN if matches(kind)), ())
    return bool(foreign) and any(issubclass(found, foreign) for found in set(map(type, values)))


def _changed_inside(kind: pa.DataType, values: Sequence[Any]) -> bool:
    """The same for what is in lists and dicts."""
    if not _delicate(kind):
        return False
    if not pa.types.is_struct(kind):
        return _changed(kind.value_type, [item for value in values if value is not None for item in value])
    members = [value for value in values if value is not None]
    return any(_changed(field.type, [member.get(field.name) for member in members]) for field in kind.fields)


def _delicate(kind: pa.DataType) -> bool:
    """Whether Arrow may change a value in silence to put it there."""
    if pa.types.is_struct(kind):
        return any(_delicate(field.type) for field in kind.fields)
    return _delicate(kind.value_type) if pa.types.is_nested(kind) else any(matches(kind) for matches, _ in _FOREIGN)


def is_storable(kind: pa.DataType) -> bool:
    """Whether Parquet can hold the type."""
    if pa.types.is_struct(kind):
        return kind.num_fields > 0 and all(is_storable(field.type) for field in kind.fields)
    if pa.types.is_union(kind) or pa.types.is_run_end_encoded(kind):
        return False
    if pa.types.is_map(kind):
        return is_storable(kind.key_type) and is_storable(kind.item_type)
    if pa.types.is_nested(kind) and hasattr(kind, "value_type"):
        return is_storable(kind.value_type)
    return not pa.types.is_interval(kind)


def _one(value: Any) -> pa.Array:
    """An array of just this value; a dict without keys is null, as there is no type for it.

    Raises:
        ValueError: Parquet cannot hold it.
    """
    array = pa.nulls(1) if isinstance(value, dict) and not value else pa.array([value])
    if _changed(array.type, [value]):
        raise ValueError(f"values of several kinds inside, which {array.type} would change")
    if not is_storable(array.type):
        raise ValueError(f"{array.type} cannot be written to Parquet")
    return array


def _build_one_by_one(values: Sequence[Any], hint: pa.DataType | None) -> tuple[pa.Array, Bad]:
    """The slow way, for a block with a value that does not fit: fail just the values that cause it."""
    bad: Bad = {}
    single: list[pa.Array | None] = []
    for position, value in enumerate(values):
        try:
            single.append(_one(value))
        except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
            bad[position] = f"{type(value).__name__} cannot be held by Arrow ({error})"
            single.append(None)
    target = _common_type([item.type for item in single if item is not None], hint)
    fitted: list[pa.Array] = []
    for position, item in enumerate(single):
        if item is None:
            fitted.append(pa.nulls(1, target))
            continue
        try:
            fitted.append(item if item.type == target else _cast_without_loss(item, target))
        except (pa.ArrowException, ValueError):
            bad[position] = f"{values[position]!r:.80} is {item.type}, the column is {target}"
            fitted.append(pa.nulls(1, target))
    return pa.concat_arrays(fitted) if fitted else pa.array([], target), bad


def _common_type(found: list[pa.DataType], hint: pa.DataType | None) -> pa.DataType:
    """The hint, else the commonest type, widened by every other type it can take in."""
    ranked = [kind for kind, _ in Counter(found).most_common() if not pa.types.is_null(kind)]
    target = hint if hint is not None and not pa.types.is_null(hint) else (ranked[0] if ranked else pa.null())
    for kind in ranked:
        target = unify(target, kind) or target
    return target


def _cast_without_loss(array: pa.Array, target: pa.DataType) -> pa.Array:
    if unify(array.type, target) != target:
        raise ValueError("not a widening")
    return array.cast(target)


def picked(table: pa.Table, positions: np.ndarray) -> pa.Table:
    """The rows at these positions, which ascend; faster than ``take`` where a column is in several chunks."""
    if len(positions) == table.num_rows:
        return table
    mask = np.zeros(table.num_rows, dtype=bool)
    mask[positions] = True
    return table.filter(pa.array(mask))


def spread(values: pa.Array, positions: np.ndarray, count: int) -> pa.Array:
    """A column of ``count`` rows with ``values`` at ``positions``, and null elsewhere."""
    index, absent = np.zeros(count, dtype=np.int64), np.ones(count, dtype=bool)
    index[positions], absent[positions] = np.arange(len(values)), False
    return values.take(pa.array(index, mask=absent))


def scatter(values: pa.Array, positions: np.ndarray, base: pa.Array) -> pa.Array:
    """``base`` with ``values`` put at ``positions``; works for every type, nested ones too."""
    index = np.arange(len(values), len(values) + len(base), dtype=np.int64)
    index[positions] = np.arange(len(values), dtype=np.int64)
    return pc.take(pa.concat_arrays([values, base]), pa.array(index))


def one_chunk(column: pa.ChunkedArray) -> pa.Array:
    """The column as one array."""
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else combined.chunk(0)

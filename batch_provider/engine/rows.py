"""Between Arrow columns and Python values, the fastest measured way (docs/performance.md), losing nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return list(array.cast(pa.timestamp("us", kind.tz), safe=False).to_pylist())
    return list(array.to_pylist())


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
    try:
        schemas = [pa.schema([("x", first)]), pa.schema([("x", second)])]
        return pa.unify_schemas(schemas, promote_options="permissive").field("x").type
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return None


def build_column(values: Sequence[Any], hint: pa.DataType | None = None) -> tuple[pa.Array, Bad]:
    """Make an Arrow array of Python values.

    Args:
        values: one for each row; None is null.
        hint: the type that earlier blocks gave this column; widened when that loses nothing.

    Returns:
        The array (null where a value could not stand) and, by position, why.
    """
    try:
        array = pa.array(values)
        if pa.types.is_date(array.type) and any(isinstance(value, datetime) for value in values):
            return _build_one_by_one(values, hint)  # Arrow would silently cut the time off
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


def _build_one_by_one(values: Sequence[Any], hint: pa.DataType | None) -> tuple[pa.Array, Bad]:
    """The slow way, for a block with a value that does not fit: fail just the values that cause it."""
    bad: Bad = {}
    single: list[pa.Array | None] = []
    for position, value in enumerate(values):
        try:
            single.append(pa.array([value]))
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


def scatter(values: pa.Array, positions: np.ndarray, base: pa.Array) -> pa.Array:
    """``base`` with ``values`` put at ``positions``; works for every type, nested ones too."""
    if len(values) == len(base):
        return values
    index = np.arange(len(values), len(values) + len(base), dtype=np.int64)
    index[positions] = np.arange(len(values), dtype=np.int64)
    return pc.take(pa.concat_arrays([values, base]), pa.array(index))


def one_chunk(column: pa.ChunkedArray) -> pa.Array:
    """The column as one array."""
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else combined.chunk(0)


def concat_by_name(tables: Sequence[pa.Table]) -> pa.Table:
    """One table of several: columns by name, types widened, absent columns null.

    Two types with nothing in common (shards may disagree, a shard cannot) meet as text.
    """
    if len(tables) == 1:
        return tables[0]
    kinds: dict[str, pa.DataType] = {}
    for table in tables:
        for field in table.schema:
            present = kinds.get(field.name)
            kinds[field.name] = field.type if present is None else unify(present, field.type) or pa.string()
    schema = pa.schema(kinds.items())
    return pa.concat_tables([conform(table, schema) for table in tables])


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """``table`` with exactly the columns of ``schema``."""
    columns = [
        table[field.name].cast(field.type, safe=False)
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)

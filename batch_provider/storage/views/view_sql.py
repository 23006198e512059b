"""SQL for values and names: what DuckDB makes of an Arrow type, and which names it can tell apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batch_provider.engine.columns.rows import unify

if TYPE_CHECKING:
    import duckdb

_DECIMAL_DIGITS = 38  # DuckDB has no longer decimals
_TO_MICROSECONDS = {"s": "* 1000000", "ms": "* 1000", "us": "", "ns": "// 1000"}


def quoted(name: str) -> str:
    """An identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string."""
    return "'" + text.replace("'", "''") + "'"


def distinct_names(names: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Name → the one it has in DuckDB, which takes ``a`` and ``A`` for the same: the later one gets ``_2``."""
    used = {name.lower() for name in taken}
    found: dict[str, str] = {}
    for name in names:
        plain = name.replace("\0", "") or "column"
        shown, number = plain, 1
        while shown.lower() in used:
            number += 1
            shown = f"{plain}_{number}"
        used.add(shown.lower())
        found[name] = shown
    return found


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type as DuckDB gets to see it, from a Parquet file and from Arrow alike; durations are numbers."""
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(plain_type(field.type)) for field in kind.fields])
    if pa.types.is_map(kind):
        return pa.map_(plain_type(kind.key_type), plain_type(kind.item_type))
    if pa.types.is_nested(kind):
        return pa.list_(plain_type(kind.value_type))
    if pa.types.is_decimal(kind):
        fits = kind.precision <= _DECIMAL_DIGITS
        return pa.decimal128(kind.precision, kind.scale) if fits else pa.float64()
    if pa.types.is_timestamp(kind) and kind.unit in {"s", "ms"}:
        return pa.timestamp("us", kind.tz)
    return next((plain for matches, plain in _PLAIN if matches(kind)), kind)


_PLAIN: list[tuple[Any, pa.DataType]] = [
    (pa.types.is_duration, pa.int64()),
    (pa.types.is_float16, pa.float32()),
    (pa.types.is_time32, pa.time64("us")),
    (pa.types.is_null, pa.int32()),
]


class TypeNames:
    """DuckDB's names of Arrow types, asked of DuckDB itself."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._known: dict[pa.DataType, str] = {}

    def of(self, kind: pa.DataType) -> str:
        """For a cast."""
        if pa.types.is_duration(kind):
            return "INTERVAL"
        if kind not in self._known:
            self._connection.register("probe", pa.table({"x": pa.array([], plain_type(kind))}))
            [described] = self._connection.execute("DESCRIBE SELECT x FROM probe").fetchall()
            self._connection.unregister("probe")
            self._known[kind] = str(described[1])
        return self._known[kind]


def value(column: str, kind: pa.DataType) -> str:
    """The value of a column that holds :func:`plain_type` of ``kind``."""
    return f"to_microseconds({_microseconds(column, kind)})" if pa.types.is_duration(kind) else column


def _microseconds(column: str, kind: pa.DataType) -> str:
    return f"{column} {_TO_MICROSECONDS[kind.unit]}".strip()


def converted(column: str, kind: pa.DataType, target: pa.DataType, types: TypeNames) -> str | None:
    """A column as another type, null where the value cannot have it; None if none of them can."""
    if unify(target, kind) != target:
        return None
    cast = f"CAST({value(column, kind)} AS {types.of(target)})"
    return f"CASE WHEN NOT ({_lossy(column, types.of(target))}) THEN {cast} END" if _may_lose(kind, target) else cast


def kept(name: str, column: str, kind: pa.DataType, target: pa.DataType, types: TypeNames) -> str | None:
    """The JSON member for values that :func:`converted` leaves out, null for the others; None if it leaves out none."""
    if unify(target, kind) != target:
        condition = f"{column} IS NOT NULL"
    elif _may_lose(kind, target):
        condition = _lossy(column, types.of(target))
    else:
        return None
    return f"CASE WHEN {condition} THEN to_json({literal(name)})::VARCHAR || ': ' || {_json(column, kind)} END"


def _may_lose(kind: pa.DataType, target: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) and pa.types.is_floating(target))


def _lossy(column: str, target: str) -> str:
    """Whether a whole number is another one as a float."""
    return f"TRY_CAST(CAST({column} AS {target}) AS HUGEINT) IS DISTINCT FROM CAST({column} AS HUGEINT)"


_TAGGED: list[tuple[Any, str]] = [
    (pa.types.is_timestamp, "datetime"),
    (pa.types.is_date, "date"),
    (pa.types.is_time, "time"),
    (pa.types.is_decimal, "decimal"),
]


def _json(column: str, kind: pa.DataType) -> str:
    """The value as JSON, in the form of :mod:`batch_provider.engine.columns.kept`."""
    tag, text = next(((tag, f"CAST({column} AS VARCHAR)") for matches, tag in _TAGGED if matches(kind)), ("", ""))
    if pa.types.is_duration(kind):
        tag, text = "timedelta", f"CAST({_microseconds(column, kind)} AS VARCHAR)"
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        tag, text = "bytes", f"to_base64({column})"
    if not tag:
        return f"to_json({column})::VARCHAR"
    return f"""'{{"$batch_provider": "{tag}", "value": ' || to_json({text})::VARCHAR || '}}'"""


def joined_json(stored: str | None, members: Iterable[str]) -> str:
    """The side column ``_kept``: what a file has in it, and members to be added; null if there is neither."""
    new = list(members)
    if not new:
        return stored or "CAST(NULL AS VARCHAR)"
    added = f"'{{' || nullif(concat_ws(', ', {', '.join(new)}), '') || '}}'"
    if stored is None:
        return added
    both = f"left({stored}, -1) || ', ' || substr({added}, 2)"
    return f"CASE WHEN {stored} IS NULL THEN {added} WHEN {added} IS NULL THEN {stored} ELSE {both} END"


def select(columns: Mapping[str, str], source: str) -> str:
    """``SELECT`` of these expressions under these names."""
    return f"SELECT {', '.join(f'{sql} AS {quoted(name)}' for name, sql in columns.items())} FROM {source}"

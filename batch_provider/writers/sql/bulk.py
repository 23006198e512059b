"""Many rows at once, from Arrow columns: CSV through COPY for PostgreSQL, tuples for SQLite (docs/writers.md).

Values arrive as they do when each row is inserted with parameters: COPY goes into a temporary table with a column
type for each Arrow type, and from there by ``INSERT … SELECT``, so the database converts them by the same rules.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from batch_provider.engine.columns.rows import one_chunk, to_python
from batch_provider.writers.sql.dialect import STAGE, Dialect, quoted, quoted_table

MINIMUM = 100
"""Rows of a group from which COPY is worth its round trips; fewer are inserted one by one."""

_TEXT = "text"


class NotBulkError(Exception):
    """These rows can only be inserted one by one."""


class Staging:
    """A temporary table in PostgreSQL, gone with the transaction (so it works behind a connection pooler too).

    Args:
        target: the table's name.
        key: columns of the unique key of an upsert; empty: insert.
    """

    def __init__(self, target: str, key: Sequence[str]) -> None:
        self._target, self._key = target, key
        self._types: dict[str, str] | None = None

    def prepare(self, cursor: Any, table: pa.Table) -> None:
        """Make the temporary table of this transaction.

        Raises:
            NotBulkError: a column has a type that cannot be staged.
        """
        columns = ", ".join(f"{quoted(field.name)} {_staged(field.type)[0]}" for field in table.schema)
        cursor.execute(f"CREATE TEMPORARY TABLE {STAGE} ({columns}) ON COMMIT DROP")
        if self._types is None:
            self._types = self._column_types(cursor)

    def insert(self, cursor: Any, dialect: Dialect, table: pa.Table) -> int:
        """Insert or upsert the rows of a table, in the order in which they come; how many the database wrote."""
        cursor.execute(f"TRUNCATE {STAGE}")
        copy_csv(cursor, f"COPY {STAGE} FROM STDIN (FORMAT csv, ENCODING 'UTF8')", csv_of(table))
        values = ", ".join(self._value(field) for field in table.schema)
        cursor.execute(dialect.insert_select(self._target, table.column_names, self._key, f"{values} FROM {STAGE}"))
        return int(cursor.rowcount)

    def _value(self, field: pa.Field) -> str:
        """A text is read as the column's own type reads it, as a parameter of unknown type is."""
        kind = (self._types or {}).get(field.name) if _staged(field.type)[0] == _TEXT else None
        return f"CAST({quoted(field.name)} AS {kind})" if kind else quoted(field.name)

    def _column_types(self, cursor: Any) -> dict[str, str]:
        """Column → its type without a length: a cast to varchar(3) would cut off the rest in silence."""
        cursor.execute(
            "SELECT a.attname, quote_ident(n.nspname) || '.' || quote_ident(t.typname) FROM pg_attribute a"
            " JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace n ON n.oid = t.typnamespace"
            " WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped",
            (quoted_table(self._target),),
        )
        return dict(cursor.fetchall())


def copy_csv(cursor: Any, statement: str, data: pa.Buffer) -> None:
    """COPY … FROM STDIN, as psycopg and as psycopg2 have it."""
    if hasattr(cursor, "copy_expert"):
        cursor.copy_expert(statement, io.BytesIO(data))
        return
    with cursor.copy(statement) as copying:
        copying.write(memoryview(data))


def first_of_each_key(table: pa.Table, key: Sequence[str]) -> list[int]:
    """Rows that are the first with their key: ``ON CONFLICT DO UPDATE`` takes a row once in a statement."""
    try:
        numbered = table.select(list(key)).append_column("", pa.array(range(table.num_rows)))
        return sorted(numbered.group_by(list(key)).aggregate([("", "min")])["_min"].to_pylist())
    except (pa.ArrowException, KeyError):
        return list(range(table.num_rows))  # the database will tell


# --- PostgreSQL: columns as CSV ----------------------------------------------------------------------------------


def csv_of(table: pa.Table) -> pa.Buffer:
    """The rows as CSV: texts in quotes, null without."""
    arrays = [_staged(field.type)[1](one_chunk(table[field.name])) for field in table.schema]
    sink = pa.BufferOutputStream()
    options = pyarrow.csv.WriteOptions(include_header=False)
    pyarrow.csv.write_csv(pa.Table.from_arrays(arrays, [str(n) for n in range(len(arrays))]), sink, options)
    return sink.getvalue()


Convert = Callable[[pa.Array], pa.Array]


def _as_it_is(array: pa.Array) -> pa.Array:
    return array


def _cast(kind: pa.DataType) -> Convert:
    return lambda array: array.cast(kind, safe=False)


def _each(convert: Callable[[Any], str]) -> Convert:
    def all_of(array: pa.Array) -> pa.Array:
        return pa.array([None if value is None else convert(value) for value in to_python(array)], pa.string())

    return all_of


def json_text(value: Any) -> str:
    """A struct or list as a database takes it."""
    return json.dumps(value, default=str)


def _interval(value: Any) -> str:
    return f"{value.days} days {value.seconds}.{value.microseconds:06d} seconds"


_KINDS: list[tuple[Callable[[pa.DataType], bool], str, Convert]] = [
    (pa.types.is_null, _TEXT, _cast(pa.string())),
    (pa.types.is_uint64, "numeric", _cast(pa.string())),
    (pa.types.is_integer, "bigint", _as_it_is),
    (pa.types.is_floating, "double precision", _cast(pa.float64())),
    (pa.types.is_boolean, "boolean", _as_it_is),
    (pa.types.is_string, _TEXT, _as_it_is),
    (pa.types.is_large_string, _TEXT, _as_it_is),
    (pa.types.is_date, "date", _cast(pa.date32())),
    (pa.types.is_decimal, "numeric", _cast(pa.string())),
    (pa.types.is_time, "time", _cast(pa.string())),
    (pa.types.is_duration, "interval", _each(_interval)),
    (pa.types.is_binary, "bytea", _each(lambda value: f"\\x{value.hex()}")),
    (pa.types.is_large_binary, "bytea", _each(lambda value: f"\\x{value.hex()}")),
    (pa.types.is_fixed_size_binary, "bytea", _each(lambda value: f"\\x{value.hex()}")),
    (pa.types.is_nested, _TEXT, _each(json_text)),
]


def _staged(kind: pa.DataType) -> tuple[str, Convert]:
    """The column type of the temporary table for an Arrow type, and how values are made ready for CSV."""
    if pa.types.is_timestamp(kind):
        name = "timestamptz" if kind.tz else "timestamp"
        return name, _cast(pa.timestamp("us", "UTC" if kind.tz else None))
    for matches, name, convert in _KINDS:
        if matches(kind):
            return name, convert
    raise NotBulkError(str(kind))


# --- SQLite: columns as tuples -----------------------------------------------------------------------------------


def tuples_of(table: pa.Table, dialect: Dialect) -> list[tuple[Any, ...]]:
    """The rows as SQLite's driver takes them."""
    return list(zip(*(_sqlite_values(one_chunk(table[name]), dialect) for name in table.column_names), strict=True))


def _sqlite_values(array: pa.Array, dialect: Dialect) -> list[Any]:
    kind = array.type
    if pa.types.is_timestamp(kind):
        return to_python(_iso_texts(array))
    plain = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_string, pa.types.is_binary)
    values = to_python(array)
    return values if any(check(kind) for check in plain) else [dialect.value(value) for value in values]


def _iso_texts(array: pa.Array) -> pa.Array:
    """As ``datetime.isoformat(" ")``: microseconds only where there are some. Python objects took 20 times as long."""
    zone = array.type.tz
    micros = array.cast(pa.timestamp("us", zone), safe=False)
    suffix = "%z" if zone else ""
    whole = micros.cast(pa.timestamp("s", zone), safe=False)
    texts = pc.if_else(
        pc.equal(whole.cast(micros.type), micros),
        pc.strftime(whole, f"%Y-%m-%d %H:%M:%S{suffix}"),
        pc.strftime(micros, f"%Y-%m-%d %H:%M:%S{suffix}"),
    )
    return pc.replace_substring_regex(texts, r"([+-]\d\d)(\d\d)$", r"\1:\2") if zone else texts

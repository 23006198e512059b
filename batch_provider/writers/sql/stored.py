"""Whether rows stand in the table already as they were to be written: a database may leave out equal ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from batch_provider.writers.sql.dialect import STAGE, Dialect, quoted, quoted_table

_TYPES = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), EXISTS (
    SELECT FROM pg_opclass o JOIN pg_am m ON m.oid = o.opcmethod
    WHERE m.amname = 'btree' AND o.opcdefault AND o.opcintype = coalesce(nullif(t.typbasetype, 0), t.oid))
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
"""


class StoredRows:
    """Compares rows with those of the table that have their key.

    Args:
        dialect: of the database.
        table: its name.
        key: columns of the unique key; empty: nothing is ever found.
    """

    def __init__(self, dialect: Dialect, table: str, key: Sequence[str]) -> None:
        self._dialect, self._table, self._key = dialect, table, key
        self._types: dict[str, tuple[str, bool]] | None = None

    def has_all(
        self, cursor: Any, runs: Iterable[tuple[Sequence[str], list[Any]]], count: int, staged: pa.Schema | None
    ) -> bool:
        """Whether every row is there, equal in all its columns.

        Args:
            cursor: in the transaction of the statement that wrote fewer rows.
            runs: columns, and the values of rows.
            count: how many rows they are.
            staged: of the temporary table, if it has just these rows.
        """
        if not self._key:
            return False
        if staged is not None:
            return self._count_staged(cursor, staged.names) == count
        return all(self._has(cursor, columns, row) for columns, rows in runs for row in rows)

    def _count_staged(self, cursor: Any, columns: Sequence[str]) -> int:
        equal = " AND ".join(self._equal(cursor, name, f"s.{quoted(name)}") for name in columns)
        cursor.execute(f"SELECT count(*) FROM {STAGE} AS s JOIN {quoted_table(self._table)} AS t ON {equal}")
        return int(cursor.fetchone()[0])

    def _has(self, cursor: Any, columns: Sequence[str], row: Sequence[Any]) -> bool:
        mark = self._dialect.mark
        equal = " AND ".join(self._equal(cursor, name, mark) for name in columns)
        given = [value for name, value in zip(columns, row, strict=True) for _ in range(self._marks(name))]
        cursor.execute(f"SELECT count(*) FROM {quoted_table(self._table)} AS t WHERE {equal}", given)
        return bool(cursor.fetchone()[0])

    def _marks(self, name: str) -> int:
        """How often :meth:`_equal` takes a value."""
        both = name not in self._key and self._types is not None and self._types.get(name, ("", False))[1]
        return 2 if both else 1

    def _equal(self, cursor: Any, name: str, value: str) -> str:
        """A condition: by the equality of the column's type where it has one, and else by what is shown.

        A json has no equality, and that of shapes compares areas.
        """
        column = f"t.{quoted(name)}"
        if self._dialect.name == "sqlite":
            return f"{column} {'=' if name in self._key else 'IS'} {value}"
        kind, has_equality = self._types_of(cursor).get(name, ("text", False))
        value = f"CAST({value} AS {kind})"
        if name in self._key:
            return f"{column} = {value}"
        shown = f"CAST({column} AS text) IS NOT DISTINCT FROM CAST({value} AS text)"
        return f"({shown} OR {column} IS NOT DISTINCT FROM {value})" if has_equality else shown

    def _types_of(self, cursor: Any) -> dict[str, tuple[str, bool]]:
        """Column → its type as a cast has it, and whether it has an equality of its own."""
        if self._types is None:
            cursor.execute(_TYPES, (quoted_table(self._table),))
            self._types = {name: (kind, has_equality) for name, kind, has_equality in cursor.fetchall()}
        return self._types

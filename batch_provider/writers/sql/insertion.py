"""Rows into a table, within a transaction: what is refused or swallowed is found by halving and stands alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from batch_provider.engine.calls.invoke import RecordError
from batch_provider.engine.ports.writing import Rows
from batch_provider.writers.sql import bulk
from batch_provider.writers.sql.dialect import Dialect
from batch_provider.writers.sql.errors import (
    NotWrittenError,
    TransactionRefusedError,
    is_of_a_kind,
    is_of_the_record,
    is_of_the_run,
    may_heal,
    sqlstate,
)
from batch_provider.writers.sql.stored import StoredRows

log = logging.getLogger(__name__)


class Target(Protocol):
    """What is asked of the declared table."""

    @property
    def table(self) -> str:
        """Its name."""
        ...

    @property
    def columns(self) -> Sequence[str] | None:
        """Columns to write; None: those of the record."""
        ...

    @property
    def conflict_key(self) -> Sequence[str]:
        """Key of an upsert; empty: insert."""
        ...

    @property
    def is_counted(self) -> bool:
        """Whether the database has to say that it wrote each row."""
        ...

    def describe(self) -> str:
        """For messages."""
        ...


@dataclass(frozen=True)
class Refusal:
    """Why the database did not take a row.

    Attributes:
        error: for the record.
        may_heal: whether it may take the row once others are there.
    """

    error: RecordError
    may_heal: bool

    @classmethod
    def of(cls, error: BaseException, *, updates: bool) -> Refusal:
        """From what was raised by a statement that inserts, or updates what is there."""
        return cls(RecordError.of(error), may_heal(error, updates=updates))


class Insertion:
    """How the rows of one attempt get into the table.

    Args:
        target: the declared table.
        dialect: of the database, as it is for this table.
        connection: in which the caller has begun a transaction.
    """

    def __init__(self, target: Target, dialect: Dialect, connection: Any) -> None:
        self._target, self._dialect, self._connection = target, dialect, connection
        self._stored = StoredRows(dialect, target.table, target.conflict_key)
        is_staged = dialect.name == "postgres"
        self._staging = bulk.Staging(target.table, target.conflict_key) if is_staged else None
        self._statement = ""

    def insert(self, cursor: Any, rows: Rows, indexes: list[int]) -> dict[int, Refusal]:
        """Insert the rows in bulk as far as that goes, the others one by one; returns those that were refused.

        Raises:
            TransactionRefusedError: a row has ended the transaction (SQLite).
        """
        plain = [index for index in indexes if index not in rows.kept]
        many = self._for_bulk(cursor, rows, plain)
        refused = self._insert(cursor, rows, many, in_bulk=True)
        done = set(many)
        rest = [index for index in indexes if index not in done]
        return refused | self._insert(cursor, rows, rest, in_bulk=False)

    def _for_bulk(self, cursor: Any, rows: Rows, indexes: list[int]) -> list[int]:
        """The rows that can be staged: those of ordinary types, each key once."""
        if self._staging is None or len(indexes) < bulk.MINIMUM:
            return []
        cursor.execute("SAVEPOINT batch_stage")
        try:
            self._staging.prepare(cursor, rows.table)
        except Exception as error:
            if not isinstance(error, bulk.NotBulkError) and sqlstate(error) != "42501":  # no right to make it
                raise
            log.info("%s is written row by row: %s", self._target.describe(), str(error).strip())
            self._staging = None
            cursor.execute("ROLLBACK TO SAVEPOINT batch_stage")
            return []
        if not self._target.conflict_key:
            return indexes
        first = bulk.first_of_each_key(rows.table.take(pa.array(indexes)), self._target.conflict_key)
        return [indexes[row] for row in first]

    def _insert(self, cursor: Any, rows: Rows, indexes: list[int], *, in_bulk: bool) -> dict[int, Refusal]:
        """Insert rows under a savepoint; a group that is refused is halved until the bad records stand alone."""
        if not indexes:
            return {}
        in_bulk = in_bulk and len(indexes) >= bulk.MINIMUM
        if self._dialect.defer:
            cursor.execute(self._dialect.defer)
        cursor.execute("SAVEPOINT batch_group")
        try:
            self._insert_and_check(cursor, rows, indexes, in_bulk=in_bulk)
        except Exception as error:
            if not self._is_of_the_rows(cursor, error, rows, indexes):
                raise
            if not self._dialect.has_savepoint(self._connection):
                raise TransactionRefusedError(error) from error
            cursor.execute("ROLLBACK TO SAVEPOINT batch_group")
            cursor.execute("RELEASE SAVEPOINT batch_group")
            if len(indexes) == 1:
                return {indexes[0]: Refusal.of(error, updates=bool(self._target.conflict_key))}
            half = len(indexes) // 2
            first = self._insert(cursor, rows, indexes[:half], in_bulk=in_bulk)
            return first | self._insert(cursor, rows, indexes[half:], in_bulk=in_bulk)
        cursor.execute("RELEASE SAVEPOINT batch_group")
        return {}

    def _insert_and_check(self, cursor: Any, rows: Rows, indexes: list[int], *, in_bulk: bool) -> None:
        """Insert, and let nothing be found at the commit that can be found now.

        Raises:
            NotWrittenError: the database took the statement, and wrote fewer rows.
        """
        written = (self._copy if in_bulk else self._insert_each)(cursor, rows, indexes)
        if self._target.is_counted and written < len(indexes):
            staged = rows.table.schema if in_bulk else None
            if not self._stored.has_all(cursor, self._values(rows, indexes), len(indexes), staged):
                raise NotWrittenError(self._target.describe())
        if self._dialect.check:
            cursor.execute(self._dialect.check)

    def _is_of_the_rows(self, cursor: Any, error: Exception, rows: Rows, indexes: list[int]) -> bool:
        """Whether a row is to blame; SQLite has one code for a bad statement and for a function that a row fails in."""
        if is_of_the_record(error) or (is_of_a_kind(error) and not rows.kept.keys().isdisjoint(indexes)):
            return True
        return is_of_the_run(error) and self._dialect.is_well_formed(cursor, self._statement)

    # --- ways to write ----------------------------------------------------------------------------------------

    def _copy(self, cursor: Any, rows: Rows, indexes: list[int]) -> int:
        assert self._staging is not None
        return self._staging.insert(cursor, self._dialect, rows.table.take(pa.array(indexes)))

    def _insert_each(self, cursor: Any, rows: Rows, indexes: list[int]) -> int:
        written = 0
        for columns, values in self._values(rows, indexes):
            self._statement = self._dialect.insert(self._target.table, columns, self._target.conflict_key)
            cursor.executemany(self._statement, values)
            written += cursor.rowcount
        return written

    def _values(self, rows: Rows, indexes: list[int]) -> Iterator[tuple[Sequence[str], list[Any]]]:
        """The rows in runs of the same columns: almost always one."""
        if self._dialect.name == "sqlite" and not rows.kept:
            yield rows.table.column_names, bulk.tuples_of(rows.table.take(pa.array(indexes)), self._dialect)
            return
        groups: dict[tuple[str, ...], list[list[Any]]] = {}
        for record in rows.records(indexes):
            names = tuple(record if self._target.columns is None else rows.table.column_names)
            values = [self._dialect.value(record.get(name)) for name in names]
            groups.setdefault(names, []).append(values)
        yield from groups.items()

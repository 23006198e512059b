"""A database table as a target: rows, and the ids they are of, in one transaction (DESIGN section 5, Effects)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from batch_provider.domain.errors import InvalidOptionError, StorageError
from batch_provider.domain.instance import Claim
from batch_provider.domain.options import check_columns, set_frozen
from batch_provider.engine.calls.invoke import RecordError
from batch_provider.engine.ports.store import SourceAccess
from batch_provider.engine.ports.writing import Rows
from batch_provider.writers.sql import bulk
from batch_provider.writers.sql.commits import CommitLog, Place
from batch_provider.writers.sql.dialect import (
    Dialect,
    dialect_of,
    quoted,
    quoted_table,
)
from batch_provider.writers.sql.errors import is_of_the_driver, is_of_the_record, sqlstate

log = logging.getLogger(__name__)

MODES = ("insert", "upsert", "replace_run")


@dataclass(frozen=True)
class SqlTable:
    """Writes records as rows of a table, each exactly once (SQLite and PostgreSQL).

    Args:
        conn_id: Airflow connection of the database.
        table: its name, ``schema.table`` if need be; it must exist.
        key: columns of a unique key; given, the default mode is ``upsert``.
        mode: ``insert``: a row that is there already is that record's failure, and a later generation of the
            instance is refused; ``upsert``: it is updated; ``replace_run``: the rows that older generations of the
            instance wrote are deleted before the first row of a new one is written.
        columns: payload columns to write; None: all.
        run_column: a text column of the table that gets ``<instance id>/<generation>`` with every row;
            ``replace_run`` finds the rows to delete by it.

    Raises:
        InvalidOptionError: a mode without the column it needs, or an unknown one.
    """

    conn_id: str
    table: str
    key: Sequence[str] = ()
    mode: str | None = None
    columns: Sequence[str] | None = None
    run_column: str | None = None

    def __post_init__(self) -> None:
        """Refuse what could not write."""
        set_frozen(self, "key", check_columns("key", self.key) or ())
        set_frozen(self, "columns", check_columns("columns", self.columns))
        set_frozen(self, "mode", self.mode or ("upsert" if self.key else "insert"))
        if self.mode not in MODES:
            raise InvalidOptionError("mode", self.mode, " or ".join(map(repr, MODES)))
        if self.mode == "upsert" and not self.key:
            raise InvalidOptionError("key", self.key, "the columns of a unique key with mode='upsert'")
        column: object = self.run_column
        if column is not None and not (isinstance(column, str) and column):
            raise InvalidOptionError("run_column", column, "the name of a text column")
        if self.mode == "replace_run" and column is None:
            raise InvalidOptionError("run_column", None, "a text column of the table with mode='replace_run'")

    @property
    def conflict_key(self) -> Sequence[str]:
        """The key by which a row that is there is updated; empty when it is not."""
        return () if self.mode == "insert" else self.key

    def describe(self) -> str:
        """For messages."""
        return f"table {self.table} of connection {self.conn_id}"

    def open(self, access: SourceAccess, instance: str, generation: str, claim: Claim) -> TableSession:
        """Raise the fence and read what is written.

        Raises:
            FencedError: a later attempt or generation has raised it.
            OlderGenerationError: mode ``insert``, and an older generation of the instance has rows in the table.
            StorageError: the database cannot be reached.
        """
        return TableSession(self, access, Place.of(instance, generation, claim), str(claim.id))


class TableSession:
    """One attempt's writes (a WriterSession)."""

    def __init__(self, target: SqlTable, access: SourceAccess, place: Place, claim: str) -> None:
        self._target = target
        self._run = f"{place.instance}/{place.generation}"
        self._instance = place.instance
        self._stack = ExitStack()
        with self._clear_errors():
            connection = self._stack.enter_context(access.database(target.conn_id))
            self._dialect: Dialect = dialect_of(connection)
            self._dialect.prepare(connection)
            self._log = CommitLog(connection, self._dialect, place, claim)
            self._log.take_over(
                refuse_older=target.describe() if target.mode == "insert" else "",
                clear_older=self._delete_runs if target.mode == "replace_run" else None,
            )
            self._written = self._log.written()
        is_staged = self._dialect.name == "postgres"
        self._staging = bulk.Staging(target.table, target.conflict_key) if is_staged else None

    def close(self) -> None:
        """Close the connection."""
        self._stack.close()

    def has(self, record_id: int, consumed: int) -> bool:
        """Whether the row of a record is committed, from that upstream row."""
        return self._written.get(record_id) == consumed

    def write(self, rows: Rows) -> dict[int, RecordError]:
        """Commit the rows of a group; returns the index of each record that the database refused, and why."""
        ids, consumed = rows.ids, rows.consumed
        errors: dict[int, RecordError] = {}
        fresh = [index for index in range(len(ids)) if self._may_write(ids[index], errors, index)]
        with self._clear_errors(), self._log.transaction() as cursor:
            self._log.check(cursor)
            refused = self._insert_all(cursor, self._complete(rows), fresh)
            stayed = [index for index in fresh if index not in refused]
            self._log.note(cursor, [ids[index] for index in stayed], [consumed[index] for index in stayed])
        self._written.update({ids[index]: consumed[index] for index in stayed})
        return errors | refused

    def _may_write(self, record_id: int, errors: dict[int, RecordError], index: int) -> bool:
        if record_id in self._written and not self._target.conflict_key:
            why = f"its row is written already from an earlier version of the record, and {self._target.mode!r} without"
            errors[index] = RecordError("AlreadyWritten", f"{why} a key cannot change it")
        return index not in errors

    def _complete(self, rows: Rows) -> Rows:
        """With the columns that are written, and no others."""
        table = rows.table
        if self._target.columns is not None:
            absent = pa.nulls(table.num_rows)
            chosen = [table[n] if n in table.column_names else absent for n in self._target.columns]
            table = pa.table(dict(zip(self._target.columns, chosen, strict=True)))
        if (name := self._target.run_column) is not None:
            column = pa.repeat(self._run, rows.table.num_rows)
            at = table.column_names.index(name) if name in table.column_names else table.num_columns
            table = table.drop_columns(name) if at < table.num_columns else table
            table = table.add_column(at, name, column)
        written = set(table.column_names) - {self._target.run_column}
        kept = {row: {n: v for n, v in values.items() if n in written} for row, values in rows.kept.items()}
        return Rows(rows.ids, rows.consumed, table, {row: values for row, values in kept.items() if values})

    def _delete_runs(self, cursor: Any, generations: Sequence[str]) -> None:
        """Delete what older generations of the instance wrote."""
        column, mark = quoted(str(self._target.run_column)), self._dialect.mark
        for generation in generations:
            statement = f"DELETE FROM {quoted_table(self._target.table)} WHERE {column} = {mark}"
            cursor.execute(statement, (f"{self._instance}/{generation}",))
            if cursor.rowcount:
                log.info("Deleted %s rows of %s from %s", cursor.rowcount, generation, self._target.describe())

    # --- rows -------------------------------------------------------------------------------------------------

    def _insert_all(self, cursor: Any, rows: Rows, indexes: list[int]) -> dict[int, RecordError]:
        """Insert the rows in bulk as far as that goes, the others one by one."""
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

    def _insert(self, cursor: Any, rows: Rows, indexes: list[int], *, in_bulk: bool) -> dict[int, RecordError]:
        """Insert rows under a savepoint; a group that is refused is halved until the bad records stand alone."""
        if not indexes:
            return {}
        in_bulk = in_bulk and len(indexes) >= bulk.MINIMUM
        cursor.execute("SAVEPOINT batch_group")
        try:
            (self._copy if in_bulk else self._insert_each)(cursor, rows, indexes)
        except Exception as error:
            if not is_of_the_record(error):
                raise
            cursor.execute("ROLLBACK TO SAVEPOINT batch_group")
            cursor.execute("RELEASE SAVEPOINT batch_group")
            if len(indexes) == 1:
                return {indexes[0]: RecordError.of(error)}
            half = len(indexes) // 2
            first = self._insert(cursor, rows, indexes[:half], in_bulk=in_bulk)
            return first | self._insert(cursor, rows, indexes[half:], in_bulk=in_bulk)
        cursor.execute("RELEASE SAVEPOINT batch_group")
        return {}

    def _copy(self, cursor: Any, rows: Rows, indexes: list[int]) -> None:
        assert self._staging is not None
        self._staging.insert(cursor, self._dialect, rows.table.take(pa.array(indexes)))

    def _insert_each(self, cursor: Any, rows: Rows, indexes: list[int]) -> None:
        for columns, values in self._values(rows, indexes):
            statement = self._dialect.insert(self._target.table, columns, self._target.conflict_key)
            cursor.executemany(statement, values)

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

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if is_of_the_driver(error):
                raise StorageError("write to", self._target.describe(), str(error).strip()) from error
            raise

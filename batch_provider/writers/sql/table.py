"""A database table as a target: rows, and the ids they are of, in one transaction (DESIGN section 5, Effects)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from batch_provider.domain.errors import InvalidOptionError, StorageError
from batch_provider.domain.instance import Claim
from batch_provider.domain.options import check_choice, check_columns, set_frozen
from batch_provider.engine.calls.invoke import RecordError
from batch_provider.engine.ports.store import SourceAccess
from batch_provider.engine.ports.writing import Rows
from batch_provider.writers.sql.commits import CommitLog, Place
from batch_provider.writers.sql.dialect import dialect_of, quoted, quoted_table
from batch_provider.writers.sql.errors import TransactionRefusedError, storage_errors
from batch_provider.writers.sql.insertion import Insertion, Refusal

log = logging.getLogger(__name__)

MODES = ("insert", "upsert", "replace_run")
UNCOUNTED = ("refuse", "allow")


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
        uncounted: what a row is that the database takes without an error, and does not count as written, because a
            trigger or a rule swallows it or puts it elsewhere: ``refuse``: that record's failure; ``allow``: written.

    Raises:
        InvalidOptionError: a mode without the column it needs, or an unknown one.
    """

    conn_id: str
    table: str
    key: Sequence[str] = ()
    mode: str | None = None
    columns: Sequence[str] | None = None
    run_column: str | None = None
    uncounted: str = field(default="refuse", repr=False)  # changes no row: not in the fingerprint of the step

    def __post_init__(self) -> None:
        """Refuse what could not write."""
        set_frozen(self, "key", check_columns("key", self.key) or ())
        set_frozen(self, "columns", check_columns("columns", self.columns))
        set_frozen(self, "mode", self.mode or ("upsert" if self.key else "insert"))
        if self.mode not in MODES:
            raise InvalidOptionError("mode", self.mode, " or ".join(map(repr, MODES)))
        if self.mode == "upsert" and not self.key:
            raise InvalidOptionError("key", self.key, "the columns of a unique key with mode='upsert'")
        check_choice("uncounted", self.uncounted, UNCOUNTED)
        column: object = self.run_column
        if column is not None and not (isinstance(column, str) and column):
            raise InvalidOptionError("run_column", column, "the name of a text column")
        if self.mode == "replace_run" and column is None:
            raise InvalidOptionError("run_column", None, "a text column of the table with mode='replace_run'")

    @property
    def conflict_key(self) -> Sequence[str]:
        """The key by which a row that is there is updated; empty when it is not."""
        return () if self.mode == "insert" else self.key

    @property
    def is_counted(self) -> bool:
        """Whether the database has to say that it wrote each row."""
        return self.uncounted != "allow"

    @property
    def remark(self) -> str:
        """For the report."""
        if self.is_counted:
            return ""
        return f"rows of {self.describe()} count as written although the database may not have (uncounted='allow')"

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
        with ExitStack() as stack:  # closes the connection if something raises here
            with self._clear_errors():
                connection = stack.enter_context(access.database(target.conn_id))
                self._dialect = dialect_of(connection)
                self._dialect.prepare(connection)
                self._log = CommitLog(connection, self._dialect, place, claim)
                self._log.take_over(
                    refuse_older=target.describe() if target.mode == "insert" else "",
                    clear_older=self._delete_runs if target.mode == "replace_run" else None,
                )
                self._written = self._log.written()
                self._insertion = Insertion(target, self._dialect.for_table(connection, target.table), connection)
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Close the connection."""
        self._stack.close()

    def has(self, record_id: int, consumed: int) -> bool:
        """Whether the row of a record is committed, from that upstream row."""
        return self._written.get(record_id) == consumed

    def write(self, rows: Rows) -> dict[int, RecordError]:
        """Commit the rows of a group; returns the index of each record that the database refused, and why."""
        errors: dict[int, RecordError] = {}
        fresh = [index for index in range(len(rows.ids)) if self._may_write(rows.ids[index], errors, index)]
        rows = self._complete(rows)
        with self._clear_errors():
            refused = self._commit(rows, fresh)
            tried = fresh
            while (again := self._worth_a_try(rows, fresh, refused)) and again != tried:
                for index in again:
                    del refused[index]
                refused |= self._commit(rows, again)
                tried = again
        return errors | {index: refused[index].error for index in sorted(refused)}

    def _commit(self, rows: Rows, indexes: list[int]) -> dict[int, Refusal]:
        """Write rows in a transaction; where they cannot be committed together, each half in one of its own."""
        try:
            with self._log.transaction() as cursor:
                self._log.check(cursor)
                refused = self._insertion.insert(cursor, rows, indexes)
                stayed = {rows.ids[index]: rows.consumed[index] for index in indexes if index not in refused}
                self._log.note(cursor, list(stayed), list(stayed.values()))
        except TransactionRefusedError as refusal:
            if len(indexes) == 1:
                return {indexes[0]: Refusal.of(refusal.error, updates=bool(self._target.conflict_key))}
            half = len(indexes) // 2
            return self._commit(rows, indexes[:half]) | self._commit(rows, indexes[half:])
        self._written.update(stayed)
        return refused

    def _worth_a_try(self, rows: Rows, fresh: list[int], refused: Mapping[int, Refusal]) -> list[int]:
        """The refused rows that may be taken after the others: a child that came before its parent.

        Not those whose key a later row has written: the last of a key stays.
        """
        found = [index for index in sorted(refused) if refused[index].may_heal]
        if not found or not (key := self._target.conflict_key):
            return found
        given = Rows(
            rows.ids, rows.consumed, rows.table.select([n for n in key if n in rows.table.column_names]), rows.kept
        )
        keys = [repr([record.get(name) for name in key]) for record in given.records(range(len(rows.ids)))]
        last = {keys[index]: index for index in fresh if index not in refused}
        return [index for index in found if last.get(keys[index], -1) < index]

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
            if cursor.rowcount > 0:
                log.info("Deleted %s rows of %s from %s", cursor.rowcount, generation, self._target.describe())
            self._require_deleted(cursor, f"{self._instance}/{generation}")

    def _require_deleted(self, cursor: Any, run: str) -> None:
        """Rows that a trigger or a rule has kept would stand beside the new ones."""
        where = f"{quoted(str(self._target.run_column))} = {self._dialect.mark}"
        cursor.execute(f"SELECT 1 FROM {quoted_table(self._target.table)} WHERE {where} LIMIT 1", (run,))
        if self._target.is_counted and cursor.fetchone():
            reason = (
                f"rows of {run} are still there after the DELETE: a trigger or a rule keeps them. Change that; or, if "
                "it is meant so, give SqlTable uncounted='allow'"
            )
            raise StorageError("replace what an older generation wrote to", self._target.describe(), reason)

    def _clear_errors(self) -> AbstractContextManager[None]:
        return storage_errors("write to", self._target.describe())

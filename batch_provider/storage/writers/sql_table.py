"""A database table as a target: rows, and the ids they are of, in one transaction (DESIGN section 5, Effects).

Two small tables in the target database make it exactly once: ``_batch_fence`` says which claim may write a
(step, shard), ``_batch_commits`` which record ids are written, and from which upstream row. Each group's
transaction locks the fence, requires its own claim, writes the rows, notes the ids. After a crash the ids that
are noted are left out, so it does not matter how the groups fall the next time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from batch_provider.domain.errors import FencedError, InvalidOptionError, StorageError
from batch_provider.domain.instance import Claim
from batch_provider.domain.options import check_columns, set_frozen
from batch_provider.engine.invoke import RecordError
from batch_provider.engine.ports import SourceAccess
from batch_provider.storage.writers.dialect import Dialect, dialect_of

MODES = ("insert", "upsert")

_TABLES = (
    """CREATE TABLE IF NOT EXISTS _batch_fence (instance VARCHAR(255), generation VARCHAR(64), step VARCHAR(128),
    shard VARCHAR(16), claim VARCHAR(32), PRIMARY KEY (instance, generation, step, shard))""",
    """CREATE TABLE IF NOT EXISTS _batch_commits (instance VARCHAR(255), generation VARCHAR(64), step VARCHAR(128),
    shard VARCHAR(16), first_id BIGINT, last_id BIGINT, consumed BIGINT, claim VARCHAR(32))""",
)
_RECORD_ERRORS = {"IntegrityError", "DataError", "ProgrammingError", "InterfaceError", "NotSupportedError"}
_PLACE = "instance = {m} AND generation = {m} AND step = {m} AND shard = {m}"


@dataclass(frozen=True)
class SqlTable:
    """Writes records as rows of a table, each exactly once (SQLite and PostgreSQL).

    Args:
        conn_id: Airflow connection of the database.
        table: its name, ``schema.table`` if need be; it must exist.
        key: columns of a unique key; given, the default mode is ``upsert``.
        mode: ``insert``: a row that is there already is that record's failure; ``upsert``: it is updated.
        columns: payload columns to write; None: all that the first record has.

    Raises:
        InvalidOptionError: a mode without the key it needs, or an unknown one.
    """

    conn_id: str
    table: str
    key: Sequence[str] = ()
    mode: str | None = None
    columns: Sequence[str] | None = None

    def __post_init__(self) -> None:
        """Refuse what could not write."""
        set_frozen(self, "key", check_columns("key", self.key) or ())
        set_frozen(self, "columns", check_columns("columns", self.columns))
        set_frozen(self, "mode", self.mode or ("upsert" if self.key else "insert"))
        if self.mode not in MODES:
            raise InvalidOptionError("mode", self.mode, " or ".join(map(repr, MODES)))
        if self.mode == "upsert" and not self.key:
            raise InvalidOptionError("key", self.key, "the columns of a unique key with mode='upsert'")

    def describe(self) -> str:
        """For messages."""
        return f"table {self.table} of connection {self.conn_id}"

    def open(self, access: SourceAccess, instance: str, generation: str, claim: Claim) -> TableSession:
        """Raise the fence and read what is written.

        Raises:
            FencedError: a later attempt has raised it.
            StorageError: the database cannot be reached.
        """
        return TableSession(self, access, (instance, generation, claim.step, claim.shard), str(claim.id))


class TableSession:
    """One attempt's writes (a WriterSession)."""

    def __init__(self, target: SqlTable, access: SourceAccess, place: tuple[str, str, str, str], claim: str) -> None:
        self._target, self._place, self._claim = target, place, claim
        self._stack = ExitStack()
        with self._clear_errors():
            self._connection = self._stack.enter_context(access.database(target.conn_id))
            self._dialect: Dialect = dialect_of(self._connection)
            self._dialect.prepare(self._connection)
            self._raise_fence()
            self._written = self._read_commits()

    def close(self) -> None:
        """Close the connection."""
        self._stack.close()

    def has(self, record_id: int, consumed: int) -> bool:
        """Whether the row of a record is committed, from that upstream row."""
        return self._written.get(record_id) == consumed

    def write(
        self, records: Sequence[dict[str, Any]], ids: Sequence[int], consumed: Sequence[int]
    ) -> dict[int, RecordError]:
        """Commit the rows of a group; returns the index of each record that the database refused, and why."""
        errors: dict[int, RecordError] = {}
        fresh = [index for index in range(len(ids)) if self._may_write(ids[index], errors, index)]
        with self._clear_errors(), self._transaction() as cursor:
            self._check_fence(cursor)
            refused = self._insert(cursor, records, fresh)
            stayed = [index for index in fresh if index not in refused]
            self._note(cursor, [ids[index] for index in stayed], [consumed[index] for index in stayed])
        self._written.update({ids[index]: consumed[index] for index in stayed})
        return errors | refused

    def _may_write(self, record_id: int, errors: dict[int, RecordError], index: int) -> bool:
        if record_id in self._written and self._target.mode == "insert":
            why = "its row is written already from an earlier version of the record, and mode='insert' cannot change it"
            errors[index] = RecordError("AlreadyWritten", why)
        return index not in errors

    # --- rows -------------------------------------------------------------------------------------------------

    def _insert(self, cursor: Any, records: Sequence[dict[str, Any]], indexes: list[int]) -> dict[int, RecordError]:
        """Insert rows under a savepoint; a group that is refused is halved until the bad records stand alone."""
        if not indexes:
            return {}
        cursor.execute("SAVEPOINT batch_group")
        try:
            for columns, rows in _by_columns(records, indexes, self._target.columns):
                key = self._target.key if self._target.mode == "upsert" else None
                statement = self._dialect.insert(self._target.table, columns, key)
                cursor.executemany(statement, [[self._dialect.value(value) for value in row] for row in rows])
        except Exception as error:
            if not _is_of_the_record(error):
                raise
            cursor.execute("ROLLBACK TO SAVEPOINT batch_group")
            cursor.execute("RELEASE SAVEPOINT batch_group")
            if len(indexes) == 1:
                return {indexes[0]: RecordError.of(error)}
            half = len(indexes) // 2
            return self._insert(cursor, records, indexes[:half]) | self._insert(cursor, records, indexes[half:])
        cursor.execute("RELEASE SAVEPOINT batch_group")
        return {}

    def _note(self, cursor: Any, ids: list[int], consumed: list[int]) -> None:
        """Note the ids that are written, as ranges."""
        mark = self._dialect.mark
        statement = f"INSERT INTO _batch_commits VALUES ({', '.join([mark] * 8)})"
        for first, last, epoch in _ranges(ids, consumed):
            cursor.execute(statement, (*self._place, first, last, epoch, self._claim))

    # --- fence and commits ------------------------------------------------------------------------------------

    def _raise_fence(self) -> None:
        mark = self._dialect.mark
        with self._transaction() as cursor:
            for statement in (*self._dialect.before_ddl, *_TABLES):
                cursor.execute(statement)
        with self._transaction() as cursor:
            cursor.execute(
                f"INSERT INTO _batch_fence VALUES ({', '.join([mark] * 5)}) ON CONFLICT DO NOTHING",
                (*self._place, self._claim),
            )
            self._check_fence(cursor, raising=True)
            place = _PLACE.format(m=mark)
            cursor.execute(f"UPDATE _batch_fence SET claim = {mark} WHERE {place}", (self._claim, *self._place))

    def _check_fence(self, cursor: Any, *, raising: bool = False) -> None:
        place = _PLACE.format(m=self._dialect.mark)
        cursor.execute(f"SELECT claim FROM _batch_fence WHERE {place}{self._dialect.lock}", self._place)
        found = cursor.fetchone()[0]
        if found > self._claim or (found != self._claim and not raising):
            raise FencedError(self._place[2], self._place[3], self._claim, found)

    def _read_commits(self) -> dict[int, int]:
        place = _PLACE.format(m=self._dialect.mark)
        found: dict[int, int] = {}
        with self._transaction() as cursor:
            cursor.execute(
                f"SELECT first_id, last_id, consumed FROM _batch_commits WHERE {place} ORDER BY claim", self._place
            )
            for first, last, consumed in cursor.fetchall():
                found.update(dict.fromkeys(range(first, last + 1), consumed))
        return found

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        cursor = self._connection.cursor()
        try:
            if self._dialect.begin:
                cursor.execute(self._dialect.begin)
            yield cursor
            self._connection.commit()
        except BaseException:
            self._connection.rollback()
            raise
        finally:
            cursor.close()

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if _is_of_the_driver(error):
                raise StorageError("write to", self._target.describe(), str(error).strip()) from error
            raise


_DRIVERS = ("sqlite3", "psycopg2", "psycopg")


def _is_of_the_driver(error: Exception) -> bool:
    return any(kind.__module__.partition(".")[0] in _DRIVERS for kind in type(error).__mro__)


def _is_of_the_record(error: Exception) -> bool:
    """Whether a record is to blame, and not the statement (SQLSTATE 42: no such table or column) or the server."""
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or ""
    names = {kind.__name__ for kind in type(error).__mro__}
    own = isinstance(error, (OverflowError, ValueError)) and not _is_of_the_driver(error)
    return own or (_is_of_the_driver(error) and not state.startswith("42") and bool(names & _RECORD_ERRORS))


def _by_columns(
    records: Sequence[dict[str, Any]], indexes: list[int], columns: Sequence[str] | None
) -> Iterator[tuple[tuple[str, ...], list[list[Any]]]]:
    """The rows, grouped by the columns they have."""
    groups: dict[tuple[str, ...], list[list[Any]]] = {}
    for index in indexes:
        record = records[index]
        names = tuple(record if columns is None else columns)
        groups.setdefault(names, []).append([record.get(name) for name in names])
    yield from groups.items()


def _ranges(ids: list[int], consumed: list[int]) -> Iterator[tuple[int, int, int]]:
    """Runs of consecutive ids with the same upstream row epoch."""
    pairs = sorted(zip(ids, consumed, strict=True))
    start = 0
    for index, (one, two) in enumerate(pairwise(pairs), start=1):
        if two[0] != one[0] + 1 or two[1] != one[1]:
            yield pairs[start][0], pairs[index - 1][0], pairs[start][1]
            start = index
    if pairs:
        yield pairs[start][0], pairs[-1][0], pairs[start][1]


class ConnectionTransaction:
    """A connection whose transaction is committed at the end of a ``with``, or rolled back (a GroupTransaction)."""

    def __init__(self, access: SourceAccess, conn_id: str) -> None:
        self._stack = ExitStack()
        self._connection = self._stack.enter_context(access.database(conn_id))
        self._dialect = dialect_of(self._connection)
        self._dialect.prepare(self._connection)

    def __enter__(self) -> Any:
        """Begin."""
        if self._dialect.begin:
            self._connection.execute(self._dialect.begin)
        return self._connection

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Commit, or roll back what the function did before it raised."""
        if kind is None:
            self._connection.commit()
        else:
            self._connection.rollback()

    def close(self) -> None:
        """Close the connection."""
        self._stack.close()

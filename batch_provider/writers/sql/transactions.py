"""Connections whose transaction belongs to a group or a record: for functions that write by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from batch_provider.domain.errors import StorageError
from batch_provider.domain.layout import Span
from batch_provider.engine.ports.store import SourceAccess
from batch_provider.writers.sql.commits import CommitLog, Place
from batch_provider.writers.sql.dialect import dialect_of, is_of_the_driver, is_of_the_record


class ConnectionTransaction:
    """A connection whose transaction is committed at the end of a ``with``, or rolled back (a GroupTransaction)."""

    def __init__(self, access: SourceAccess, conn_id: str) -> None:
        self._stack, self._conn_id = ExitStack(), conn_id
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
            self._commit()
        else:
            self._connection.rollback()

    def _commit(self) -> None:
        """A server that goes away here is no record's fault: the task is tried again, and the group is called again."""
        try:
            self._connection.commit()
        except Exception as refusal:
            with suppress(Exception):  # SQLite leaves a transaction open that it would not commit
                self._connection.rollback()
            if not is_of_the_driver(refusal) or is_of_the_record(refusal):
                raise
            raise StorageError("commit to", f"connection {self._conn_id}", str(refusal).strip()) from refusal

    def close(self) -> None:
        """Close the connection."""
        self._stack.close()


class TransactionEndedError(Exception):
    """The author's function has ended the transaction that it was given."""


class RecordTransactions:
    """A connection with a transaction for each record, which notes the record's id (a RecordSession).

    Raises:
        FencedError: a later attempt or generation has taken over.
        StorageError: the database cannot be reached.
    """

    def __init__(self, access: SourceAccess, conn_id: str, place: Place, claim: str) -> None:
        self._name = f"connection {conn_id}"
        self._stack = ExitStack()
        with self._clear_errors():
            self._connection = self._stack.enter_context(access.database(conn_id))
            self._dialect = dialect_of(self._connection)
            self._dialect.prepare(self._connection)
            self._log = CommitLog(self._connection, self._dialect, place, claim)
            self._log.take_over()
            self._written = self._log.written()

    def close(self) -> None:
        """Close the connection."""
        self._stack.close()

    def has(self, record_id: int, consumed: int) -> bool:
        """Whether the transaction of a record is committed, made from that upstream row."""
        return self._written.get(record_id) == consumed

    @contextmanager
    def record(self, record_id: int, consumed: int) -> Iterator[Any]:
        """The connection; what is done there is committed with the record's id, or rolled back."""
        cursor = self._connection.cursor()
        try:
            with self._clear_errors():
                if self._dialect.begin:
                    cursor.execute(self._dialect.begin)
                self._log.check(cursor)
            yield self._connection
            if not self._dialect.is_in_transaction(self._connection):
                raise TransactionEndedError(
                    "the function committed, rolled back or closed its connection, or went on after a database error; "
                    "leave that to the step: it commits when the function returns, and rolls back when it raises"
                )
            with self._clear_errors(but_the_records=True):
                self._log.note(cursor, [record_id], [consumed])
                self._connection.commit()
        except BaseException:
            with self._clear_errors():
                self._connection.rollback()
            raise
        self._written[record_id] = consumed

    def merge_notes(self, span: Span) -> None:
        """Write down the ids of a block as ranges: there was a note for each record."""
        with self._clear_errors(), self._log.transaction() as cursor:
            self._log.check(cursor)
            self._log.merge(cursor, span)

    @contextmanager
    def _clear_errors(self, *, but_the_records: bool = False) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not is_of_the_driver(error) or (but_the_records and is_of_the_record(error)):
                raise
            raise StorageError("write to", self._name, str(error).strip()) from error

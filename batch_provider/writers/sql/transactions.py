"""Connections whose transaction belongs to a group or a record: for functions that write by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from batch_provider.domain.layout import Span
from batch_provider.engine.ports.store import SourceAccess
from batch_provider.engine.ports.writing import TransactionEndedError
from batch_provider.writers.sql.commits import CommitLog, Place
from batch_provider.writers.sql.dialect import dialect_of
from batch_provider.writers.sql.errors import driver_of, storage_errors


class _Session:
    """A connection for an author's function; errors of the database that are not of the data end the task.

    Raises:
        StorageError: the database cannot be reached.
    """

    def __init__(self, access: SourceAccess, conn_id: str) -> None:
        self._name = f"connection {conn_id}"
        with ExitStack() as stack:  # closes the connection if something raises here
            with storage_errors("write to", self._name):
                self._connection = stack.enter_context(access.database(conn_id))
                self._dialect = dialect_of(self._connection)
                self._driver = driver_of(self._connection.__class__)
                self._dialect.prepare(self._connection)
                self._begin_session()
            self._stack = stack.pop_all()

    def _begin_session(self) -> None:
        """What is done once."""

    def close(self) -> None:
        """Close the connection."""
        self._stack.close()

    def _clear_errors(self, action: str = "write to", *, but_the_records: bool = False) -> AbstractContextManager[None]:
        return storage_errors(action, self._name, driver=self._driver, but_the_records=but_the_records)

    def _check(self, cursor: Any) -> None:
        """What the commit would find is found now: an ended transaction, and constraints that were put off."""
        if not self._dialect.is_in_transaction(self._connection):
            raise TransactionEndedError
        if self._dialect.check:
            cursor.execute(self._dialect.check)

    def _commit(self) -> None:
        with self._clear_errors("commit to", but_the_records=True):
            self._connection.commit()

    def _roll_back(self) -> None:
        with self._clear_errors():
            self._connection.rollback()


class ConnectionTransaction(_Session):
    """A connection whose transaction is committed at the end of a ``with``, or rolled back (a GroupTransaction).

    Raises:
        StorageError: the database cannot be reached, or said something that is not of the data.
        TransactionEndedError: the function has ended the transaction itself.
    """

    def __enter__(self) -> Any:
        """Begin."""
        with self._clear_errors():
            self._cursor = self._connection.cursor()
            self._cursor.execute(self._dialect.begin or "SELECT 1")  # PostgreSQL's drivers begin with any statement
        return self._connection

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Commit, or roll back what the function did before it raised."""
        try:
            with self._clear_errors(but_the_records=True):
                if error is not None:
                    raise error
                self._check(self._cursor)
            self._commit()
        except BaseException as problem:
            self._roll_back()  # SQLite leaves a transaction open that it would not commit
            if problem is not error:
                raise


class RecordTransactions(_Session):
    """A connection with a transaction for each record, which notes the record's id (a RecordSession).

    Raises:
        FencedError: a later attempt or generation has taken over.
        StorageError: the database cannot be reached.
    """

    def __init__(self, access: SourceAccess, conn_id: str, place: Place, claim: str) -> None:
        self._place, self._claim = place, claim
        super().__init__(access, conn_id)

    def _begin_session(self) -> None:
        self._log = CommitLog(self._connection, self._dialect, self._place, self._claim)
        self._log.take_over()
        self._written = self._log.written()

    def has(self, record_id: int, consumed: int) -> bool:
        """Whether the transaction of a record is committed, made from that upstream row."""
        return self._written.get(record_id) == consumed

    @contextmanager
    def record(self, record_id: int, consumed: int) -> Iterator[Any]:
        """The connection; what is done there is committed with the record's id, or rolled back."""
        try:
            with self._clear_errors():
                cursor = self._connection.cursor()
                if self._dialect.begin:
                    cursor.execute(self._dialect.begin)
                self._log.check(cursor)
            with self._clear_errors(but_the_records=True):
                yield self._connection
                self._check(cursor)
            with self._clear_errors():
                self._log.note(cursor, [record_id], [consumed])
            self._commit()
        except BaseException:
            self._roll_back()
            raise
        self._written[record_id] = consumed

    def merge_notes(self, span: Span) -> None:
        """Write down the ids of a block as ranges: there was a note for each record."""
        with self._clear_errors(), self._log.transaction() as cursor:
            self._log.check(cursor)
            self._log.merge(cursor, span)

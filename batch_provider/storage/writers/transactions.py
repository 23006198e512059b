"""Connections whose transaction belongs to a group: for aggregators that write by themselves."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import Any

from batch_provider.domain.errors import StorageError
from batch_provider.engine.ports import SourceAccess
from batch_provider.storage.writers.dialect import dialect_of, is_of_the_driver, is_of_the_record


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

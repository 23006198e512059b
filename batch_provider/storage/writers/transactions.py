"""Connections whose transaction belongs to a group: for aggregators that write by themselves."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from batch_provider.engine.ports import SourceAccess
from batch_provider.storage.writers.dialect import dialect_of


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

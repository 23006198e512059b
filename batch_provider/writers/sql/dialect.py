"""What differs between the databases a writer knows: SQLite and PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from batch_provider.domain.errors import UnsupportedPayloadError

_IN_TRANSACTION = 2  # libpq's PQTRANS_INTRANS, in psycopg and psycopg2


@dataclass(frozen=True)
class Dialect:
    """How a database is spoken to.

    Attributes:
        name: for messages.
        mark: placeholder of a parameter.
        begin: starts a transaction that may write; empty where the driver does it.
        lock: suffix of a SELECT that locks its row until the commit.
        before_ddl: what keeps two tasks from creating the same table at the same moment.
        check: makes constraints that were put off to the commit be checked now; empty where there is no such thing.
        defer: puts them off again.
    """

    name: str
    mark: str
    begin: str
    lock: str
    before_ddl: tuple[str, ...] = ()
    check: str = ""
    defer: str = ""

    def prepare(self, connection: Any) -> None:
        """Take the control of transactions."""
        if self.name == "sqlite":
            connection.isolation_level = None  # no transaction but those that are begun here
            connection.execute("PRAGMA busy_timeout = 60000")

    def is_in_transaction(self, connection: Any) -> bool:
        """Whether a transaction is open, and not aborted by an error."""
        if self.name == "sqlite":
            return bool(connection.in_transaction)
        if hasattr(connection, "get_transaction_status"):  # psycopg2
            return bool(connection.get_transaction_status() == _IN_TRANSACTION)
        return bool(connection.info.transaction_status == _IN_TRANSACTION)

    def value(self, value: Any) -> Any:
        """A value as the driver takes it."""
        if isinstance(value, (dict, list)):
            return json.dumps(value, default=str)
        if self.name != "sqlite":
            return value
        if isinstance(value, (datetime, date, time)):
            return value.isoformat(" ") if isinstance(value, datetime) else value.isoformat()
        return str(value) if isinstance(value, (Decimal, timedelta)) else value

    def insert(self, table: str, columns: Sequence[str], key: Sequence[str]) -> str:
        """Insert a row; with a key, update the row that has it."""
        marks = ", ".join([self.mark] * len(columns))
        return f"{_into(table, columns)} VALUES ({marks}){_on_conflict(columns, key)}"

    def insert_select(self, table: str, columns: Sequence[str], key: Sequence[str], query: str) -> str:
        """Insert the rows of a query, given without its SELECT; with a key, update those that are there."""
        return f"{_into(table, columns)} SELECT {query}{_on_conflict(columns, key)}"


def _into(table: str, columns: Sequence[str]) -> str:
    return f"INSERT INTO {quoted_table(table)} ({', '.join(map(quoted, columns))})"


def _on_conflict(columns: Sequence[str], key: Sequence[str]) -> str:
    if not key:
        return ""
    changed = [name for name in columns if name not in key]
    updates = ", ".join(f"{quoted(name)} = excluded.{quoted(name)}" for name in changed)
    action = f"UPDATE SET {updates}" if changed else "NOTHING"
    return f" ON CONFLICT ({', '.join(map(quoted, key))}) DO {action}"


SQLITE = Dialect("sqlite", "?", "BEGIN IMMEDIATE", "")
POSTGRES = Dialect(
    "postgres",
    "%s",
    "",
    " FOR UPDATE",
    before_ddl=("SELECT pg_advisory_xact_lock(7236171)",),
    check="SET CONSTRAINTS ALL IMMEDIATE",
    defer="SET CONSTRAINTS ALL DEFERRED",
)


def dialect_of(connection: Any) -> Dialect:
    """The dialect of a DB-API connection.

    Raises:
        UnsupportedPayloadError: it is neither SQLite nor PostgreSQL.
    """
    module = connection.__class__.__module__.partition(".")[0]  # __class__: a wrapped connection names the real one
    if module == "sqlite3":
        return SQLITE
    if module in ("psycopg2", "psycopg"):
        return POSTGRES
    raise UnsupportedPayloadError(
        f"A connection of {module}", "one to SQLite or PostgreSQL, or an aggregator that writes"
    )


def quoted(name: str) -> str:
    """A name as SQL takes it, whatever is in it."""
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def quoted_table(table: str) -> str:
    """A table's name, with its schema if it has one."""
    return ".".join(map(quoted, table.split(".")))

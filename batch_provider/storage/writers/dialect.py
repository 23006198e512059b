"""What differs between the databases a writer knows: SQLite and PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from batch_provider.domain.errors import UnsupportedPayloadError


@dataclass(frozen=True)
class Dialect:
    """How a database is spoken to.

    Attributes:
        name: for messages.
        mark: placeholder of a parameter.
        begin: starts a transaction that may write; empty where the driver does it.
        lock: suffix of a SELECT that locks its row until the commit.
        before_ddl: what keeps two tasks from creating the same table at the same moment.
    """

    name: str
    mark: str
    begin: str
    lock: str
    before_ddl: tuple[str, ...] = ()

    def prepare(self, connection: Any) -> None:
        """Take the control of transactions."""
        if self.name == "sqlite":
            connection.isolation_level = None  # no transaction but those that are begun here
            connection.execute("PRAGMA busy_timeout = 60000")

    def value(self, value: Any) -> Any:
        """A value as the driver takes it."""
        if isinstance(value, (dict, list)):
            return json.dumps(value, default=str)
        if self.name != "sqlite":
            return value
        if isinstance(value, (datetime, date, time)):
            return value.isoformat(" ") if isinstance(value, datetime) else value.isoformat()
        return str(value) if isinstance(value, (Decimal, timedelta)) else value

    def insert(self, table: str, columns: Sequence[str], key: Sequence[str] | None) -> str:
        """Insert a row; with a key, update the row that has it."""
        names = ", ".join(map(quoted, columns))
        marks = ", ".join([self.mark] * len(columns))
        text = f"INSERT INTO {quoted_table(table)} ({names}) VALUES ({marks})"
        if not key:
            return text
        changed = [name for name in columns if name not in key]
        action = (
            "NOTHING"
            if not changed
            else "UPDATE SET " + ", ".join(f"{quoted(name)} = excluded.{quoted(name)}" for name in changed)
        )
        return f"{text} ON CONFLICT ({', '.join(map(quoted, key))}) DO {action}"


SQLITE = Dialect("sqlite", "?", "BEGIN IMMEDIATE", "")
POSTGRES = Dialect("postgres", "%s", "", " FOR UPDATE", ("SELECT pg_advisory_xact_lock(7236171)",))


def dialect_of(connection: Any) -> Dialect:
    """The dialect of a DB-API connection.

    Raises:
        UnsupportedPayloadError: it is neither SQLite nor PostgreSQL.
    """
    module = type(connection).__module__.partition(".")[0]
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

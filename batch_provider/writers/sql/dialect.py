"""What differs between the databases a writer knows: SQLite and PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from batch_provider.domain.errors import InvalidOptionError
from batch_provider.writers.sql.errors import driver_of

STAGE = "_batch_stage"
"""Name of the temporary table that rows go through in bulk."""

_TARGET = '"_batch_target"'
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
        verb: begins a statement that inserts.
    """

    name: str
    mark: str
    begin: str
    lock: str
    before_ddl: tuple[str, ...] = ()
    check: str = ""
    defer: str = ""
    verb: str = "INSERT"

    def prepare(self, connection: Any) -> None:
        """Take the control of transactions."""
        if self.name == "sqlite":
            connection.isolation_level = None  # no transaction but those that are begun here
            connection.execute("PRAGMA busy_timeout = 60000")
        elif connection.autocommit:
            connection.autocommit = False

    def is_in_transaction(self, connection: Any) -> bool:
        """Whether a transaction is open, and not aborted by an error."""
        if self.name == "sqlite":
            return bool(connection.in_transaction)
        if hasattr(connection, "get_transaction_status"):  # psycopg2
            return bool(connection.get_transaction_status() == _IN_TRANSACTION)
        return bool(connection.info.transaction_status == _IN_TRANSACTION)

    def has_savepoint(self, connection: Any) -> bool:
        """Whether one can be rolled back to: SQLite may have ended the transaction (``RAISE(ROLLBACK)``)."""
        return self.name != "sqlite" or bool(connection.in_transaction)

    def for_table(self, connection: Any, table: str) -> Dialect:
        """As it is for a table: ``OR ABORT`` where SQLite's own clauses would let rows vanish (``ON CONFLICT IGNORE``).

        Not where there is none: it would also override ``INSERT OR IGNORE`` in the table's triggers.
        """
        if self.name != "sqlite":
            return self
        schema, _, name = table.rpartition(".")
        schemas = [schema] if schema else [row[1] for row in connection.execute("PRAGMA database_list")]
        for each in schemas:
            found = connection.execute(
                f"SELECT sql FROM {quoted(each)}.sqlite_master WHERE name = ? COLLATE NOCASE", (name,)
            ).fetchone()
            if found and "conflict" in str(found[0]).lower():
                return replace(self, verb="INSERT OR ABORT")
        return self

    def is_well_formed(self, cursor: Any, statement: str) -> bool:
        """Whether SQLite can compile a statement, its triggers included: then it is a row that it fails with."""
        try:
            cursor.execute(f"EXPLAIN {statement}", [None] * statement.count(self.mark))
        except Exception:  # noqa: BLE001  # it cannot: what it says is known already
            return False
        return True

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
        return f"{self._into(table, columns)} VALUES ({marks}){_on_conflict(columns, key)}"

    def insert_select(self, table: str, columns: Sequence[str], key: Sequence[str], query: str) -> str:
        """Insert the rows of a query, given without its SELECT; with a key, update those that are there."""
        return f"{self._into(table, columns)} SELECT {query}{_on_conflict(columns, key)}"

    def _into(self, table: str, columns: Sequence[str]) -> str:
        return f"{self.verb} INTO {quoted_table(table)} AS {_TARGET} ({', '.join(map(quoted, columns))})"


def _on_conflict(columns: Sequence[str], key: Sequence[str]) -> str:
    if not key:
        return ""
    changed = [f"{quoted(name)} = excluded.{quoted(name)}" for name in columns if name not in key]
    itself = f"{quoted(key[0])} = {_TARGET}.{quoted(key[0])}"  # DO NOTHING would not be counted
    return f" ON CONFLICT ({', '.join(map(quoted, key))}) DO UPDATE SET {', '.join(changed) or itself}"


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
        InvalidOptionError: it is neither SQLite nor PostgreSQL.
    """
    kind = connection.__class__  # of a wrapped connection the real one; it may be a subclass of the driver's
    driver = driver_of(kind)
    if not driver:
        raise InvalidOptionError(
            "connection",
            f"{kind.__module__}.{kind.__qualname__}",
            "one to SQLite or PostgreSQL; for other databases write an aggregator that connects by itself",
        )
    return SQLITE if driver == "sqlite3" else POSTGRES


def quoted(name: str) -> str:
    """A name as SQL takes it, whatever is in it."""
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def quoted_table(table: str) -> str:
    """A table's name, with its schema if it has one."""
    return ".".join(map(quoted, table.split(".")))

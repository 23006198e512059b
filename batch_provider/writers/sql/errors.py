"""Whose an error of a database is: a record's, or of the statement, the connection or the server (DESIGN section 8)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from batch_provider.domain.errors import StorageError

_DRIVERS = ("sqlite3", "psycopg2", "psycopg")
_NOT_OF_THE_DATA = re.compile("0[0-389ABFLPZ]|2[4568BD]|3[4BDF]|4[02]|5[3578]|72|F0|HV|XX")
"""Classes of SQLSTATE of the connection, the transaction, the statement, the catalogue and the server.

What is left is raised while a row is worked on: bad data (22), constraints (23, 44), too long for an index (54), a
trigger's own (P0 and what it makes up).
"""
_NO_RIGHT = "42501"
_OF_A_KIND = ("42804", "42846")
_UNIQUE = ("23505", "UNIQUE", "PRIMARYKEY", "ROWID")
_MAY_HEAL = re.compile("FOREIGNKEY|TRIGGER|23503|23P01|42501|(2F|38|39|P0|[5-9I-Z].)...")
"""Parents, exclusions, policies and triggers, by SQLite's name or PostgreSQL's code."""


class NotWrittenError(Exception):
    """The database took a row without an error, and did not write it."""

    def __init__(self, target: str) -> None:
        super().__init__(
            f"the database took the row and wrote none: a trigger or a rule of {target} swallowed it, or put it "
            "elsewhere. Change that; or, if it is meant so, give SqlTable uncounted='allow'"
        )
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        """From what it was made of."""
        return type(self), (self.target,)


class TransactionRefusedError(Exception):
    """The database has rolled back, or did not commit, because of the rows in the transaction."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


def driver_of(kind: type) -> str:
    """The database driver that a class is of; empty for others."""
    modules = (parent.__module__.partition(".")[0] for parent in kind.__mro__)
    return next((module for module in modules if module in _DRIVERS), "")


def is_of_the_driver(error: BaseException) -> bool:
    """Whether a database driver raised it."""
    return bool(driver_of(type(error)))


def sqlstate(error: BaseException) -> str:
    """PostgreSQL's code of an error; empty for others."""
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or ""


def is_of_the_record(error: BaseException) -> bool:
    """Whether a record is to blame: neither the statement nor the connection, nor the server."""
    if isinstance(error, NotWrittenError):
        return True
    if not is_of_the_driver(error):
        return isinstance(error, (OverflowError, ValueError))  # a value that the driver does not take
    state = sqlstate(error)
    if state == _NO_RIGHT:
        return _is_of_row_security(error)
    return _NOT_OF_THE_DATA.match(state) is None if state else _is_of_a_value(error)


def _is_of_row_security(error: BaseException) -> bool:
    """A policy refused a row. Its code is that of a missing right; its text is in the server's language."""
    source = getattr(getattr(error, "diag", None), "source_function", None)
    return source == "ExecWithCheckOptions" or "violates row-level security" in str(error)


def _is_of_a_value(error: BaseException) -> bool:
    """Of what a driver says by itself: SQLite's refusals, and values that cannot be sent."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"IntegrityError", "DataError"}:
        return True
    text = str(error)
    return "Error binding parameter" in text or ("ProgrammingError" in names and " adapt type " in text)


def may_heal(error: BaseException, *, updates: bool) -> bool:
    """Whether a row that was refused so may be taken once others are there: a parent, or a value that gets free.

    What a trigger says may depend on anything.

    Args:
        error: what the database said.
        updates: whether rows that are there are updated, so that one can free the value of a unique column.
    """
    state, name = sqlstate(error), getattr(error, "sqlite_errorname", None) or ""
    kind = name.rpartition("_")[2] or state
    if kind in _UNIQUE:
        return updates
    return isinstance(error, NotWrittenError) or bool(_MAY_HEAL.fullmatch(kind))


def is_of_a_kind(error: BaseException) -> bool:
    """Whether a value of this type cannot go into its column: of the statement, unless a record alone has it."""
    return sqlstate(error) in _OF_A_KIND


def is_of_the_run(error: BaseException) -> bool:
    """Whether it is SQLite's general error, of a bad statement as of a function that cannot take a value."""
    return getattr(error, "sqlite_errorname", None) == "SQLITE_ERROR"


@contextmanager
def storage_errors(action: str, target: str, *, driver: str = "", but_the_records: bool = False) -> Iterator[None]:
    """Errors of the database become StorageErrors.

    Args:
        action: for the message, as of StorageError.
        target: what could not be written to.
        driver: leave the errors of other drivers alone: an author's function may use one of its own.
        but_the_records: leave those alone that are a record's.
    """
    try:
        yield
    except TransactionRefusedError as refusal:
        raise StorageError(action, target, str(refusal)) from refusal
    except Exception as error:
        found = driver_of(type(error))
        if not found or (driver and found != driver) or (but_the_records and is_of_the_record(error)):
            raise
        raise StorageError(action, target, str(error).strip() or type(error).__name__) from error

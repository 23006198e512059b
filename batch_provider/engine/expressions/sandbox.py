"""An in-memory DuckDB that reaches nothing outside, run under a time limit."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

T = TypeVar("T")

DEFAULT_TIMEOUT = 60.0
"""Seconds one piece of work may take."""
DEFAULT_MEMORY = "1GB"
_LOCKED_IN = 10.0  # seconds to wait for an interrupted statement; then its connection is left to it
_of_other_processes: list[object] = []  # connections seen across a fork: closing one is its owner's business


def connect(*, memory_limit: str = DEFAULT_MEMORY) -> DuckDBPyConnection:
    """Open a DuckDB without files, network, extensions or threads, whose configuration is locked.

    The time zone is UTC, whatever the worker's is. Two optimizers are off: one moves, in DuckDB 2.0.0, a cast
    that stands twice out of the ``TRY`` that guards it, the other lets a block's values change the plan.
    """
    import duckdb

    conn = duckdb.connect(
        ":memory:",
        config={
            "enable_external_access": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "threads": 1,
            "memory_limit": memory_limit,
            "temp_directory": "",
        },
    )
    conn.execute("SET TimeZone = 'UTC'")
    conn.execute("SET max_expression_depth = 200")
    conn.execute("SET lambda_syntax = 'DISABLE_SINGLE_ARROW'")
    conn.execute("SET disabled_optimizers = 'common_subexpressions,statistics_propagation'")
    conn.execute("SET lock_configuration = true")
    return conn


class Sandbox:
    """One sandboxed connection, made at first use and again after a fork or an unexpected error.

    Work runs in a thread of its own while the caller waits. So a signal's handler (Airflow's
    ``execution_timeout``, SIGTERM) runs at once and what it raises leaves :meth:`run` unchanged; DuckDB
    in the main thread looked for signals up to a minute later and then raised a bare RuntimeError.

    One caller at a time; DuckDB notices an interrupt between vectors of 2,048 rows.
    """

    def __init__(self, *, timeout: float = DEFAULT_TIMEOUT, memory_limit: str = DEFAULT_MEMORY) -> None:
        self.timeout = timeout
        self.memory_limit = memory_limit
        self._conn: DuckDBPyConnection | None = None
        self._pid = 0

    def run(self, work: Callable[[DuckDBPyConnection], T]) -> T:
        """Return what ``work`` returns, or raise what it raises.

        Raises:
            TimeoutError: it took longer than :attr:`timeout`; it was interrupted.
        """
        conn = self._connection()
        done = threading.Event()  # in Python 3.11 a join() that a signal interrupts calls the thread finished
        results: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                results.append(work(conn))
            except BaseException as error:  # noqa: BLE001  # raised again by the waiting thread
                errors.append(error)
            finally:
                done.set()

        try:
            threading.Thread(target=run, name="batch-expression", daemon=True).start()
            if not done.wait(self.timeout):
                raise TimeoutError(f"longer than {self.timeout:g} s")
        except BaseException:
            self._abandon(conn, done)
            raise
        if errors:
            self.close()  # whatever went wrong, the next statement finds a connection without a past
            raise errors[0]
        return results[0]

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        conn, self._conn = self._conn, None
        if conn is None:
            return
        if self._pid == os.getpid():
            _close(conn)
        else:
            _of_other_processes.append(conn)

    def _connection(self) -> DuckDBPyConnection:
        if self._conn is None or self._pid != os.getpid():
            self.close()
            self._conn, self._pid = connect(memory_limit=self.memory_limit), os.getpid()
        return self._conn

    def _abandon(self, conn: DuckDBPyConnection, done: threading.Event) -> None:
        """Interrupt the work until it ends, again and again: between two statements an interrupt is lost."""
        self._conn = None
        give_up = time.monotonic() + _LOCKED_IN
        while not done.wait(0.02) and time.monotonic() < give_up:
            conn.interrupt()
        if done.is_set():
            _close(conn)


_of_this_thread = threading.local()


def shared() -> Sandbox:
    """The sandbox of this thread, for whoever needs no limits of its own: opening one takes 30 ms (measured)."""
    if not hasattr(_of_this_thread, "sandbox"):
        _of_this_thread.sandbox = Sandbox()
    found: Sandbox = _of_this_thread.sandbox
    return found


def _close(conn: DuckDBPyConnection) -> None:
    """Close a connection; a failure to do so hides no other error."""
    with suppress(Exception):
        conn.close()

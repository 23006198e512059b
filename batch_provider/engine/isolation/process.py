"""The parent's hold on a child: forked, asked, and buried."""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from batch_provider.engine.isolation.child import Outside, live
from batch_provider.engine.isolation.index import CallIndex, Trace
from batch_provider.engine.isolation.messages import OutOfMemory, Question, Raised

_LOOK_SECONDS = 0.2
_WAIT_SECONDS = 0.002
_PATIENCE_SECONDS = 5.0


@dataclass
class ChildDiedError(Exception):
    """A child is dead, or will not live on: never leaves this package.

    Attributes:
        how: a signal's name, an exit code, or that memory did not suffice.
        trace: where it was.
    """

    how: str
    trace: Trace


class Child:
    """A forked process that serves one parent.

    Args:
        serve: its work: called in the child with its end of the pipe.
        index: where it notes what it is at.
        outside: what it must not speak to, and the parent answers for.
    """

    def __init__(self, serve: Callable[[Connection], None], index: CallIndex, outside: Outside | None = None) -> None:
        self._index, self._outside = index, outside
        index.reset()
        self._pipe, theirs = Pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        me = os.getpid()
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # Python 3.12 warns of threads: the child starts its own
            self._pid = os.fork()
        if self._pid == 0:  # pragma: no cover  # see live()
            self._pipe.close()
            live(me, theirs, outside, lambda: serve(theirs))
        theirs.close()
        self._status: int | None = None
        self._is_busy = False

    def ask(self, request: Any) -> Any:
        """Send a request and wait for what comes of it.

        Raises:
            ChildDiedError: the child did not live to answer.
            Exception: what the request raised.
        """
        self._is_busy = True
        with suppress(BrokenPipeError, ConnectionResetError):
            self._pipe.send(request)
        found = self.answer()
        self._is_busy = False
        return found

    def answer(self) -> Any:
        """Wait for what the child says next; its questions are answered meanwhile."""
        while True:
            found = self._heard(self._pipe.recv)
            if isinstance(found, Question):
                assert self._outside is not None
                with suppress(BrokenPipeError, ConnectionResetError):
                    self._pipe.send(self._outside.answer(found.content))
            elif isinstance(found, Raised):
                self.end()
                found.error.add_note(found.note)
                raise found.error
            elif isinstance(found, OutOfMemory):
                trace = self._index.read()
                self.end()
                raise ChildDiedError(f"lack of memory ({found.message})", trace)
            else:
                return found

    def columns(self) -> bytes:
        """The Arrow stream that follows a finished run."""
        return bytes(self._heard(self._pipe.recv_bytes))

    def _heard(self, receive: Callable[[], Any]) -> Any:
        try:
            while not self._pipe.poll(_LOOK_SECONDS):
                if self._has_ended() and not self._pipe.poll(0):  # its own children may hold the pipe open
                    break
            else:
                return receive()
        except (EOFError, ConnectionResetError):
            pass
        trace = self._index.read()
        self.end()
        raise ChildDiedError(_how(self._status), trace)

    def _has_ended(self) -> bool:
        if self._status is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            self._status = status if pid else None
        return self._status is not None

    def close(self) -> None:
        """Let it go: one that is at work, because its parent was interrupted, is killed."""
        self.end(0.0 if self._is_busy else _PATIENCE_SECONDS)

    def end(self, patience: float = _PATIENCE_SECONDS) -> None:
        """Hang up: that ends it. Whoever has not left when the patience is over, in seconds, is killed."""
        self._pipe.close()
        give_up = time.monotonic() + patience
        while not self._has_ended():
            if time.monotonic() >= give_up:
                os.kill(self._pid, signal.SIGKILL)
                _, self._status = os.waitpid(self._pid, 0)
            else:
                time.sleep(_WAIT_SECONDS)


def _how(status: int | None) -> str:
    code = os.waitstatus_to_exitcode(status or 0)
    if code >= 0:
        return f"exit code {code}"
    names = {int(known): known.name for known in signal.Signals}
    return f"signal {names.get(-code, -code)}"

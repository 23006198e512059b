"""Processes that end when the one that started them does, however it ends.

Every component leads a session of its own. Airflow's children stay in the session though they change their
process group, so the session finds all of them, also after their parent has died. Run as a program, this
module is the guard: it reads session leaders from its standard input, and when that closes, which it does
even if the starter is killed, it ends those sessions.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

_GRACE_SECONDS = 5.0


def start_session(command: list[str], env: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a program as the leader of a new session, with its output appended to a file."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def session_members(leaders: Iterable[int]) -> list[psutil.Process]:
    """Return the living processes of the sessions, and what those started in sessions of their own."""
    wanted = set(leaders)
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) in wanted:
                found.update([process, *process.children(recursive=True)])
    return [process for process in found if _is_alive(process)]


def end_sessions(leaders: Iterable[int], grace: float = _GRACE_SECONDS) -> None:
    """Ask the sessions to end, then kill what is left after the grace time.

    Only the leaders are asked. Airflow's components end their children themselves on SIGINT, and leave them
    behind on SIGTERM.
    """
    leaders = list(leaders)
    members = session_members(leaders)
    for leader in leaders:
        with suppress(ProcessLookupError):
            os.kill(leader, signal.SIGINT)
    psutil.wait_procs(members, timeout=grace)
    while left := session_members(leaders):
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=1)


class SessionGuard:
    """Ends the sessions it was told about when this process is gone."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, start_new_session=True)

    def watch(self, leader: int) -> None:
        """Add the session led by this process."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{leader}\n".encode())
        self._process.stdin.flush()

    def close(self) -> None:
        """End the sessions that are still there, and the guard."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _guard() -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    leaders = [int(line) for line in sys.stdin]
    time.sleep(0.1)  # a starter that was killed may be followed by its children a moment later
    end_sessions(leaders)


if __name__ == "__main__":
    _guard()

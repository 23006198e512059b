"""Runs pieces of work in processes of their own that may be killed: forked, so that none has to import anything.

The server is a process with one thread, and it never opens a database: what is forked from it starts clean.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
KILLED, STOPPED = -int(signal.SIGKILL), -int(signal.SIGSTOP)


class Forks:
    """A server that forks a process for every request."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.forks"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, folder: Path, **options: Any) -> int:
        """Work in ``folder`` until it ends, dies or stops; returns its exit code or the negative signal.

        Raises:
            AssertionError: it ended with an exception; with the traceback.
        """
        return self.start(folder, **options)[1]

    def start(self, folder: Path, **options: Any) -> tuple[int, int]:
        """The same; returns its pid too."""
        pid, code = self._ask({"do": "run", "folder": str(folder), **options})
        assert code <= 0 or options.get("fails"), (folder / "error").read_text()
        return pid, code

    def resume(self, pid: int) -> int:
        """Let a stopped process go on; returns how it ended, 1 for an exception."""
        return self._ask({"do": "continue", "pid": pid})[1]

    def _ask(self, request: dict[str, Any]) -> tuple[int, int]:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        assert answer, "the server has died"
        pid, code = json.loads(answer)
        return pid, code

    def close(self) -> None:
        """End the server, and what it left stopped."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(timeout=30)
        if self._server.stdout is not None:
            self._server.stdout.close()


def _serve() -> None:
    from tests.crash import work

    stopped: set[int] = set()
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "run":
            pid = _fork(work, request)
        else:
            pid = request["pid"]
            os.kill(pid, signal.SIGCONT)
        _, status = os.waitpid(pid, os.WUNTRACED)
        code = -os.WSTOPSIG(status) if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status)
        (stopped.add if os.WIFSTOPPED(status) else stopped.discard)(pid)
        sys.stdout.write(json.dumps([pid, code]) + "\n")
        sys.stdout.flush()
    for pid in stopped:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _fork(work: Any, request: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    folder = Path(request["folder"])
    try:
        error = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(error, 1)
        os.dup2(error, 2)
        work.execute(folder, request)
    except BaseException:  # noqa: BLE001
        (folder / "error").write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    _serve()

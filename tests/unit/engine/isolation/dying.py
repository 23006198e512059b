"""Jobs with records that kill their process, run in processes of their own.

The server is a process with one thread that never opens a database: what is forked from it starts clean.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import traceback
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb  # noqa: F401  # not opened here: only so that no forked process has to import it
import pyarrow.compute as pc

from batch_provider import BatchJob, JobSpec
from batch_provider.sources.access import LocalAccess
from batch_provider.storage.blobs.local import LocalBlobs
from batch_provider.testing import LocalRun

ROOT = Path(__file__).parents[4]
RECORDS = 40


def segfault() -> None:
    """A native library goes wrong."""
    ctypes.string_at(0)


def sigkill() -> None:
    """What the kernel does when memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def too_much_memory() -> None:
    """More than the process may have: raises, where a bound is set."""
    bytearray(3 << 30)


WAYS = {"segfault": segfault, "sigkill": sigkill, "memory": too_much_memory}


class Notes:
    """What the functions saw; no death takes any of it."""

    def __init__(self, folder: Path) -> None:
        self._handle = os.open(folder / "calls", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def saw(self, *numbers: int) -> None:
        os.write(self._handle, f"{' '.join(map(str, numbers))}\n".encode())


def calls(folder: Path) -> Counter[int]:
    """Number → how often it was seen."""
    return Counter(int(word) for word in (folder / "calls").read_text().split())


class Server:
    """Forks a process for every attempt."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.engine.isolation.dying"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def attempt(self, folder: Path, job: str, **options: Any) -> int:
        """Every task of the job that is left; returns the exit code or the negative signal.

        Raises:
            AssertionError: it ended with an exception; with the traceback.
        """
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps({"folder": str(folder), "job": job, **options}) + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        assert code <= 0, (folder / "error").read_text()
        return code

    def until_done(self, folder: Path, job: str, **options: Any) -> tuple[int, dict[str, Any]]:
        """Attempts until one ends by itself; returns how many died, and what the job came to."""
        for died in range(6):
            if self.attempt(folder, job, **options) == 0:
                return died, json.loads((folder / "summary.json").read_text())
        raise AssertionError("it never ends")

    def close(self) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(timeout=30)
        self._server.stdout.close()


def _serve() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _attempt(Path(request.pop("folder")), **request)
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _attempt(folder: Path, job: str, *, memory: int | None = None, **options: Any) -> None:
    try:
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if memory is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
        run_attempt(folder, job, **options)
    except MemoryError:
        sigkill()  # what it comes to: the attempt has not closed itself
    except BaseException:  # noqa: BLE001
        (folder / "error").write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)


def run_attempt(folder: Path, job: str, **options: Any) -> None:
    """All that is left of the job, and what it came to."""
    access = LocalAccess({"warehouse": lambda: sqlite3.connect(folder / "warehouse.db", timeout=60)})
    run = LocalRun(JOBS[job](folder, **options), store=LocalBlobs(folder / "store"), access=access)
    result = run.run([{"n": n} for n in range(RECORDS)])
    summary = {
        "state": str(result.state),
        "counts": [result.successful_records, result.failed_records, result.not_run_records],
        "failures": run.query("SELECT record_id, step, error_type, message FROM failures ORDER BY 1"),
        "outcomes": run.query("SELECT step, record_id, outcome FROM outcomes ORDER BY 1, 2"),
        "output": run.output(),
        "attempts": {
            step.name: len(run.generation.claim_ids(step.name, "01"))
            for step in run.job.steps
            if not run.job.fuse_steps
        },
    }
    (folder / "summary.json").write_text(json.dumps(summary))


JOBS: dict[str, Any] = {}


def declared(make: Any) -> Any:
    """A job of that name."""
    JOBS[make.__name__] = make
    return make


@declared
def record_step(folder: Path, way: str = "segfault", killers: Any = (17,), **options: Any) -> JobSpec:
    notes = Notes(folder)
    with BatchJob("dying", **{"max_failed_records": -1, **options}) as job:

        @job.step
        def work(record):
            notes.saw(record["n"])
            if record["n"] in killers:
                WAYS[way]()
            return {"twice": 2 * record["n"]}

        @job.step
        def after(record):
            return {"more": record["twice"] + 1}

    return job.spec


@declared
def sql_step(folder: Path, depth: int = 1_000_000, **options: Any) -> JobSpec:
    """An expression that needs more stack than there is for one record's text."""
    Notes(folder).saw(0)
    with BatchJob("dying", **{"max_failed_records": -1, **options}) as job:

        @job.step
        def nest(record):
            return {"text": "[" * depth + "]" * depth if record["n"] == 23 else "[1]"}

        job.sql_step("work", assign={"parsed": "json_contains(text, '1')"})
        job.sql_step("after", assign={"twice": "n * 2"})

    return job.spec


@declared
def arrow_step(folder: Path, way: str = "segfault", killers: Any = (5, 30), **options: Any) -> JobSpec:
    notes = Notes(folder)
    with BatchJob("dying", **{"max_failed_records": -1, **options}) as job:

        @job.arrow_step
        def work(block):
            numbers = block.column("n").to_pylist()
            notes.saw(*numbers)
            if set(numbers) & set(killers):
                WAYS[way]()
            return block.append_column("twice", pc.multiply(block.column("n"), 2))

    return job.spec


@declared
def aggregator(folder: Path, way: str = "segfault", on_error: str = "fail_group", **options: Any) -> JobSpec:
    notes = Notes(folder)
    with BatchJob("dying", **{"max_failed_records": -1, **options}) as job:

        @job.aggregator("work", size=4, on_error=on_error)
        def work(records):
            numbers = [record["n"] for record in records]
            notes.saw(*numbers)
            if 17 in numbers:
                WAYS[way]()
            return [{"size": len(records)} for _ in records]

    return job.spec


@declared
def fused(folder: Path, way: str = "segfault", **options: Any) -> JobSpec:
    notes = Notes(folder)
    with BatchJob("dying", fuse_steps=True, **{"max_failed_records": -1, **options}) as job:

        @job.step
        def first(record):
            return {"first": record["n"] + 1}

        @job.step
        def work(record):
            notes.saw(record["n"])
            if record["n"] == 17:
                WAYS[way]()
            return {"twice": 2 * record["first"]}

        job.sql_step("after", assign={"more": "twice + 1"})

        @job.aggregator("group", size=4)
        def group(records):
            return [{"size": len(records)} for _ in records]

    return job.spec


@declared
def transaction(folder: Path, way: str = "segfault", **options: Any) -> JobSpec:
    notes = Notes(folder)
    with closing(sqlite3.connect(folder / "warehouse.db")) as warehouse:
        warehouse.execute("CREATE TABLE IF NOT EXISTS seen (n INTEGER)")
    with BatchJob("dying", **{"max_failed_records": -1, **options}) as job:

        @job.step(transaction="warehouse")
        def work(record, *, connection):
            notes.saw(record["n"])
            connection.execute("INSERT INTO seen VALUES (?)", [record["n"]])
            if record["n"] == 17:
                WAYS[way]()

    return job.spec


@declared
def stream(folder: Path, way: str = "segfault", **options: Any) -> JobSpec:
    notes = Notes(folder)
    with BatchJob("dying", **{"max_failed_records": -1, **options}) as job:

        @job.aggregator("work", streaming=True, accept_expression="n < 30")
        def work(records):
            for record in records:
                notes.saw(record["n"])
                if record["n"] == 17:
                    WAYS[way]()

        @job.step
        def after(record): ...

    return job.spec


if __name__ == "__main__":
    _serve()

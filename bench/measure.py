"""Run one command and watch its whole process tree: time, memory, processors, disk, and the first checkpoint."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

INTERVAL = 0.1
_WHOLE = b"PAR1"


@dataclass(frozen=True)
class Measured:
    """What one run took.

    Attributes:
        wall: seconds from the start of the process to its end.
        cpu: processor seconds of the whole tree.
        others: the share of the machine that other work used meanwhile, 0 to 1.
        tree: peak of the resident memory of all processes together, in bytes; shared pages count in each.
        worker: the same of the largest single process.
        first: seconds to the first whole Parquet file that is not a copy of the input; None: there was none.
        code: of the exit; None: it took too long and was ended.
    """

    wall: float
    cpu: float
    others: float
    tree: int
    worker: int
    first: float | None
    code: int | None
    error: str = ""


@dataclass
class _Seen:
    """What the sampler has seen so far."""

    tree: int = 0
    worker: int = 0
    first: float | None = None
    cpu: dict[int, float] = field(default_factory=dict)


def measure(command: Sequence[str], *, out: Path, cwd: Path, env: dict[str, str], limit: float) -> Measured:
    """Run ``command``; ``out`` is where its files appear."""
    error_file = out.with_suffix(".err")
    error_file.parent.mkdir(parents=True, exist_ok=True)
    seen, stop = _Seen(), threading.Event()
    busy, began, before = _busy(), time.perf_counter(), os.times()
    with error_file.open("wb") as errors:
        process = subprocess.Popen(
            command, cwd=cwd, env=env, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
        )
        sampler = threading.Thread(target=_sample, args=(process.pid, out, began, seen, stop), daemon=True)
        sampler.start()
        code: int | None
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        except BaseException:  # interrupted: nothing may stay behind
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    wall = time.perf_counter() - began
    stop.set()
    sampler.join()
    after = os.times()
    waited = after.children_user + after.children_system - before.children_user - before.children_system
    cpu = max(waited, sum(seen.cpu.values()))
    own = after.user + after.system - before.user - before.system
    others = max(0.0, _busy() - busy - cpu - own) / (wall * (psutil.cpu_count() or 1))
    error = error_file.read_text(errors="replace")[-2_000:] if code != 0 else ""
    error_file.unlink()
    return Measured(
        round(wall, 3),
        round(cpu, 2),
        round(others, 3),
        seen.tree,
        seen.worker,
        None if seen.first is None else round(seen.first, 2),
        code,
        error,
    )


def _busy() -> float:
    """Seconds that the processors were at work, for this machine or, where it is a virtual one, for others."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)


def _sample(pid: int, out: Path, began: float, seen: _Seen, stop: threading.Event) -> None:
    while not stop.is_set():
        if not _look(pid, seen):
            return
        if seen.first is None and any(_is_whole(path) for path in _outputs(out)):
            seen.first = time.perf_counter() - began
        stop.wait(INTERVAL)


def _look(pid: int, seen: _Seen) -> bool:
    """Take one sample; False when the process has ended."""
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.Error:
        return False
    tree = 0
    for process in family:
        with contextlib.suppress(psutil.Error):
            size = int(process.memory_info().rss)
            times = process.cpu_times()
            tree += size
            seen.worker = max(seen.worker, size)
            seen.cpu[process.pid] = times.user + times.system
    seen.tree = max(seen.tree, tree)
    return True


def _outputs(out: Path) -> Iterator[Path]:
    """Parquet files that a step may have written; copies of the input are not a step's."""
    for folder, _, names in os.walk(out):
        if Path(folder).name == "input":
            continue
        yield from (Path(folder) / name for name in names if name.endswith(".parquet") and "block-" not in name)


def _is_whole(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(-4, os.SEEK_END)
            return file.read() == _WHOLE
    except OSError:
        return False


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def wait_until_quiet(limit: float, below: float) -> float:
    """Wait until other work leaves the machine alone, at most ``limit`` seconds; returns the share it still uses."""
    until = time.monotonic() + limit
    share = 1.0
    while True:
        busy, at = _busy(), time.perf_counter()
        time.sleep(1.0)
        share = (_busy() - busy) / (time.perf_counter() - at) / (psutil.cpu_count() or 1)
        if share <= below or time.monotonic() >= until:
            return round(share, 2)

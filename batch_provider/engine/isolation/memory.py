"""How much memory a child may take: its share of the cgroup's, so that an allocation fails and nothing is killed."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

SHARE = 0.8
"""Of the memory that is free when the child begins; the rest is for the parent and its other tasks."""


def bound_memory(root: Path = Path("/")) -> int | None:
    """Lower RLIMIT_DATA to what this process has and its share of what is free; returns it in bytes.

    Where nothing tells what is free (no ``/proc``), nothing is bounded. A lower bound that is set already stays.

    Args:
        root: where ``/proc`` and ``/sys/fs/cgroup`` are.
    """
    free = free_memory(root)
    if free is None:
        return None
    bound = _own_data(root) + int(free * SHARE)
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    lower = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    bound = min([bound, *lower])
    resource.setrlimit(resource.RLIMIT_DATA, (bound, hard))
    return bound


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that are free for this process: in its cgroups (version 1 or 2), and on the machine; None: not known."""
    found = list(_free_in_cgroups(root))
    with suppress(OSError, ValueError, KeyError):
        found.append(_numbers(root / "proc/meminfo")["MemAvailable:"] * 1024)
    return min(found, default=None)


def _free_in_cgroups(root: Path) -> Iterator[int]:
    for directory in _cgroups(root):
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            with suppress(OSError, ValueError):  # "max" is no number: this level has no limit
                bound = int((directory / limit).read_text())
                taken = int((directory / used).read_text())
                statistics = _numbers(directory / "memory.stat")
                cache = statistics.get("total_inactive_file", statistics.get("inactive_file", 0))
                yield max(0, bound - taken + cache)


def _cgroups(root: Path) -> Iterator[Path]:
    """The directories of this process's memory cgroup and those above it."""
    mount = root / "sys/fs/cgroup"
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers not in ("", "memory"):
                continue
            top = mount / controllers
            inner = top / path.lstrip("/")
            yield from (each for each in (inner, *inner.parents) if each == top or top in each.parents)


def _own_data(root: Path) -> int:
    """Bytes that count for RLIMIT_DATA already."""
    with suppress(OSError, KeyError):
        return _numbers(root / "proc/self/status")["VmData:"] * 1024
    return 0


def _numbers(file: Path) -> dict[str, int]:
    """The first number of each line, by the line's first word."""
    words = (line.split() for line in file.read_text().splitlines())
    return {found[0]: int(found[1]) for found in words if len(found) > 1 and found[1].isdigit()}

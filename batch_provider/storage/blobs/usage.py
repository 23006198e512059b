"""How much a directory holds, and when something was last written to it: what purge goes by."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path


@dataclass(frozen=True)
class Usage:
    """What a directory holds, at any depth, temporary files included.

    Attributes:
        newest: when a file in it was last written; if it has none, when a directory was; None: it is not there.
    """

    bytes: int = 0
    files: int = 0
    newest: datetime | None = None


def usage_of(path: Path) -> Usage:
    """Walk a directory, or look at a file; what disappears meanwhile is not counted."""
    count = size = 0
    files, folders = [0.0], [0.0]
    for each in _tree(path):
        with suppress(FileNotFoundError):
            found = each.stat()
            (folders if each.is_dir() else files).append(found.st_mtime)
            count, size = (count, size) if each.is_dir() else (count + 1, size + found.st_size)
    newest = max(files if count else folders)
    return Usage(size, count, datetime.fromtimestamp(newest, UTC) if newest else None)


def old_files(root: Path, prefix: str, age: timedelta) -> list[str]:
    """Files below ``root`` whose name begins with ``prefix`` and that nobody has written to for ``age``."""
    limit = time.time() - age.total_seconds()
    found: list[str] = []
    for path in _tree(root):
        with suppress(FileNotFoundError):
            if path.name.startswith(prefix) and path.is_file() and path.stat().st_mtime < limit:
                found.append(path.relative_to(root).as_posix())
    return sorted(found)


def _tree(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for folder, _, names in os.walk(path):
        yield Path(folder)
        yield from (Path(folder, name) for name in names)

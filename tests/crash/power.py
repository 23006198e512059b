"""A disk that loses what was not synced: what a power failure leaves, as bad as POSIX allows."""

from __future__ import annotations

import os
import random
import shutil
import signal
from pathlib import Path

import pyarrow as pa

from batch_provider.storage.blobs.disk import Disk
from batch_provider.testing import Point


class VolatileDisk(Disk):
    """Knows which bytes and which names are not durable yet, across the processes of one machine.

    Args:
        folder: keeps the account in ``unsynced``, beside the store.
        seed: of what a power failure takes.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._account = folder / "unsynced"
        self._random = random.Random(seed)
        self._bytes: dict[str, None] = {}
        self._names: dict[str, None] = {}
        lines = self._account.read_text().splitlines() if self._account.exists() else []
        for line in lines:
            self._apply(*line.split("\t"))

    def _note(self, *entry: str) -> None:
        with self._account.open("a") as file:
            file.write("\t".join(entry) + "\n")
        self._apply(*entry)

    def _apply(self, kind: str, path: str, target: str = "") -> None:
        if kind == "directory":
            self._names[path] = None
        elif kind == "file":
            self._bytes[path] = self._names[path] = None
        elif kind == "rename":
            self._names.pop(path, None)
            self._names[target] = None
            if path in self._bytes:
                del self._bytes[path]
                self._bytes[target] = None
        else:
            self._bytes.pop(path, None)
            for name in [name for name in self._names if os.path.dirname(name) == path]:  # noqa: PTH120
                del self._names[name]

    def make_directory(self, path: Path) -> None:
        super().make_directory(path)
        self._note("directory", str(path))

    def write(self, path: Path, data: pa.Buffer | bytes) -> None:
        super().write(path, data)
        self._note("file", str(path))

    def rename(self, path: Path, target: Path) -> None:
        super().rename(path, target)
        self._note("rename", str(path), str(target))

    def sync(self, path: Path) -> None:
        super().sync(path)
        self._note("sync", str(path))

    def lose_power(self, point: Point) -> None:
        """Tear files and take names that were not synced, each with the chance of a coin; then die."""
        for name in self._bytes:
            path = Path(name)
            if path.is_file() and self._random.random() < 0.7:
                whole = path.read_bytes()
                path.write_bytes(whole[: self._random.choice([0, len(whole) // 2])])
        for name in self._names:
            path = Path(name)
            if path.exists() and self._random.random() < 0.5:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._account.unlink()
        os.kill(os.getpid(), signal.SIGKILL)

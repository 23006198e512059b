"""Named bytes in this process: for notebooks, and the twin of a directory in tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from batch_provider.storage.blobs.usage import Usage


class MemoryBlobs:
    """The in-memory twin, for tests, notebooks and ``job.run()``."""

    def __init__(self) -> None:
        self._data: dict[str, bytes] = {}
        self._written: dict[str, float] = {}
        self._inside: dict[str, set[str]] = {}
        """Directory → names in it, so that looking at one costs nothing for the files of others."""
        self._lock = threading.Lock()

    def put(self, name: str, data: pa.Buffer | bytes, *, durable: bool = False) -> None:  # noqa: ARG002
        """Keep a copy."""
        with self._lock:
            self._data[name], self._written[name] = bytes(data), time.time()
            directory, _, own = name.rpartition("/")
            while own and own not in self._inside.setdefault(directory, set()):
                self._inside[directory].add(own)
                directory, _, own = directory.rpartition("/")

    def get(self, name: str) -> pa.Buffer:
        """The bytes under ``name``."""
        with self._lock:
            if name not in self._data:
                raise FileNotFoundError(name)
            return pa.py_buffer(self._data[name])

    def files(self, directory: str) -> list[str]:
        """Sorted names directly in ``directory``."""
        return [name for name in self._names_in(directory) if _joined(directory, name) in self._data]

    def directories(self, directory: str) -> list[str]:
        """Sorted names of directories directly in ``directory``."""
        return [name for name in self._names_in(directory) if self._inside.get(_joined(directory, name))]

    def _names_in(self, directory: str) -> list[str]:
        with self._lock:
            return sorted(self._inside.get(directory.rstrip("/"), ()))

    def _files_of(self, name: str) -> list[str]:
        """The file itself, or all files below a directory."""
        below = [each for own in self._names_in(name) for each in self._files_of(_joined(name, own))]
        return [name, *below] if name in self._data else below

    def delete(self, name: str) -> None:
        """Forget it and everything below it."""
        found = self._files_of(name)
        with self._lock:
            for key in found:
                self._data.pop(key, None)
                directory, _, own = key.rpartition("/")
                while own and not self._inside.get(_joined(directory, own)):
                    self._inside[directory].discard(own)
                    directory, _, own = directory.rpartition("/")

    def usage(self, name: str) -> Usage:
        """Of what is in memory."""
        names = self._files_of(name)
        newest = datetime.fromtimestamp(max(self._written[each] for each in names), UTC) if names else None
        return Usage(sum(len(self._data[each]) for each in names), len(names), newest)

    def leftovers(self, age: timedelta) -> list[str]:  # noqa: ARG002  # of the protocol
        """None: a write to memory is never half done."""
        return []

    def sync(self, names: Iterable[str] = ()) -> None:
        """Memory has nothing to sync."""

    def address(self, name: str) -> str:
        """For messages."""
        return f"memory:{name}"


def _joined(directory: str, name: str) -> str:
    return f"{directory.rstrip('/')}/{name}" if directory else name

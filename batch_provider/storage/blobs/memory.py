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
        self._lock = threading.Lock()

    def put(self, name: str, data: pa.Buffer | bytes, *, durable: bool = False) -> None:  # noqa: ARG002
        """Keep a copy."""
        with self._lock:
            self._data[name], self._written[name] = bytes(data), time.time()

    def get(self, name: str) -> pa.Buffer:
        """The bytes under ``name``."""
        with self._lock:
            if name not in self._data:
                raise FileNotFoundError(name)
            return pa.py_buffer(self._data[name])

    def files(self, directory: str) -> list[str]:
        """Sorted names directly in ``directory``."""
        return sorted(rest for rest in self._below(directory) if "/" not in rest)

    def directories(self, directory: str) -> list[str]:
        """Sorted names of directories directly in ``directory``."""
        return sorted({rest.partition("/")[0] for rest in self._below(directory) if "/" in rest})

    def _below(self, directory: str) -> list[str]:
        prefix = f"{directory.rstrip('/')}/" if directory else ""
        with self._lock:
            return [name[len(prefix) :] for name in self._data if name.startswith(prefix)]

    def delete(self, name: str) -> None:
        """Forget it and everything below it."""
        with self._lock:
            for key in [key for key in self._data if key == name or key.startswith(f"{name}/")]:
                del self._data[key]

    def usage(self, name: str) -> Usage:
        """Of what is in memory."""
        names = [name] if name in self._data else [f"{name}/{rest}".lstrip("/") for rest in self._below(name)]
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

"""What a store of named bytes can do; documents are put and read as JSON.

Names never repeat and nothing that counts is overwritten, so no lock and no conditional put is needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Protocol

import pyarrow as pa

from batch_provider.domain.errors import StorageError
from batch_provider.storage.blobs.usage import Usage


class Blobs(Protocol):
    """A store of named bytes. Names are relative, with ``/`` between parts."""

    def put(self, name: str, data: pa.Buffer | bytes, *, durable: bool = False) -> None:
        """Write all of ``data`` under ``name``: whole or absent. Raises StorageError.

        Args:
            name: of the file.
            data: what it holds.
            durable: its bytes survive a power loss if its name does. What has no digest to be checked by needs it.
        """
        ...

    def get(self, name: str) -> pa.Buffer:
        """The bytes under ``name``. Raises StorageError, FileNotFoundError."""
        ...

    def files(self, directory: str) -> list[str]:
        """Sorted names of the files directly in ``directory``; none if it does not exist."""
        ...

    def directories(self, directory: str) -> list[str]:
        """Sorted names of the directories directly in ``directory``; none if it does not exist."""
        ...

    def delete(self, name: str) -> None:
        """Remove a file, or a directory with all it holds; nothing happens if it is not there."""
        ...

    def sync(self, names: Iterable[str] = ()) -> None:
        """Make everything put before this call survive a power loss.

        Args:
            names: files that another process has put and may not have lived to sync.
        """
        ...

    def address(self, name: str) -> str:
        """Where a person finds it."""
        ...


class AgingBlobs(Blobs, Protocol):
    """A store that knows how old things are, so that purge can work on it."""

    def usage(self, name: str) -> Usage:
        """Bytes, files and the last write of a file or directory; nothing if it does not exist."""
        ...

    def leftovers(self, age: timedelta) -> list[str]:
        """Files that were never finished and have not been written to for ``age``."""
        ...


def put_json(blobs: Blobs, name: str, data: Mapping[str, Any], *, durable: bool = True) -> None:
    """Write a small document that a person can read; see :meth:`Blobs.put`."""
    raw = json.dumps(data, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace")
    blobs.put(name, raw, durable=durable)


def get_json(blobs: Blobs, name: str) -> dict[str, Any]:
    """Read what :func:`put_json` wrote.

    Raises:
        FileNotFoundError: it is not there.
        StorageError: it is not JSON.
    """
    raw = bytes(blobs.get(name))
    try:
        found = json.loads(raw)
        if not isinstance(found, dict):
            raise ValueError("no object")
        return found
    except ValueError as error:
        raise StorageError("read", blobs.address(name), f"it is not valid JSON ({error})") from error

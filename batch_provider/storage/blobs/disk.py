"""What a local store asks of the operating system: the steps between which a process can die."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa


class Disk:
    """The changes that a :class:`~batch_provider.storage.blobs.local.LocalBlobs` makes, one by one.

    They stand apart so that a test can let any of them fail: ``batch_provider.testing.FaultyDisk``.
    """

    def make_directory(self, path: Path) -> None:
        """Make one directory; it may be there by now."""
        path.mkdir(exist_ok=True)

    def write(self, path: Path, data: pa.Buffer | bytes) -> None:
        """Make a file with these bytes; it must not be there."""
        with path.open("xb") as file:
            file.write(data)

    def rename(self, path: Path, target: Path) -> None:
        """Give a file its final name, at once and whole."""
        path.replace(target)

    def sync(self, path: Path) -> None:
        """Make a file's bytes, or the names in a directory, survive a power loss."""
        try:
            handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return  # replaced or purged since: there is nothing of it to keep
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

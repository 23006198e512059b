"""A directory that output goes to: local, or behind any file system that fsspec knows (a Blobs)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from batch_provider.domain.errors import BatchError, StorageError
from batch_provider.engine.ports.store import SourceAccess
from batch_provider.sources.options import redact
from batch_provider.storage.blobs.local import LocalBlobs
from batch_provider.storage.blobs.protocol import Blobs


class Folder(Blobs, Protocol):
    """A directory whose Parquet files can be looked at without being read."""

    def footer(self, name: str) -> tuple[pq.FileMetaData, int]:
        """What a Parquet file says of itself, and its size in bytes. Raises StorageError, pyarrow.ArrowInvalid."""
        ...


def open_folder(access: SourceAccess, url: str) -> Folder:
    """The directory at ``url``, which need not exist yet.

    Raises:
        StorageError: there is no file system for such a URL.
    """
    try:
        filesystem, path = access.filesystem(url)
    except (ImportError, ValueError, OSError) as error:
        raise StorageError("write to", redact(url), f"{error}. Check the URL, and that its library is there") from error
    if is_local(filesystem):
        return LocalFolder(path, getattr(access, "disk", None))  # a test's access may have a disk that fails
    return FsspecBlobs(filesystem, path)


def is_local(filesystem: Any) -> bool:
    """Whether it is the file system of this machine."""
    protocols = filesystem.protocol
    return "file" in (protocols if isinstance(protocols, (tuple, list)) else (protocols,))


class LocalFolder(LocalBlobs):
    """A directory of this machine, or one that is mounted."""

    def footer(self, name: str) -> tuple[pq.FileMetaData, int]:
        """Of a file in it."""
        path = self.root / name
        return pq.read_metadata(path), path.stat().st_size


class FsspecBlobs:
    """A directory of an object store or another file system: a file is whole or absent if its put is."""

    def __init__(self, filesystem: Any, path: str) -> None:
        self._fs, self._root = filesystem, path.rstrip("/")

    def put(self, name: str, data: pa.Buffer | bytes, *, durable: bool = False) -> None:  # noqa: ARG002
        """Write it at once."""
        path = self._path(name)
        with self._clear_errors("write", path):
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._fs.pipe_file(path, bytes(data))

    def get(self, name: str) -> pa.Buffer:
        """Read it whole."""
        path = self._path(name)
        with self._clear_errors("read", path):
            return pa.py_buffer(self._fs.cat_file(path))

    def footer(self, name: str) -> tuple[pq.FileMetaData, int]:
        """Of a file in it."""
        path = self._path(name)
        with self._clear_errors("read", path):
            with self._fs.open(path, "rb") as file:
                found = pq.read_metadata(file)
            return found, int(self._fs.size(path))

    def files(self, directory: str) -> list[str]:
        """Sorted."""
        return self._names(directory, "file")

    def directories(self, directory: str) -> list[str]:
        """Sorted."""
        return self._names(directory, "directory")

    def _names(self, directory: str, kind: str) -> list[str]:
        path = self._path(directory)
        with self._clear_errors("list", path):
            self._fs.invalidate_cache()
            try:
                found = self._fs.ls(path, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return []
        names = [str(entry["name"]).rstrip("/") for entry in found if entry["type"] == kind]
        return sorted(name.rpartition("/")[2] for name in names if name.strip("/") != path.strip("/"))

    def delete(self, name: str) -> None:
        """Remove a file or a tree."""
        path = self._path(name)
        with self._clear_errors("delete", path):
            self._fs.invalidate_cache()
            try:
                self._fs.rm(path, recursive=True)
            except FileNotFoundError:
                return

    def sync(self, names: Iterable[str] = ()) -> None:
        """What is put is durable when the put returns."""

    def address(self, name: str) -> str:
        """Its URL."""
        return str(self._fs.unstrip_protocol(self._path(name)))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @contextmanager
    def _clear_errors(self, action: str, path: str) -> Iterator[None]:
        try:
            yield
        except (BatchError, FileNotFoundError, pa.ArrowInvalid):
            raise
        except Exception as error:  # each library has errors of its own
            raise StorageError(action, redact(path), str(error) or type(error).__name__) from error

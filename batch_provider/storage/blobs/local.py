"""Named bytes in a directory: the only code that writes to a store of files.

Names never repeat and nothing that counts is overwritten, so no lock and no conditional put is needed; a local
file is still written under a temporary name and renamed, so that it is whole or absent.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pyarrow as pa

from batch_provider.domain.errors import StorageError
from batch_provider.storage.blobs.disk import Disk
from batch_provider.storage.blobs.usage import Usage, old_files, usage_of

TEMPORARY = ".tmp-"
"""Prefix of files that are not there yet; readers never see them, purge removes them."""

_ADVICE = {
    errno.EACCES: "permission denied; give the user that runs the Airflow workers write access to it, or set "
    "[batch_provider] storage_path to a directory that has it",
    errno.EROFS: "the file system is read-only; make it writable or set [batch_provider] storage_path elsewhere",
    errno.ENOSPC: "the disk is full; free some space, then clear the task",
    errno.ENOTDIR: "a part of this path is a file; set [batch_provider] storage_path to a directory",
    errno.EEXIST: "a part of this path is a file; set [batch_provider] storage_path to a directory",
    errno.EDQUOT: "the disk quota is used up; free some space, then clear the task",
}


class LocalBlobs:
    """A directory of a file system that all workers see."""

    def __init__(self, root: str | os.PathLike[str], disk: Disk | None = None) -> None:
        self.root = Path(root)
        self._disk = disk or Disk()
        self._unsynced: set[Path] = set()
        self._anchored: set[Path] = set()

    def put(self, name: str, data: pa.Buffer | bytes, *, durable: bool = False) -> None:
        """Write under a temporary name, then rename; :meth:`sync` makes the name durable."""
        path = self.root / name
        temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(4)}-{path.name[:180]}")
        with _clear_errors("write", path):
            self._make_directory(path.parent)
            try:
                self._disk.write(temporary, data)
                if durable:
                    self._disk.sync(temporary)
                self._disk.rename(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        self._unsynced.add(path)

    def _make_directory(self, directory: Path) -> None:
        if directory.is_dir():
            return
        created = [parent for parent in (directory, *directory.parents) if not parent.is_dir()]
        for parent in reversed(created):
            self._disk.make_directory(parent)
        self._unsynced.update(created)  # a power loss must not take a directory above a file that was synced

    def get(self, name: str) -> pa.Buffer:
        """Read it whole."""
        path = self.root / name
        with _clear_errors("read", path), pa.OSFile(str(path), "rb") as file:
            return file.read_buffer()

    def files(self, directory: str) -> list[str]:
        """Sorted, without temporary files."""
        return [entry.name for entry in self._entries(directory) if entry.is_file()]

    def directories(self, directory: str) -> list[str]:
        """Sorted."""
        return [entry.name for entry in self._entries(directory) if entry.is_dir()]

    def _entries(self, directory: str) -> list[os.DirEntry[str]]:
        path = self.root / directory
        with _clear_errors("list", path):
            try:
                with os.scandir(path) as entries:
                    found = [entry for entry in entries if not entry.name.startswith(TEMPORARY)]
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted(found, key=lambda entry: entry.name)

    def delete(self, name: str) -> None:
        """Remove a file or a tree."""
        path = self.root / name
        with _clear_errors("delete", path):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def usage(self, name: str) -> Usage:
        """By walking it."""
        return usage_of(self.root / name)

    def leftovers(self, age: timedelta) -> list[str]:
        """Temporary files by the time of their last change."""
        return old_files(self.root, TEMPORARY, age)

    def sync(self, names: Iterable[str] = ()) -> None:
        """Fsync the files written since the last call, then the directories that name them."""
        pending, self._unsynced = self._unsynced, set()
        directories = {path.parent for path in pending}
        for directory in directories - self._anchored:
            directories |= self._names_of(directory)
        for name in names:
            path = self.root / name
            pending.add(path)
            directories |= self._names_of(path)
        for path in [*sorted(pending), *sorted(directories, reverse=True)]:
            with _clear_errors("sync", path):
                self._disk.sync(path)
        self._anchored |= directories

    def _names_of(self, path: Path) -> set[Path]:
        """The directories that hold its name, those of its parents, and the root's.

        Another process may have made them and not lived to sync them.
        """
        found = {parent for parent in path.parents if parent.is_relative_to(self.root)}
        above = self.root.parent
        return found | {above} if os.access(above, os.R_OK) else found

    def address(self, name: str) -> str:
        """Its path."""
        return str(self.root / name)


@contextmanager
def _clear_errors(action: str, path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = _ADVICE.get(error.errno or 0, error.strerror or str(error))
        raise StorageError(action, str(path), reason) from error

"""Twins of the store and of database connections that fail where a test says: to show what a crash leaves.

Every change passes two points, ``before`` and ``after``. A :class:`Fault` names one and what happens there::

    faults = Faults(Fault("commit:after *", kill))
    LocalRun(job, store=LocalBlobs(folder, FaultyDisk(faults)), access=FaultyAccess(LocalAccess(...), faults))
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batch_provider.storage.blobs.disk import Disk

if TYPE_CHECKING:
    from batch_provider.engine.ports.store import SourceAccess
    from batch_provider.storage.blobs.protocol import Blobs


@dataclass(frozen=True)
class Point:
    """A moment at which a process can die.

    Attributes:
        number: how many points this process has passed before.
        action: ``make_directory``, ``write``, ``rename``, ``sync`` of a disk; ``put``, ``get``, ``delete``, ``sync``
            of a store; ``connect``, ``commit``, ``rollback`` of a database.
        when: ``before`` or ``after`` the action.
        name: of the file (a rename: its final name) or the connection.
    """

    number: int
    action: str
    when: str
    name: str

    def __str__(self) -> str:
        """What patterns are compared with: ``rename:before /store/…/manifest.json``."""
        return f"{self.action}:{self.when} {self.name}"


@dataclass
class Fault:
    """What goes wrong, and where.

    Args:
        at: number of a point, or a pattern over its text, as in ``commit:after *`` (``fnmatch``).
        action: :func:`kill`, :func:`stop`, :func:`raising`, or any function of the point.
        skip: how many points that fit are let pass first.
        times: at how many it acts; None: at every one.
    """

    at: int | str
    action: Callable[[Point], object]
    skip: int = 0
    times: int | None = 1
    _seen: int = field(default=0, init=False)

    def reach(self, point: Point) -> None:
        """Act, if it is here."""
        fits = point.number == self.at if isinstance(self.at, int) else fnmatchcase(str(point), self.at)
        if not fits:
            return
        self._seen += 1
        acted = self._seen - self.skip
        if acted > 0 and (self.times is None or acted <= self.times):
            self.action(point)


class Faults:
    """The faults of one process, shared by all that can fail in it.

    Args:
        *planned: what goes wrong.
        tell: is told every point, before a fault acts there.
    """

    def __init__(self, *planned: Fault, tell: Callable[[Point], object] | None = None) -> None:
        self._planned: Sequence[Fault] = planned
        self._tell = tell
        self._count = 0

    def reach(self, action: str, when: str, name: str) -> None:
        """Come to a point."""
        point = Point(self._count, action, when, name)
        self._count += 1
        if self._tell is not None:
            self._tell(point)
        for fault in self._planned:
            fault.reach(point)

    @contextmanager
    def around(self, action: str, name: str) -> Iterator[None]:
        """Come to the point before an action, and after it if it succeeds."""
        self.reach(action, "before", name)
        yield
        self.reach(action, "after", name)


def kill(point: Point) -> None:  # noqa: ARG001
    """SIGKILL this process, as the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def stop(point: Point) -> None:  # noqa: ARG001
    """SIGSTOP this process: a machine that stands still and comes back later (a zombie)."""
    os.kill(os.getpid(), signal.SIGSTOP)


def raising(error: BaseException) -> Callable[[Point], object]:
    """An action that raises, for example ``OSError(errno.ENOSPC, "no space left")``."""

    def fail(point: Point) -> None:  # noqa: ARG001
        raise error

    return fail


class FaultyDisk(Disk):
    """The steps of a local store's writes: ``LocalBlobs(folder, FaultyDisk(faults))``."""

    def __init__(self, faults: Faults, inner: Disk | None = None) -> None:
        self._faults, self._inner = faults, inner or Disk()

    def make_directory(self, path: Path) -> None:
        """Make one directory."""
        with self._faults.around("make_directory", str(path)):
            self._inner.make_directory(path)

    def write(self, path: Path, data: pa.Buffer | bytes) -> None:
        """Make a file."""
        with self._faults.around("write", str(path)):
            self._inner.write(path, data)

    def rename(self, path: Path, target: Path) -> None:
        """Give a file its final name."""
        with self._faults.around("rename", str(target)):
            self._inner.rename(path, target)

    def sync(self, path: Path) -> None:
        """Fsync a file or a directory."""
        with self._faults.around("sync", str(path)):
            self._inner.sync(path)


class FaultyBlobs:
    """Any store, with a point before and after each of its actions (a Blobs)."""

    def __init__(self, inner: Blobs, faults: Faults) -> None:
        self._inner, self._faults = inner, faults

    def put(self, name: str, data: pa.Buffer | bytes, *, durable: bool = False) -> None:
        """Write a file."""
        with self._faults.around("put", name):
            self._inner.put(name, data, durable=durable)

    def get(self, name: str) -> pa.Buffer:
        """Read a file."""
        with self._faults.around("get", name):
            return self._inner.get(name)

    def files(self, directory: str) -> list[str]:
        """Names of files; no point."""
        return self._inner.files(directory)

    def directories(self, directory: str) -> list[str]:
        """Names of directories; no point."""
        return self._inner.directories(directory)

    def delete(self, name: str) -> None:
        """Remove a file or a tree."""
        with self._faults.around("delete", name):
            self._inner.delete(name)

    def sync(self, names: Iterable[str] = ()) -> None:
        """Make everything durable."""
        with self._faults.around("sync", ""):
            self._inner.sync(names)

    def address(self, name: str) -> str:
        """Where a person finds it."""
        return self._inner.address(name)


class FaultyAccess:
    """Databases with a point before and after each connect, commit and rollback (a SourceAccess).

    Args:
        inner: opens them.
        faults: what goes wrong.
        disk: of the local directories that writers of files write to; one whose steps are points by default.
    """

    def __init__(self, inner: SourceAccess, faults: Faults, disk: Disk | None = None) -> None:
        self._inner, self._faults = inner, faults
        self.disk = disk or FaultyDisk(faults)

    def filesystem(self, url: str) -> tuple[Any, str]:
        """As it is: sources only read, and a local directory is written to by way of ``disk``."""
        return self._inner.filesystem(url)

    def database(self, conn_id: str) -> AbstractContextManager[Any]:
        """A connection whose commits can fail."""
        return self._database(conn_id)

    @contextmanager
    def _database(self, conn_id: str) -> Iterator[Any]:
        self._faults.reach("connect", "before", conn_id)
        with self._inner.database(conn_id) as connection:
            self._faults.reach("connect", "after", conn_id)
            yield _FaultyConnection(connection, conn_id, self._faults)


class _FaultyConnection:
    """Stands for a DB-API connection; whoever asks for its class is told that connection's."""

    def __init__(self, inner: Any, conn_id: str, faults: Faults) -> None:
        self.__dict__.update(_inner=inner, _conn_id=conn_id, _faults=faults)

    @property  # type: ignore[misc]  # so that isinstance and the choice of a dialect see the real one
    def __class__(self) -> Any:
        return type(self._inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._inner, name, value)

    def commit(self) -> None:
        """Commit, between two points."""
        with self._faults.around("commit", self._conn_id):
            self._inner.commit()

    def rollback(self) -> None:
        """Roll back, between two points."""
        with self._faults.around("rollback", self._conn_id):
            self._inner.rollback()

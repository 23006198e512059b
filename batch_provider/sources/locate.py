"""From paths, patterns and URLs to opened files, with every way to fail told in a sentence."""

from __future__ import annotations

import codecs
import lzma
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import pyarrow as pa

from batch_provider.domain.errors import BatchError, SourceError
from batch_provider.engine.ports.store import MalformedRecord, SourceAccess
from batch_provider.sources.options import redact
from batch_provider.sources.transient import retrying

_BROKEN = (UnicodeError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, pa.ArrowException)
_UTF8 = codecs.lookup("utf-8").name


@dataclass(frozen=True)
class FoundFile:
    """A file that is there.

    Attributes:
        filesystem, path: where.
        compression: around the format; None: none.
    """

    filesystem: Any
    path: str
    compression: str | None = None

    @property
    def name(self) -> str:
        """Its path, without any secret."""
        return redact(self.path)

    @contextmanager
    def open(self) -> Iterator[Any]:
        """The bytes of the file, decompressed.

        Raises:
            SourceError: it cannot be opened, or turns out to be broken while it is read.
        """
        with reading(self.name), ExitStack() as stack:
            stream = stack.enter_context(retrying(lambda: self.filesystem.open(self.path, "rb")))
            if self.compression is not None:
                stream = stack.enter_context(pa.input_stream(stream, compression=self.compression))
            yield stream


@dataclass(frozen=True)
class Stretch:
    """A piece of a file that was read at once.

    Attributes:
        start, end: bytes of a CSV file, rows of a Parquet file; the end is not included.
        line: the line or row it begins with, 1-based.
        careful: it was read row by row.
    """

    start: int
    end: int
    line: int
    careful: bool = False


def find_files(urls: Sequence[str], access: SourceAccess) -> list[FoundFile]:
    """Every file that the paths, patterns and URLs mean, each of them once, in the order of their paths.

    Raises:
        SourceError: one of them means no file.
    """
    found = {file for url in urls for file in _find(url, access)}
    return sorted(found, key=lambda file: file.path)


def _find(url: str, access: SourceAccess) -> list[FoundFile]:
    with reading(redact(url)):
        try:
            filesystem, path = retrying(lambda: access.filesystem(url))
        except BatchError:
            raise
        except (ImportError, ValueError) as error:
            raise SourceError(redact(url), f"{error}.", retryable=False) from error
        details = retrying(lambda: _details(filesystem, path))
    if "*" not in path and any(kind == "directory" for _, kind in details):
        raise SourceError(
            redact(url), "it is a directory. Add a pattern, such as '/*.csv', for the files in it.", retryable=False
        )
    files = [name for name, kind in details if kind != "directory"]
    if not files:
        raise SourceError(
            redact(url),
            "there is no such file, or none that matches. Check the path and whether the file has arrived; a "
            "sensor before this task can wait for it.",
        )
    return [FoundFile(filesystem, name) for name in files]


def _details(filesystem: Any, path: str) -> list[tuple[str, str]]:
    """What a path or pattern means, with the kind of each; a file whose name looks like a pattern wins."""
    try:
        return [(path, filesystem.info(path)["type"])]
    except FileNotFoundError:
        if not any(sign in path for sign in "*?["):
            return []
    return [(name, info["type"]) for name, info in filesystem.glob(path, detail=True).items()]


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn what goes wrong with a file into one clear sentence."""
    try:
        yield
    except BatchError:
        raise
    except _BROKEN as error:
        _broken(name, error)
    except FileNotFoundError as error:
        raise SourceError(name, "there is no such file. Check the path.") from error
    except PermissionError as error:
        raise SourceError(name, "permission denied. Let the worker's user read it.") from error
    except IsADirectoryError as error:
        raise SourceError(name, "it is a directory. Add a pattern for the files in it.", retryable=False) from error
    except OSError as error:
        if error.errno is None and not isinstance(error, (ConnectionError, TimeoutError)):
            _broken(name, error)
        raise SourceError(name, f"{str(error) or type(error).__name__}. Try again, or look at the storage.") from error


def _broken(name: str, error: Exception) -> NoReturn:
    """The bytes are not what they should be; only a file that ends too early may still be on its way."""
    text = str(error) or type(error).__name__
    if isinstance(error, EOFError) or "truncated" in text.lower():
        raise SourceError(name, f"it ends too early ({text}). Write it again, whole.") from error
    raise SourceError(
        name,
        f"it is damaged or not of the format it is read as ({text}). Check format=, compression= and encoding=.",
        retryable=False,
    ) from error


def as_utf8(stream: Any, encoding: str) -> Any:
    """A stream of UTF-8 whatever the file has; what cannot be decoded stays as it is, to be found where it stands."""
    return stream if is_utf8(encoding) else _Transcoded(stream, encoding)


def is_utf8(encoding: str) -> bool:
    """Whether bytes in this encoding are UTF-8 as they are."""
    return codecs.lookup(encoding).name == _UTF8


def read_full(stream: Any, size: int) -> bytes:
    """``size`` bytes, fewer only at the end."""
    parts: list[bytes] = []
    while size > 0 and (part := stream.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class _Transcoded:
    """Just enough of a binary file for the readers here."""

    def __init__(self, stream: Any, encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)("surrogateescape")

    def read(self, size: int = -1) -> bytes:
        while True:
            raw = self._stream.read(size)
            text = self._decoder.decode(raw, final=not raw)
            if text or not raw:
                return text.encode("utf-8", "surrogateescape")


def name_file(name: str, records: Sequence[MalformedRecord]) -> list[MalformedRecord]:
    """Say in which of several files the lines stand."""
    return [replace(record, message=f"{name}: {record.message}") for record in records]

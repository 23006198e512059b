"""JSON files: one array of objects, read as it streams by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import islice
from typing import Any

import ijson

from batch_provider.domain.errors import SourceError, UnsupportedPayloadError
from batch_provider.engine.ports.store import MalformedRecord
from batch_provider.sources.intake import Intake, Piece, as_text, malformed, place_rows
from batch_provider.sources.locate import FoundFile, as_utf8
from batch_provider.sources.read_options import ReadOptions

_BLOCK = 10_000
_BUFFER = 2**18
_BOM = b"\xef\xbb\xbf"


def read_json(found: FoundFile, options: ReadOptions, intake: Intake) -> Iterator[Piece]:
    """Stream a file; an element of the array that is no object becomes a malformed record of its own.

    Raises:
        SourceError: the JSON breaks off or is wrong; then nothing of the file counts.
        UnsupportedPayloadError: there is no array where one should be.
    """
    path = options.record_path
    elements = _Elements(found, options.encoding, f"{path}.item" if path else "item")
    if not path:
        elements.check_array()
    while block := list(islice(elements, _BLOCK)):
        rows, where, others = _sort_out(block, elements.count - len(block) + 1)
        yield from intake.from_rows(rows, place_rows(where, rows), others)
    if intake.rows:
        intake.check_demands()
    elif path and not elements.count:
        elements.check_path(path)


def _sort_out(block: list[Any], first: int) -> tuple[list[dict[str, Any]], list[int], list[MalformedRecord]]:
    rows: list[dict[str, Any]] = []
    where: list[int] = []
    others: list[MalformedRecord] = []
    for position, element in enumerate(block, first):
        if isinstance(element, dict) and "" not in element:
            rows.append(element)
            where.append(position)
            continue
        found = "has a key without a name" if isinstance(element, dict) else f"is {type(element).__name__}"
        others.append(malformed(position, as_text(element), f"element {position:,} {found}, a record is an object"))
    return rows, where, others


class _Elements:
    """The elements of the array, counted."""

    def __init__(self, found: FoundFile, encoding: str, prefix: str) -> None:
        self._found, self._encoding, self._prefix = found, encoding, prefix
        self.count = 0
        self._iterator = self._read()

    def __iter__(self) -> Iterator[Any]:
        return self._iterator

    def check_array(self) -> None:
        """Raise unless the file begins with an array."""
        first = self._parse(lambda stream: next(ijson.basic_parse(stream, use_float=True), (None,))[0])
        if first not in ("start_array", None):
            raise UnsupportedPayloadError(
                f"The JSON file {self._found.name}, a single {'object' if first == 'start_map' else 'value'},",
                "an array of objects, or say with record_path=, such as 'data.items', where the array is in it,",
            )

    def check_path(self, path: str) -> None:
        """Raise unless there is an array, if only an empty one, at ``path``."""

        def look(stream: Any) -> str | None:
            events = (event for prefix, event, _ in ijson.parse(stream, use_float=True) if prefix == path)
            return next(events, None)

        first = self._parse(look)
        if first is None:
            raise SourceError(
                self._found.name, f"there is nothing at record_path={path!r}. Correct the path.", retryable=False
            )
        if first != "start_array":
            raise UnsupportedPayloadError(
                f"What the JSON file {self._found.name} has at record_path={path!r}", "an array of objects"
            )

    def _read(self) -> Iterator[Any]:
        try:
            yield from self._items(0, exact=False)
        except ijson.JSONError as error:
            if "overflow" not in str(error):
                raise self._broken(error) from error
        else:
            return
        try:  # a number that no int64 or float can hold: once more from the start, slower, with every digit
            yield from self._items(self.count, exact=True)
        except ijson.JSONError as error:
            raise self._broken(error) from error

    def _items(self, skip: int, *, exact: bool) -> Iterator[Any]:
        with self._found.open() as stream:
            items = ijson.items(self._stream(stream), self._prefix, use_float=not exact, buf_size=_BUFFER)
            for item in islice(items, skip, None):
                self.count += 1
                yield _floats(item) if exact else item

    def _parse(self, look: Callable[[Any], str | None]) -> str | None:
        try:
            with self._found.open() as stream:
                return look(self._stream(stream))
        except ijson.JSONError as error:
            raise self._broken(error) from error

    def _stream(self, stream: Any) -> Any:
        text = as_utf8(stream, self._encoding)
        head = text.read(len(_BOM))
        return _Chained(head.removeprefix(_BOM), text)

    def _broken(self, error: Exception) -> SourceError:
        reason = " ".join(str(error).split("\n")[0].strip("b'\"").split())
        return SourceError(
            self._found.name,
            f"the JSON is wrong after element {self.count:,} of the array ({reason}). Correct the file; one object "
            f"on each line is read with format='ndjson'.",
            retryable=False,
        )


class _Chained:
    """A stream with some bytes in front."""

    def __init__(self, head: bytes, tail: Any) -> None:
        self._head, self._tail = head, tail

    def read(self, size: int = -1) -> bytes:
        if self._head and size:
            head, self._head = self._head, b""
            return head
        return bytes(self._tail.read(size)) if size else b""


def _floats(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {name: _floats(item) for name, item in value.items()}
    return [_floats(item) for item in value] if isinstance(value, list) else value

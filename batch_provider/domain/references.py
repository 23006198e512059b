"""An input that stays where it is (``copy=False``): what the manifest says of its files instead of copying them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from batch_provider.domain.layout import Span


@dataclass(frozen=True)
class InputPart:
    """A stretch of a file that is read at once, and gives the same records each time.

    Attributes:
        span: ids of its records: those in order first, then those that are malformed.
        start, end: its bytes in a CSV file, its rows in a Parquet file; the end is not included.
        line: the line or row it begins with, 1-based.
        types: position of the types of its columns in :attr:`InputReference.types`.
        failed: how many of its records are malformed.
        careful: it is read row by row, because something in it is not regular.
    """

    span: Span
    start: int
    end: int
    line: int
    types: int
    failed: int = 0
    careful: bool = False

    def to_json(self) -> str:
        """As it stands in the manifest: numbers in one line, because there may be thousands of parts."""
        numbers = [self.span.first, self.span.last, self.start, self.end, self.line, self.types, self.failed]
        return " ".join(map(str, [*numbers, int(self.careful)]))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` wrote."""
        first, last, start, end, line, types, failed, careful = map(int, text.split()[:8])
        return cls(Span(first, last), start, end, line, types, failed, bool(careful))


@dataclass(frozen=True)
class InputReference:
    """A file of the input.

    Attributes:
        path: where it is; every worker must see it there.
        size, mtime_ns: what it was like when it was loaded; another size or time of change is another input.
        format: csv, tsv or parquet.
        columns: the columns in the file, in order and by the names they have there.
        types: the types of the columns by part: Arrow schemas in IPC form, as base64.
        options: how it is read.
        parts: in order, covering its records.
    """

    path: str
    size: int
    mtime_ns: int
    format: str
    columns: tuple[str, ...]
    types: tuple[str, ...]
    options: Mapping[str, Any]
    parts: tuple[InputPart, ...]

    def to_json(self) -> dict[str, Any]:
        """As it stands in the manifest."""
        return {**vars(self), "parts": [part.to_json() for part in self.parts]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote; fields of a later version are left out."""
        known = {item.name: data[item.name] for item in fields(cls)}
        return cls(
            **{
                **known,
                "columns": tuple(known["columns"]),
                "types": tuple(known["types"]),
                "parts": tuple(InputPart.from_json(part) for part in known["parts"]),
            }
        )

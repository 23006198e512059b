"""The grammar of CSV: where rows end, and the careful way of reading them one by one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from batch_provider.domain.text import count

_NEWLINE = 10
_MOST_LINES = 1_000  # of one record: a quote that stays open longer was never meant as one
_LONGEST_RECORD = 2**20


@dataclass(frozen=True)
class Dialect:
    """How fields are separated and quoted; a quote inside quotes is doubled."""

    delimiter: str
    quote: str | None

    @cached_property
    def field(self) -> re.Pattern[str]:
        """One field and what ends it; no match where a quote is not closed, or closed amid the field."""
        end = f"({re.escape(self.delimiter)}|\\Z)"
        if self.quote is None:
            return re.compile(f"(?!)()|([^{re.escape(self.delimiter)}]*){end}")
        quote, stop = re.escape(self.quote), re.escape(self.delimiter)
        bare = f"(?!{quote})([^{stop}\\n]*)"
        return re.compile(f"(?:{quote}([^{quote}]*+(?:{quote}{quote}[^{quote}]*+)*+){quote}|{bare}){end}")

    @cached_property
    def open_end(self) -> re.Pattern[str]:
        """A quoted field that reaches the end of the text."""
        quote = re.escape(self.quote or "")
        return re.compile(f"{quote}[^{quote}]*+(?:{quote}{quote}[^{quote}]*+)*+\\Z")


@dataclass(frozen=True)
class Row:
    """A row, or a line that is none.

    Attributes:
        line: where it begins, 1-based.
        raw: its text.
        cells: its fields; empty if it is malformed.
        problem: what is wrong with it; None if nothing is.
    """

    line: int
    raw: str
    cells: list[str]
    problem: str | None = None


def rows_end(data: bytes, dialect: Dialect, *, final: bool) -> tuple[int, bool]:
    """Where the last whole row of ``data`` ends, and whether every row in it is regular.

    Regular: each opening quote begins a field and each closing one ends it, so that counting quotes says what
    is inside; pyarrow then reads exactly the rows that stand there. ``data`` begins with a row.
    """
    if data.count(b"\r") != data.count(b"\r\n") + (data.endswith(b"\r") and not final):
        return 0, False
    end = len(data) if final else data.rfind(b"\n") + 1
    if dialect.quote is None or dialect.quote.encode() not in data:
        return end, True
    array = np.frombuffer(data, np.uint8)
    quote, delimiter = ord(dialect.quote), ord(dialect.delimiter)
    quotes = np.flatnonzero(array == quote)
    opening, closing = quotes[0::2], quotes[1::2]
    before = array[opening[opening > 0] - 1]
    after = array[closing[closing < len(array) - 1] + 1]
    regular = bool(
        np.isin(before, (_NEWLINE, delimiter, quote)).all()
        and np.isin(after, (_NEWLINE, delimiter, quote, ord("\r"))).all()
        and not (final and len(quotes) % 2)
    )
    if not final:
        newlines = np.flatnonzero(array == _NEWLINE)
        outside = newlines[np.searchsorted(quotes, newlines) % 2 == 0]
        end = int(outside[-1]) + 1 if len(outside) else 0
    return end, regular


class CarefulReader:
    """Reads rows one by one, and after a malformed one goes on with the next line."""

    def __init__(self, dialect: Dialect, width: int | None) -> None:
        self._dialect = dialect
        self._width = width

    def read(self, text: str, first_line: int, *, final: bool) -> Iterator[tuple[Row, int]]:
        """Yield each row of ``text`` with the number of lines read up to its end.

        A last row whose end has not come into sight is left, unless ``final``. Blank lines are no rows.
        """
        lines = text.split("\n")
        if not final or not lines[-1]:
            lines.pop()
        at = 0
        while at < len(lines):
            if lines[at] in ("", "\r"):
                at += 1
                continue
            outcome = self._record(lines, at, final=final)
            if outcome is None:
                return
            cells, stop, problem = outcome
            yield Row(first_line + at, "\n".join(lines[at:stop]).removesuffix("\r"), cells, problem), stop
            at = stop

    def _record(self, lines: list[str], start: int, *, final: bool) -> tuple[list[str], int, str | None] | None:
        text, stop, quote = lines[start], start + 1, self._dialect.quote
        while True:
            cells, problem = self._split(text.removesuffix("\r"))
            if cells is not None and self._width in (None, len(cells)):
                return cells, stop, None
            if cells is not None:
                return [], stop, f"{count(len(cells), 'field')} where the header has {self._width}"
            if problem is not None:
                return [], start + 1, problem if stop == start + 1 else _unclosed(quote)
            closing = next((at for at in range(stop, len(lines)) if quote and quote in lines[at]), None)
            if closing is None and not final and _may_go_on(len(lines) - start, len(text)):
                return None
            if closing is None or not _may_go_on(closing - start, len(text)):
                return [], start + 1, _unclosed(quote)
            text, stop = "\n".join([text, *lines[stop : closing + 1]]), closing + 1

    def _split(self, text: str) -> tuple[list[str] | None, str | None]:
        """The fields; or what is wrong with the text; or neither, if a quoted field goes on after it."""
        quote = self._dialect.quote
        if quote is None or quote not in text:
            return text.split(self._dialect.delimiter), None
        cells: list[str] = []
        at = 0
        while True:
            match = self._dialect.field.match(text, at)
            if match is None:
                unclosed = self._dialect.open_end.match(text, at)
                return None, None if unclosed else f"field {len(cells) + 1} goes on after its closing quote"
            quoted, bare, end = match.groups()
            cells.append(bare if quoted is None else quoted.replace(quote * 2, quote))
            if not end:
                return cells, None
            at = match.end()


def _unclosed(quote: str | None) -> str:
    return f"a field opens with {quote} and is not closed"


def _may_go_on(lines: int, length: int) -> bool:
    return lines <= _MOST_LINES and length <= _LONGEST_RECORD

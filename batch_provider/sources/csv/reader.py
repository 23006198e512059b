"""CSV files: cut where rows end, into blocks that pyarrow reads and blocks that are gone through row by row."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from batch_provider.domain.errors import SourceError
from batch_provider.sources.csv.grammar import CarefulReader, Dialect, rows_end
from batch_provider.sources.csv.parse import CsvBlocks, IrregularError
from batch_provider.sources.intake import Intake, Piece
from batch_provider.sources.locate import FoundFile, Stretch, as_utf8, read_full
from batch_provider.sources.read_options import ReadOptions

_FIRST = 4 * 2**20  # what types are inferred from
_BLOCK = 2**20
_SMALL = 2**14  # gone through row by row as it is, not halved once more to come closer to the culprit
_LONGEST = 64 * 2**20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UNREADABLE = re.compile("[\r\0\ud800-\udfff]")


def read_csv(found: FoundFile, options: ReadOptions, intake: Intake) -> Iterator[Piece]:
    """Stream a file; a line or value that does not fit becomes a malformed record of its own."""
    for _, pieces in csv_stretches(found, options, intake):
        yield from pieces


def csv_stretches(found: FoundFile, options: ReadOptions, intake: Intake) -> Iterator[tuple[Stretch, list[Piece]]]:
    """The same, with the bytes that the pieces were made from."""
    with found.open() as stream:
        yield from _CsvFile(found, as_utf8(stream, options.encoding), options, intake).stretches()


def read_csv_again(
    stretch: Stretch, data: bytes, columns: tuple[str, ...], options: ReadOptions, intake: Intake
) -> list[Piece]:
    """What ``data``, the bytes of a stretch, give with the types that are known since."""
    blocks = CsvBlocks(columns, dialect_of(options, options.format or "csv"), options, intake)
    if stretch.careful:
        return blocks.careful(data, stretch.line, final=True)[0]
    return blocks.fast(data, stretch.line)


def dialect_of(options: ReadOptions, format_name: str) -> Dialect:
    """How the fields of a file are separated and quoted."""
    return Dialect(options.delimiter or ("\t" if format_name == "tsv" else ","), options.quote)


class _CsvFile:
    def __init__(self, found: FoundFile, stream: Any, options: ReadOptions, intake: Intake) -> None:
        self._dialect = dialect_of(options, options.format_of(found.path))
        self._name, self._stream, self._options, self._intake = found.name, stream, options, intake
        self._columns: tuple[str, ...] = ()
        self._sampled = False  # types are inferred from the first block as a whole

    def stretches(self) -> Iterator[tuple[Stretch, list[Piece]]]:
        data = read_full(self._stream, _FIRST)
        final = len(data) < _FIRST
        begin = len(_BYTE_ORDER_MARK) if data.startswith(_BYTE_ORDER_MARK) else 0
        data = data[begin:]
        if not data and self._options.header is True:
            self._intake.check_demands()
            return
        used, line = self._header(data)
        self._intake.admit(self._columns)
        self._intake.check_demands()
        self._blocks = CsvBlocks(self._columns, self._dialect, self._options, self._intake)
        if (problem := self._blocks.check_types()) is not None:
            raise self._error(problem)
        empty = True
        for stretch, pieces in self._body(data[used:], begin + used, line, final=final):
            empty = empty and not pieces
            yield stretch, pieces
        if empty:
            types = self._intake.types
            nothing = pa.schema([(name, types.get(name, pa.null())) for name in self._columns])
            yield Stretch(begin + used, begin + used, line), list(self._intake.nothing(nothing))

    def _header(self, data: bytes) -> tuple[int, int]:
        """Take the names of the columns off the beginning; returns bytes used, and the line after them."""
        if self._options.header is not True:
            self._columns = tuple(self._options.header)
            return 0, 1
        head = data.decode("utf-8", "surrogateescape")
        row, lines = next(CarefulReader(self._dialect, None).read(head, 1, final=True), (None, 0))
        if row is None or row.problem:
            raise self._error(f"its first line is no header: {row.problem if row else 'it has blank lines only'}")
        names = row.cells
        for position, name in enumerate(names, 1):
            if not name.strip():
                raise self._error(f"column {position} has no name in the header. Give it one, or pass header=[names]")
            if _UNREADABLE.search(name):
                raise self._error(
                    f"the header {name!r:.80} cannot be read. Check encoding=; lines must end in LF or CRLF"
                )
        self._columns = tuple(names)
        position = 0
        for _ in range(lines):
            position = (data.find(b"\n", position) + 1) or len(data)
        return position, lines + 1

    def _error(self, reason: str) -> SourceError:
        return SourceError(self._name, reason + ".", retryable=False)

    def _body(self, data: bytes, begin: int, line: int, *, final: bool) -> Iterator[tuple[Stretch, list[Piece]]]:
        """Cut the bytes where a row ends, block by block; ``begin`` is where they stand in the file."""
        while True:
            used, regular = rows_end(data, self._dialect, final=final)
            if regular and used:
                yield from self._block(data[:used], begin, line)
            elif final or not regular:
                pieces, used = self._blocks.careful(data, line, final=final)
                yield Stretch(begin, begin + used, line, careful=True), pieces
            if final:
                return
            line += data.count(b"\n", 0, used)
            begin += used
            data = data[used:]
            if len(data) > _LONGEST:
                raise self._error(f"line {line} is longer than {_LONGEST >> 20} MiB. Check delimiter= and quote=")
            more = read_full(self._stream, _BLOCK)
            final = not more
            data += more

    def _block(self, data: bytes, begin: int, line: int) -> Iterator[tuple[Stretch, list[Piece]]]:
        """Whole rows, all of them regular; what pyarrow cannot read is halved until it is small."""
        end = begin + len(data)
        try:
            pieces = self._blocks.fast(data, line)
        except (IrregularError, pa.ArrowInvalid):
            half = len(data) // 2
            cut = rows_end(data[:half], self._dialect, final=False)[0] if self._sampled and half > _SMALL else 0
            if cut:
                yield from self._block(data[:cut], begin, line)
                yield from self._block(data[cut:], begin + cut, line + data.count(b"\n", 0, cut))
            else:
                yield Stretch(begin, end, line, careful=True), self._blocks.careful(data, line, final=True)[0]
        else:
            yield Stretch(begin, end, line), pieces
        self._sampled = True

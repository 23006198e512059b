"""CSV files: pyarrow reads every block that is in order, and only the others are gone through row by row."""

from __future__ import annotations

import io
import re
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from batch_provider.domain.errors import SourceError
from batch_provider.engine.rows import Bad, unify
from batch_provider.storage.sources.coerce import bisect
from batch_provider.storage.sources.csv_rows import CarefulReader, Dialect, Row, rows_end
from batch_provider.storage.sources.files import Files
from batch_provider.storage.sources.intake import Intake, Piece, malformed
from batch_provider.storage.sources.locate import FoundFile, as_utf8, read_full

_FIRST = 4 * 2**20  # what types are inferred from
_BLOCK = 2**20
_SMALL = 2**14  # gone through row by row as it is, not halved once more to come closer to the culprit
_LONGEST = 64 * 2**20
_UNREADABLE = re.compile("[\r\0\ud800-\udfff]")
_INTEGER = r"^\s*[+-]?\d{16,}\s*$"
_EXACT = 2.0**53  # beyond it a float is no longer every whole number


def read_csv(found: FoundFile, options: Files, intake: Intake) -> Iterator[Piece]:
    """Stream a file; a line or value that does not fit becomes a malformed record of its own."""
    with found.open() as stream:
        yield from _CsvFile(found, as_utf8(stream, options.encoding), options, intake).pieces()


class _IrregularError(Exception):
    """This block is not for pyarrow."""


class _CsvFile:
    def __init__(self, found: FoundFile, stream: Any, options: Files, intake: Intake) -> None:
        tabs = "\t" if options.format_of(found.path) == "tsv" else ","
        self._dialect = Dialect(options.delimiter or tabs, options.quote)
        self._name, self._stream, self._options, self._intake = found.name, stream, options, intake
        self._columns: tuple[str, ...] = ()
        self._careful = CarefulReader(self._dialect, None)
        self._sampled = False  # types are inferred from the first block as a whole

    def pieces(self) -> Iterator[Piece]:
        data = read_full(self._stream, _FIRST)
        final = len(data) < _FIRST
        data = data.removeprefix(b"\xef\xbb\xbf")
        if not data and self._options.header is True:
            return
        data, line = self._header(data)
        self._intake.admit(self._columns)
        self._intake.check_demands()
        self._check_types()
        self._careful = CarefulReader(self._dialect, len(self._columns))
        empty = True
        for piece in self._body(data, line, final=final):
            empty = False
            yield piece
        if empty:
            types = self._intake.types
            yield from self._intake.nothing(pa.schema([(name, types.get(name, pa.null())) for name in self._columns]))

    def _header(self, data: bytes) -> tuple[bytes, int]:
        """Take the names of the columns off the beginning."""
        if self._options.header is not True:
            self._columns = tuple(self._options.header)
            return data, 1
        head = data.decode("utf-8", "surrogateescape")
        row, lines = next(self._careful.read(head, 1, final=True), (None, 0))
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
        return data[position:], lines + 1

    def _check_types(self) -> None:
        for name, kind in self._intake.demanded.items():
            try:
                self._one_column([""], kind)
            except pa.ArrowNotImplementedError:
                problem = f"a CSV file cannot hold {kind}, which the schema demands for {name!r}. Demand 'string'"
                raise self._error(problem) from None
            except pa.ArrowInvalid:
                pass

    def _error(self, reason: str) -> SourceError:
        return SourceError(self._name, reason + ".", retryable=False)

    def _body(self, data: bytes, line: int, *, final: bool) -> Iterator[Piece]:
        """Cut the bytes where a row ends, block by block."""
        while True:
            used, regular = rows_end(data, self._dialect, final=final)
            if regular and used:
                yield from self._block(data[:used], line)
            elif final or not regular:
                used = yield from self._row_by_row(data, line, final=final)
            if final:
                return
            line += data.count(b"\n", 0, used)
            data = data[used:]
            if len(data) > _LONGEST:
                raise self._error(f"line {line} is longer than {_LONGEST >> 20} MiB. Check delimiter= and quote=")
            more = read_full(self._stream, _BLOCK)
            final = not more
            data += more

    def _block(self, data: bytes, line: int) -> Iterator[Piece]:
        """Whole rows, all of them regular."""
        try:
            batch = self._typed(data)
        except (_IrregularError, pa.ArrowInvalid):
            half = len(data) // 2
            cut = rows_end(data[:half], self._dialect, final=False)[0] if self._sampled and half > _SMALL else 0
            if cut:
                yield from self._block(data[:cut], line)
                yield from self._block(data[cut:], line + data.count(b"\n", 0, cut))
            else:
                yield from self._row_by_row(data, line, final=True)
        else:
            for name, column in zip(self._columns, batch.columns, strict=True):
                self._intake.learn(name, column.type)
            if batch.num_rows:
                arrays = dict(zip(self._columns, batch.columns, strict=True))
                yield from self._intake.emit(arrays, batch.num_rows, {}, lambda at: (line + at, ""))
        self._sampled = True

    def _typed(self, data: bytes) -> pa.RecordBatch:
        """The fast way; raises if there is anything in the block that it would not do right."""
        batch = self._parse(data, self._columns, self._intake.types)
        unknown = [at for at, name in enumerate(self._columns) if name not in self._intake.types]
        doubtful = [self._columns[at] for at in unknown if _is_doubtful(batch.column(at))]
        if doubtful:
            texts = self._parse(data, self._columns, self._intake.types | dict.fromkeys(doubtful, pa.string()))
            for name in doubtful:
                if _has_long_integers(texts.column(self._columns.index(name))):
                    self._intake.learn(name, pa.string())
            batch = self._parse(data, self._columns, self._intake.types)
        for name, column in zip(self._columns, batch.columns, strict=True):
            if pa.types.is_binary(column.type) and name not in self._intake.types:
                self._intake.learn(name, pa.string())  # bytes that are no UTF-8: only their records fail
                raise _IrregularError
            if column.null_count and name in self._intake.required:
                raise _IrregularError
        return batch

    def _parse(self, data: bytes, names: Sequence[str], types: dict[str, pa.DataType]) -> pa.RecordBatch:
        """Parse as one block, so that types are inferred from all of it."""
        malformed_rows: list[int] = []

        def skip(row: Any) -> str:
            malformed_rows.append(row.number)
            return "skip"

        quote = self._dialect.quote
        table = pacsv.read_csv(
            pa.BufferReader(data),
            read_options=pacsv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=list(names)),
            parse_options=pacsv.ParseOptions(
                delimiter=self._dialect.delimiter,
                quote_char=quote or False,
                newlines_in_values=quote is not None and quote.encode() in data,
                invalid_row_handler=skip,
            ),
            convert_options=_convert_options(self._options.null_values, types),
        )
        if malformed_rows:
            raise _IrregularError
        batches: list[pa.RecordBatch] = table.to_batches()
        return batches[0] if batches else pa.RecordBatch.from_pylist([], table.schema)

    def _row_by_row(self, data: bytes, line: int, *, final: bool) -> Generator[Piece, None, int]:
        """The careful way; returns how many bytes it has read."""
        rows: list[Row] = []
        lines = 0
        for row, read in self._careful.read(data.decode("utf-8", "surrogateescape"), line, final=final):
            rows.append(row)
            lines = read
        good = [row for row in rows if row.problem is None]
        others = [malformed(row.line, row.raw, row.problem) for row in rows if row.problem is not None]
        arrays: dict[str, pa.Array] = {}
        bad: Bad = {}
        for at, name in enumerate(self._columns):
            cells = [row.cells[at] for row in good]
            arrays[name], unfit = self._column(name, cells)
            for position in unfit:
                bad.setdefault(position, self._intake.misfit(name, repr(cells[position])))
        if rows:
            yield from self._intake.emit(arrays, len(good), bad, lambda at: (good[at].line, good[at].raw), others)
        if final:
            return len(data)
        position = 0
        for _ in range(lines):
            position = data.find(b"\n", position) + 1
        return position

    def _column(self, name: str, cells: list[str]) -> tuple[pa.Array, Bad]:
        known = self._intake.types.get(name)
        if known is None:
            known = self._infer(cells)
            self._intake.learn(name, known)
        array, bad = self._convert(cells, known)
        wider = known
        for cell in {cells[position] for position in list(bad)[:1_000]} if name not in self._intake.demanded else ():
            found = self._infer([cell])
            wider = unify(wider, found) or wider
        if wider != known:
            self._intake.learn(name, wider)
            array, bad = self._convert(cells, wider)
        return array, bad

    def _convert(self, cells: list[str], kind: pa.DataType) -> tuple[pa.Array, Bad]:
        return bisect(len(cells), kind, lambda start, stop: self._one_column(cells[start:stop], kind))

    def _infer(self, cells: list[str]) -> pa.DataType:
        array = self._one_column(cells, None)
        if pa.types.is_binary(array.type):
            return pa.string()
        if _is_doubtful(array) and _has_long_integers(self._one_column(cells, pa.string())):
            return pa.string()
        return array.type

    def _one_column(self, cells: list[str], kind: pa.DataType | None) -> pa.Array:
        """Convert cells by pyarrow's own rules, so that both ways of reading mean the same."""
        quoted = "\n".join(['"' + cell.replace('"', '""') + '"' for cell in cells])
        table = (
            pacsv.read_csv(
                io.BytesIO(quoted.encode("utf-8", "surrogateescape")),
                read_options=pacsv.ReadOptions(use_threads=False, block_size=4 * len(quoted) + 2, column_names=["x"]),
                parse_options=pacsv.ParseOptions(newlines_in_values=True),
                convert_options=_convert_options(self._options.null_values, {} if kind is None else {"x": kind}),
            )
            if cells
            else pa.table({"x": pa.array([], kind or pa.null())})
        )
        column = table.column("x").combine_chunks()
        return column if isinstance(column, pa.Array) else column.chunk(0)


def _convert_options(null_values: Sequence[str], types: dict[str, pa.DataType]) -> pacsv.ConvertOptions:
    return pacsv.ConvertOptions(null_values=list(null_values), strings_can_be_null=True, column_types=types)


def _is_doubtful(array: pa.Array) -> bool:
    """Whether pyarrow took for floats what may be whole numbers too long for int64: keys, as a rule."""
    if not pa.types.is_floating(array.type):
        return False
    largest = pc.max(pc.abs(array)).as_py()
    return bool(largest is not None and largest >= _EXACT)


def _has_long_integers(texts: pa.Array) -> bool:
    return bool(pc.any(pc.match_substring_regex(texts, _INTEGER)).as_py())

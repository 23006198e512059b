"""Blocks of a CSV file: pyarrow reads those that are in order, the others are gone through row by row."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from batch_provider.engine.columns.rows import Bad, unify
from batch_provider.sources.coerce import bisect
from batch_provider.sources.csv.grammar import CarefulReader, Dialect, Row
from batch_provider.sources.intake import Intake, Piece, malformed
from batch_provider.sources.read_options import ReadOptions

_INTEGER = r"^\s*[+-]?\d{16,}\s*$"
_EXACT = 2.0**53  # beyond it a float is no longer every whole number


class IrregularError(Exception):
    """This block is not for pyarrow."""


class CsvBlocks:
    """Turns the bytes of whole rows into pieces of the input.

    Args:
        columns: their names, as they are in the file.
        options: how to read.
        intake: knows the types, and learns more of them.
    """

    def __init__(self, columns: Sequence[str], dialect: Dialect, options: ReadOptions, intake: Intake) -> None:
        self._columns, self._dialect = tuple(columns), dialect
        self._options, self._intake = options, intake
        self._careful = CarefulReader(dialect, len(columns))

    def fast(self, data: bytes, line: int) -> list[Piece]:
        """Whole rows, all of them regular.

        Args:
            data: their bytes.
            line: the line that the first of them begins with.

        Raises:
            IrregularError, pyarrow.ArrowInvalid: there is something that pyarrow would not read right.
        """
        batch = self._typed(data)
        for name, column in zip(self._columns, batch.columns, strict=True):
            self._intake.learn(name, column.type)
        if not batch.num_rows:
            return []
        arrays = dict(zip(self._columns, batch.columns, strict=True))
        return list(self._intake.emit(arrays, batch.num_rows, {}, lambda at: (line + at, "")))

    def careful(self, data: bytes, line: int, *, final: bool) -> tuple[list[Piece], int]:
        """Any rows; returns the pieces, and how many bytes were read.

        Args:
            data: begins with a row.
            line: the line that this one begins with.
            final: nothing comes after ``data``; else a last row that may go on is left.
        """
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
        found = self._intake.emit(arrays, len(good), bad, lambda at: (good[at].line, good[at].raw), others)
        return list(found) if rows else [], len(data) if final else _after_lines(data, lines)

    def check_types(self) -> str | None:
        """A column that CSV cannot hold in the type that is demanded, or None."""
        for name, kind in self._intake.demanded.items():
            try:
                self._one_column([""], kind)
            except pa.ArrowNotImplementedError:
                return f"a CSV file cannot hold {kind}, which the schema demands for {name!r}. Demand 'string'"
            except pa.ArrowInvalid:
                pass
        return None

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
                raise IrregularError
            if column.null_count and name in self._intake.required:
                raise IrregularError
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
            raise IrregularError
        batches: list[pa.RecordBatch] = table.to_batches()
        return batches[0] if batches else pa.RecordBatch.from_pylist([], table.schema)

    def _column(self, name: str, cells: list[str]) -> tuple[pa.Array, Bad]:
        known = self._intake.types.get(name)
        if known is None:
            known = self._infer(cells)
            self._intake.learn(name, known)
        array, bad = self._convert(cells, known)
        wider = known
        for cell in {cells[position] for position in list(bad)[:1_000]} if not self._intake.is_fixed(name) else ():
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


def _after_lines(data: bytes, lines: int) -> int:
    position = 0
    for _ in range(lines):
        position = data.find(b"\n", position) + 1
    return position

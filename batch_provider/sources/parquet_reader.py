"""Parquet files, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batch_provider.domain.errors import SourceError
from batch_provider.sources.coerce import plain
from batch_provider.sources.intake import ROWS, Intake, Piece, place_batch
from batch_provider.sources.locate import FoundFile, Stretch
from batch_provider.sources.read_options import ReadOptions


def read_parquet(found: FoundFile, options: ReadOptions, intake: Intake) -> Iterator[Piece]:  # noqa: ARG001
    """Stream a file by row groups; types are the file's own."""
    if found.compression is not None:
        raise SourceError(
            found.name,
            f"a Parquet file cannot be read through {found.compression}; it is compressed inside. Decompress it.",
            retryable=False,
        )
    with found.open() as stream, open_parquet(stream) as file:
        _admit(file, intake)
        before = 0
        for batch in file.iter_batches(batch_size=_batch_size(file)):
            yield from intake.from_arrow(batch, place_batch(before + 1, batch))
            before += batch.num_rows
        if not before:
            yield from intake.nothing(file.schema_arrow)


def open_parquet(source: Any) -> pq.ParquetFile:
    """A file to be read from its beginning to its end in bounded memory.

    By default pyarrow keeps every byte that it has read in advance until the file is closed: measured 4 MB for each
    8 MB of records, so that the load of ten million took 1.1 GB.
    """
    return pq.ParquetFile(source, pre_buffer=False)


def parquet_stretches(path: str, intake: Intake) -> Iterator[tuple[Stretch, list[Piece] | None]]:
    """The rows that are read at once, with what they give; None: every row is in order, so none was looked at."""
    with open_parquet(path) as file:
        _admit(file, intake)
        rows, size = file.metadata.num_rows, _batch_size(file)
        if not rows:
            yield Stretch(0, 0, 1), list(intake.nothing(file.schema_arrow))
        elif intake.takes_all(plain_schema(file)):
            for start in range(0, rows, size):
                yield Stretch(start, min(start + size, rows), start + 1), None
        else:
            before = 0
            for batch in file.iter_batches(batch_size=size):
                stretch = Stretch(before, before + batch.num_rows, before + 1)
                yield stretch, list(intake.from_arrow(batch, place_batch(before + 1, batch)))
                before = stretch.end


def _admit(file: pq.ParquetFile, intake: Intake) -> None:
    intake.admit(file.schema_arrow.names)
    intake.check_demands()


def plain_schema(file: pq.ParquetFile) -> pa.Schema:
    """The columns of a file, with the types that their values get."""
    return pa.schema([(field.name, plain(pa.array([], field.type)).type) for field in file.schema_arrow])


def _batch_size(file: pq.ParquetFile) -> int:
    """Rows that take about 8 MiB, by what the file says about itself."""
    groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
    rows, size = sum(group.num_rows for group in groups), sum(group.total_byte_size for group in groups)
    return int(max(min(ROWS, 8 * 2**20 * rows // max(size, 1)), 1))


class ColumnReader:
    """Reads a column from the row group that the rows are in, and goes on from there when the next ones are asked for.

    Args:
        file: opened.
        name: of the column.
    """

    def __init__(self, file: pq.ParquetFile, name: str) -> None:
        self._file, self._name = file, name
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._rest: list[pa.Array] = []
        self._at = -1

    def read(self, start: int, end: int) -> pa.Array:
        """Rows from ``start`` up to ``end``; fewer if the file has no more."""
        if start != self._at:
            self._seek(start)
        found: list[pa.Array] = []
        wanted = end - start
        while wanted and (values := self._next()) is not None:
            found.append(values.slice(0, wanted))
            if len(values) > wanted:
                self._rest.append(values.slice(wanted))
            wanted -= len(found[-1])
        self._at = end - wanted
        return pa.concat_arrays(found) if found else pa.nulls(0)

    def _seek(self, start: int) -> None:
        group, before = 0, 0
        metadata = self._file.metadata
        while group < metadata.num_row_groups and before + metadata.row_group(group).num_rows <= start:
            before += metadata.row_group(group).num_rows
            group += 1
        groups = list(range(group, metadata.num_row_groups))
        size = _batch_size(self._file)
        self._batches = self._file.iter_batches(size, row_groups=groups, columns=[self._name], use_threads=False)
        self._rest = []
        skip = start - before
        while skip and (values := self._next()) is not None:
            if len(values) > skip:
                self._rest.append(values.slice(skip))
            skip -= min(skip, len(values))

    def _next(self) -> pa.Array | None:
        if self._rest:
            return self._rest.pop()
        batch = next(self._batches, None)
        return None if batch is None else batch.column(self._name)  # a name with a dot may bring others along

"""Parquet files, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow.parquet as pq

from batch_provider.domain.errors import SourceError
from batch_provider.storage.sources.files import Files
from batch_provider.storage.sources.intake import ROWS, Intake, Piece, place_batch
from batch_provider.storage.sources.locate import FoundFile


def read_parquet(found: FoundFile, options: Files, intake: Intake) -> Iterator[Piece]:  # noqa: ARG001
    """Stream a file by row groups; types are the file's own."""
    if found.compression is not None:
        raise SourceError(
            found.name,
            f"a Parquet file cannot be read through {found.compression}; it is compressed inside. Decompress it.",
            retryable=False,
        )
    with found.open() as stream, pq.ParquetFile(stream) as file:
        names = file.schema_arrow.names
        intake.admit(names)
        intake.check_demands()
        before = 0
        for batch in file.iter_batches(batch_size=_batch_size(file)):
            yield from intake.from_arrow(batch, place_batch(before + 1, batch))
            before += batch.num_rows
        if not before:
            yield from intake.nothing(file.schema_arrow)


def _batch_size(file: pq.ParquetFile) -> int:
    """Rows that take about 8 MiB, by what the file says about itself."""
    groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
    rows, size = sum(group.num_rows for group in groups), sum(group.total_byte_size for group in groups)
    return int(max(min(ROWS, 8 * 2**20 * rows // max(size, 1)), 1))

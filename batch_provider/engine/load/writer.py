"""The input's records on their way to files: counted, cut into runs of consecutive ids, written by threads."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from typing import Protocol

import pyarrow as pa

from batch_provider.domain.errors import SourceError, TooManyRecordsError
from batch_provider.domain.instance import AttemptInfo, Manifest
from batch_provider.domain.layout import ClaimId, FileRef, Span
from batch_provider.domain.names import RESERVED_COLUMNS
from batch_provider.domain.outcome import JobState
from batch_provider.domain.tally import Tally
from batch_provider.engine.columns.rows import unify
from batch_provider.engine.load.input_rows import input_rows, malformed_rows
from batch_provider.engine.ports.store import Clock, MalformedRecord

log = logging.getLogger(__name__)

FILE_ROWS = 100_000
FILE_BYTES = 8 * 2**20
WRITERS = 2
"""Files that are written at a time: encoding takes as long as reading."""
PROGRESS_SECONDS = 5.0


class LoadTarget(Protocol):
    """Where an attempt to load writes."""

    claim: ClaimId
    generation: str
    info: AttemptInfo
    files: list[FileRef]

    def write(self, table: pa.Table, span: Span, tally: Tally) -> None:
        """Write a run of records."""
        ...

    def commit(self, manifest: Manifest) -> None:
        """Make the instance exist."""
        ...

    def fail(self, state: JobState, error_type: str, message: str, at: str) -> None:
        """Remove what was half made and write down why."""
        ...


class InputCount:
    """What was found in the input so far.

    Args:
        maximum: more records than these are refused; None: any number.
        clock: when to say how far it is.
    """

    def __init__(self, maximum: int | None, clock: Clock) -> None:
        self._maximum, self._clock = maximum, clock
        self._reported_at = clock.monotonic()
        self.total = self.failed = 0
        self.errors: dict[str, int] = {}
        self.columns: dict[str, pa.DataType] = {}

    def learn(self, name: str, kind: pa.DataType) -> None:
        """A column, of a type that may be wider than what it was so far."""
        known = self.columns.get(name)
        self.columns[name] = kind if known is None else unify(known, kind) or pa.string()

    def add(self, records: int, errors: Mapping[str, int]) -> None:
        """Count records, those malformed by exception type.

        Raises:
            TooManyRecordsError: there are more than allowed.
        """
        self.total += records
        self.failed += sum(errors.values())
        for kind, count in errors.items():
            self.errors[kind] = self.errors.get(kind, 0) + count
        if self._maximum is not None and self.total > self._maximum:
            raise TooManyRecordsError(self._maximum)
        if self._clock.monotonic() - self._reported_at >= PROGRESS_SECONDS:
            self._reported_at = self._clock.monotonic()
            log.info("Loading: %s records so far", f"{self.total:,}")


class InputWriter:
    """Cuts the stream into files; while some are encoded and written by threads, the next is being read."""

    def __init__(self, target: LoadTarget, began: datetime, count: InputCount) -> None:
        self._threads = ThreadPoolExecutor(WRITERS, thread_name_prefix="load")
        self._writing: deque[Future[None]] = deque()
        self._target, self._began, self._count = target, began, count
        self._pending: list[pa.Table] = []
        self._rows = self._bytes = 0

    def add(self, piece: pa.RecordBatch | Sequence[MalformedRecord]) -> None:
        """Take the next piece of the stream."""
        if isinstance(piece, pa.RecordBatch):
            for part in _parts(piece):
                self._append(self._good(part), {})
        elif piece:
            table = malformed_rows(piece, str(self._target.claim), self._began)
            self._append(table, Counter(record.error_type for record in piece))

    def _append(self, table: pa.Table, errors: Mapping[str, int]) -> None:
        self._count.add(table.num_rows, errors)
        self._pending.append(table)
        self._rows += table.num_rows
        self._bytes += table.nbytes
        if self._rows >= FILE_ROWS or self._bytes >= FILE_BYTES:
            self.flush()

    def _good(self, batch: pa.RecordBatch) -> pa.Table:
        for field in batch.schema:
            if field.name in RESERVED_COLUMNS:
                raise SourceError(
                    self._target.generation,
                    f"the column name {field.name!r} is reserved; rename it",
                    retryable=False,
                )
            self._count.learn(field.name, field.type)
        return pa.Table.from_batches([batch])

    def flush(self) -> None:
        """Write what is pending as one file, as soon as a thread has nothing else to write."""
        if not self._rows:
            return
        span = Span(self._count.total - self._rows, self._count.total - 1)
        failed = sum(table.num_rows for table in self._pending if "_error" in table.column_names)
        tally = Tally(succeeded=self._rows - failed, failed=failed, newly_failed=failed)
        self._wait(WRITERS - 1)
        write = self._threads.submit(self._write, self._pending, dict(self._count.columns), span, tally)
        self._writing.append(write)
        self._pending, self._rows, self._bytes = [], 0, 0

    def _write(self, tables: Sequence[pa.Table], columns: Mapping[str, pa.DataType], span: Span, tally: Tally) -> None:
        self._target.write(input_rows(tables, columns, span), span, tally)

    def _wait(self, left: int) -> None:
        """Until so many files at most are being written."""
        while len(self._writing) > left:
            self._writing.popleft().result()

    def finish(self) -> None:
        """Write the rest; every file is written when this returns."""
        self.flush()
        self._wait(0)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()


def _parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch in slices that fit a file; one without rows has columns all the same."""
    for start in range(0, max(batch.num_rows, 1), FILE_ROWS):
        yield batch.slice(start, FILE_ROWS)

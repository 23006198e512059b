"""Load and dispatch: the input becomes durable files of consecutive ids, then shards. All or nothing."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from datetime import datetime
from typing import Protocol

import pyarrow as pa

from batch_provider.domain.errors import LoadError, SourceError, StorageError, TooManyRecordsError
from batch_provider.domain.fused import checkpoint_steps, described
from batch_provider.domain.instance import AttemptInfo, JobInstance, Manifest
from batch_provider.domain.layout import ClaimId, FileRef, Span, plan_shards
from batch_provider.domain.names import RESERVED_COLUMNS
from batch_provider.domain.outcome import JobState
from batch_provider.domain.references import InputReference
from batch_provider.domain.spec import JobSpec
from batch_provider.domain.tally import Tally
from batch_provider.engine.input_rows import input_rows, malformed_rows
from batch_provider.engine.ports import Clock, MalformedRecord, ReferableSource, Source, SourceAccess
from batch_provider.engine.rows import unify

log = logging.getLogger(__name__)

FILE_ROWS = 100_000
FILE_BYTES = 8 * 2**20
RECORDS_PER_SHARD = 25_000
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


class LoadStore(Protocol):
    """Where instances are made."""

    def begin_load(self, info: AttemptInfo) -> LoadTarget | Manifest:
        """Start an attempt, or return what an earlier try of the same task committed."""
        ...


def load_instance(
    job: JobSpec,
    store: LoadStore,
    instance: JobInstance,
    *,
    info: AttemptInfo,
    access: SourceAccess,
    clock: Clock,
    slots: int,
) -> Manifest:
    """Load an instance, or find it loaded: a retry of a load that had committed changes nothing.

    Raises:
        DuplicateInstanceError: the id belongs to another DAG, run or job.
        LoadError, StorageError: nothing that a later phase could read is left.
    """
    target = store.begin_load(info)
    if isinstance(target, Manifest):
        log.info("Generation %s was loaded by an earlier try of this task; nothing to do", target.generation)
        return target
    try:
        return load_and_dispatch(job, instance, target, access=access, clock=clock, slots=slots)
    except Exception as error:
        _abandon(target, error, clock)
        raise


def _abandon(target: LoadTarget, error: Exception, clock: Clock) -> None:
    try:
        target.fail(failed_state(error), type(error).__name__, str(error), clock.now().isoformat())
    except (OSError, StorageError):
        log.exception("The failed load could not be written down; purge removes what it left")


def load_and_dispatch(
    job: JobSpec, instance: JobInstance, target: LoadTarget, *, access: SourceAccess, clock: Clock, slots: int
) -> Manifest:
    """Load the source of ``job`` as a new generation and plan its shards.

    Args:
        job: with a source.
        instance: whose generation this is.
        target: the attempt to load.
        access: how the source reaches outside.
        clock: for the manifest.
        slots: worker slots; bounds the default number of shards.

    Raises:
        SourceError: the source cannot be read.
        TooManyRecordsError: it holds more than ``job.max_records``.
        StorageError: the store cannot be written.
    """
    started, began = clock.monotonic(), clock.now()
    count = _Count(job.max_records, clock)
    source = job.source
    references: tuple[InputReference, ...] = ()
    if isinstance(source, ReferableSource) and source.by_reference:
        references = _refer(source, access, count)
    else:
        with closing(_InputWriter(target, began, count)) as writer:
            _copy(source, access, writer)
    manifest = Manifest(
        instance=instance,
        generation=target.generation,
        load=target.claim,
        round_token=target.info.round_token,
        total=count.total,
        failed_on_input=count.failed,
        shards=plan_shards(count.total, planned_shards(job, count.total, slots)),
        files=tuple(sorted(target.files, key=lambda file: file.span)),
        columns={name: str(kind) for name, kind in count.columns.items()},
        steps=tuple(described(step) for step in checkpoint_steps(job)),
        variables=job.variables,
        source=job.source.describe(),
        created_at=clock.now().isoformat(),
        seconds=clock.monotonic() - started,
        input_errors=count.errors,
        references=references,
    )
    target.commit(manifest)
    pa.default_memory_pool().release_unused()
    log.info(
        "Loaded %s records (%s malformed) of %s in %.1f s as %s: %s shards",
        f"{manifest.total:,}",
        f"{manifest.failed_on_input:,}",
        manifest.source,
        manifest.seconds,
        manifest.generation,
        len(manifest.shards),
    )
    return manifest


def planned_shards(job: JobSpec, total: int, slots: int) -> int:
    """What the job says, or a default; at most ``max_concurrency``, because each shard has a running task."""
    wanted = job.shards or default_shards(total, slots)
    return wanted if job.max_concurrency is None else min(wanted, job.max_concurrency)


def default_shards(total: int, slots: int) -> int:
    """As many shards as pay for their mapped tasks: a task costs about what 25,000 simple records cost."""
    return max(1, min(slots, -(-total // RECORDS_PER_SHARD)))


def failed_state(error: BaseException) -> JobState:
    """Which phase a failed load failed in: reading the input, or making the instance of it."""
    return JobState.FAILED_INPUT if isinstance(error, LoadError) else JobState.FAILED_LOADING


def _copy(source: Source, access: SourceAccess, writer: _InputWriter) -> None:
    for piece in source.read(access):
        writer.add(piece)
    writer.finish()


def _refer(source: ReferableSource, access: SourceAccess, count: _Count) -> tuple[InputReference, ...]:
    references: list[InputReference] = []
    for found in source.refer(access):
        if isinstance(found, InputReference):
            references.append(found)
        else:
            for name, kind in found.columns.items():
                count.learn(name, kind)
            count.add(found.records, found.errors)
    return tuple(references)


class _Count:
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


class _InputWriter:
    """Cuts the stream into files; while some are encoded and written by threads, the next is being read."""

    def __init__(self, target: LoadTarget, began: datetime, count: _Count) -> None:
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
    """The batch in slices that fit a file."""
    for start in range(0, batch.num_rows, FILE_ROWS):
        yield batch.slice(start, FILE_ROWS)

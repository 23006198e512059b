"""Load and dispatch: the input becomes durable files of consecutive ids, then shards. All or nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Protocol

import numpy as np
import pyarrow as pa

from batch_provider.domain.errors import LoadError, SourceError, StorageError, TooManyRecordsError
from batch_provider.domain.instance import AttemptInfo, JobInstance, Manifest
from batch_provider.domain.layout import ClaimId, FileRef, Span, plan_shards
from batch_provider.domain.names import RESERVED_COLUMNS
from batch_provider.domain.outcome import JobState, Outcome
from batch_provider.domain.spec import JobSpec
from batch_provider.domain.tally import Tally
from batch_provider.engine.ports import Clock, MalformedRecord, SourceAccess
from batch_provider.engine.rows import ERROR_TYPE, concat_as, unify

log = logging.getLogger(__name__)

FILE_ROWS = 100_000
FILE_BYTES = 32 * 2**20
RECORDS_PER_SHARD = 25_000
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
    writer = _InputWriter(target, began, clock)
    for piece in job.source.read(access):
        writer.add(piece)
        if job.max_records is not None and writer.total > job.max_records:
            raise TooManyRecordsError(job.max_records)
    writer.flush()
    manifest = Manifest(
        instance=instance,
        generation=target.generation,
        load=target.claim,
        round_token=target.info.round_token,
        total=writer.total,
        failed_on_input=writer.failed,
        shards=plan_shards(writer.total, job.shards or default_shards(writer.total, slots)),
        files=tuple(target.files),
        columns={name: str(kind) for name, kind in writer.columns.items()},
        steps=tuple({"name": step.name, "accept_policy": str(step.accept_policy)} for step in job.steps),
        variables=job.variables,
        source=job.source.describe(),
        created_at=clock.now().isoformat(),
        seconds=clock.monotonic() - started,
        input_errors=writer.errors,
    )
    target.commit(manifest)
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


def default_shards(total: int, slots: int) -> int:
    """As many shards as pay for their mapped tasks: a task costs about what 25,000 simple records cost."""
    return max(1, min(slots, -(-total // RECORDS_PER_SHARD)))


def failed_state(error: BaseException) -> JobState:
    """Which phase a failed load failed in: reading the input, or making the instance of it."""
    return JobState.FAILED_INPUT if isinstance(error, LoadError) else JobState.FAILED_LOADING


class _InputWriter:
    """Cuts the stream into files and counts."""

    def __init__(self, target: LoadTarget, began: datetime, clock: Clock) -> None:
        self._target, self._began, self._clock = target, began, clock
        self._pending: list[pa.Table] = []
        self._rows = self._bytes = 0
        self.total = self.failed = 0
        self.errors: dict[str, int] = {}
        self.columns: dict[str, pa.DataType] = {}
        self._reported_at = clock.monotonic()

    def add(self, piece: pa.RecordBatch | Sequence[MalformedRecord]) -> None:
        """Take the next piece of the stream."""
        if isinstance(piece, pa.RecordBatch):
            for part in _parts(piece):
                self._append(self._good(part))
        elif piece:
            self._append(self._malformed(piece))
        if self._clock.monotonic() - self._reported_at >= PROGRESS_SECONDS:
            self._reported_at = self._clock.monotonic()
            log.info("Loading: %s records so far", f"{self.total:,}")

    def _append(self, table: pa.Table) -> None:
        self._pending.append(table)
        self._rows += table.num_rows
        self._bytes += table.nbytes
        self.total += table.num_rows
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
            known = self.columns.get(field.name)
            self.columns[field.name] = field.type if known is None else unify(known, field.type) or pa.string()
        return pa.Table.from_batches([batch])

    def _malformed(self, records: Sequence[MalformedRecord]) -> pa.Table:
        self.failed += len(records)
        for record in records:
            self.errors[record.error_type] = self.errors.get(record.error_type, 0) + 1
        errors = [
            {"type": r.error_type, "message": r.message, "c": str(self._target.claim), "at": self._began}
            for r in records
        ]
        return pa.table(
            {
                "_error": pa.array(errors, ERROR_TYPE),
                "_line": pa.array([r.line for r in records], pa.int64()),
                "_raw": pa.array([r.raw for r in records], pa.string()),
            }
        )

    def flush(self) -> None:
        """Write what is pending as one file."""
        if not self._rows:
            return
        first = self.total - self._rows
        failed = sum(table.num_rows for table in self._pending if "_error" in table.column_names)
        table = self._combine(first, bool(failed))
        tally = Tally(succeeded=self._rows - failed, failed=failed, newly_failed=failed)
        self._target.write(table, Span(first, self.total - 1), tally)
        self._pending, self._rows, self._bytes = [], 0, 0

    def _combine(self, first: int, malformed: bool) -> pa.Table:
        kinds: dict[str, pa.DataType] = {}
        for table in self._pending:
            kinds |= {f.name: self.columns.get(f.name, f.type) for f in table.schema}
        table = concat_as(self._pending, kinds)
        ids = pa.array(np.arange(first, first + self._rows, dtype=np.int64))
        table = table.append_column("_id", ids) if kinds else pa.table({"_id": ids})  # records may have no columns
        if malformed:
            bad = table["_error"].is_valid().to_numpy(zero_copy_only=False)
            status = np.where(bad, int(Outcome.FAILED), int(Outcome.SUCCEEDED)).astype(np.uint8)
            table = table.append_column("_status", pa.array(status))
        return table


def _parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch in slices that fit a file."""
    for start in range(0, batch.num_rows, FILE_ROWS):
        yield batch.slice(start, FILE_ROWS)

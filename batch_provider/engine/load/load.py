"""Load and dispatch: the input becomes durable files of consecutive ids, then shards. All or nothing."""

from __future__ import annotations

import logging
from contextlib import closing
from typing import Protocol

import pyarrow as pa

from batch_provider.domain.errors import LoadError, StorageError, TooFewRecordsError
from batch_provider.domain.fused import checkpoint_steps, described
from batch_provider.domain.instance import AttemptInfo, JobInstance, Manifest
from batch_provider.domain.layout import plan_shards
from batch_provider.domain.outcome import JobState
from batch_provider.domain.references import InputReference
from batch_provider.domain.spec import JobSpec
from batch_provider.engine.expressions.names import check_names, contract_columns
from batch_provider.engine.load.writer import InputCount, InputWriter, LoadTarget
from batch_provider.engine.ports.store import Clock, ReferableSource, Source, SourceAccess

log = logging.getLogger(__name__)

RECORDS_PER_SHARD = 25_000


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
        InvalidExpressionError, InvalidOptionError: the job names a column that no record can have.
        TooManyRecordsError, TooFewRecordsError: it holds more than ``job.max_records``, or fewer than
            ``job.min_records``.
        StorageError: the store cannot be written.
    """
    started, began = clock.monotonic(), clock.now()
    count = InputCount(job.max_records, clock)
    source = job.source
    references: tuple[InputReference, ...] = ()
    if isinstance(source, ReferableSource) and source.by_reference:
        references = _refer(source, access, count)
    else:
        with closing(InputWriter(target, began, count)) as writer:
            _copy(source, access, writer)
    if count.columns:
        check_names(job, dict.fromkeys([*count.columns, *contract_columns(job)]))
    if job.min_records is not None and count.total < job.min_records:
        raise TooFewRecordsError(count.total, job.min_records)
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


def _copy(source: Source, access: SourceAccess, writer: InputWriter) -> None:
    for piece in source.read(access):
        writer.add(piece)
    writer.finish()


def _refer(source: ReferableSource, access: SourceAccess, count: InputCount) -> tuple[InputReference, ...]:
    references: list[InputReference] = []
    for found in source.refer(access):
        if isinstance(found, InputReference):
            references.append(found)
        else:
            for name, kind in found.columns.items():
                count.learn(name, kind)
            count.add(found.records, found.errors)
    return tuple(references)

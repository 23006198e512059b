"""Which runner does the work of a step."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pyarrow as pa

from batch_provider.domain.errors import InvalidOptionError
from batch_provider.domain.fused import CheckpointStep, FusedStep
from batch_provider.domain.spec import AggregatorSpec, JobSpec, StepSpec, WriterSpec
from batch_provider.engine.ports.store import ShardWork
from batch_provider.engine.ports.writing import BlockWriter, Targets, Writer
from batch_provider.engine.steps.aggregate import AggregatorStep
from batch_provider.engine.steps.fused import FusedRunner, Runner
from batch_provider.engine.steps.record import RecordStep
from batch_provider.engine.steps.transaction import TransactionalRecordStep
from batch_provider.engine.steps.vector import VectorStep
from batch_provider.engine.steps.write import BlockWriteStep, TransactionalStep, WriteStep

Types = Mapping[str, pa.DataType]


def make_runner(
    job: JobSpec, step: CheckpointStep, constant: dict[str, Any], work: ShardWork, targets: Targets | None
) -> Runner | FusedRunner:
    """The runner of what writes checkpoints of its own.

    Args:
        job: whose step it is.
        step: one step, or several that are fused.
        constant: keywords that the author's functions may name.
        work: the attempt.
        targets: how writers and transactions reach their databases.

    Raises:
        InvalidOptionError: the step writes to a database, and there is no way to reach one.
    """
    if isinstance(step, FusedStep):
        types = work.fused_types
        runners = [_runner_of(job, each, constant, work, targets, types.get(each.name, {})) for each in step.steps]
        return FusedRunner(step, runners)
    return _runner_of(job, step, constant, work, targets, work.types)


def _runner_of(
    job: JobSpec,
    step: StepSpec,
    constant: dict[str, Any],
    work: ShardWork,
    targets: Targets | None,
    types: Types,
) -> Runner:
    """The runner of a step; ``types`` are those of the columns that earlier attempts of this very step wrote."""
    if step.aggregator is not None:
        return _aggregator(job, step, step.aggregator, constant, work, targets, types)
    if step.is_vector_step:
        return VectorStep(job, step, constant)
    if step.transaction is None:
        return RecordStep(job, step, constant, types)
    place = (step.transaction, work.instance_id, work.generation, work.claim)
    return TransactionalRecordStep(job, step, constant, types, partial(_reached(targets, step).records, *place))


def _aggregator(  # what _runner_of has, and the spec that it found
    job: JobSpec,
    step: StepSpec,
    spec: AggregatorSpec,
    constant: dict[str, Any],
    work: ShardWork,
    targets: Targets | None,
    types: Types,
) -> AggregatorStep:
    if not isinstance(step.function, WriterSpec) and spec.transaction is None:
        return AggregatorStep(job, step, spec, constant, types)
    targets = _reached(targets, step)
    if spec.transaction is not None:
        return TransactionalStep(job, step, spec, constant, types, targets.transaction(spec.transaction))
    if isinstance(step.writer, BlockWriter):
        parts = partial(step.writer.open, targets.access, work.instance_id, work.generation, work.claim)
        return BlockWriteStep(job, step, spec, constant, types, work, parts)
    writer: Writer = step.writer
    return WriteStep(
        job,
        step,
        spec,
        constant,
        types,
        lambda: writer.open(targets.access, work.instance_id, work.generation, work.claim),
    )


def _reached(targets: Targets | None, step: StepSpec) -> Targets:
    if targets is None:
        raise InvalidOptionError("targets", None, f"connections: step {step.name!r} writes to a database")
    return targets

"""Which runner does the work of a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from batch_provider.domain.spec import JobSpec, StepSpec
from batch_provider.engine.aggregate import AggregatorStep
from batch_provider.engine.record_step import RecordStep
from batch_provider.engine.vector_step import VectorStep

Runner = RecordStep | VectorStep | AggregatorStep


def make_runner(job: JobSpec, step: StepSpec, constant: dict[str, Any], types: Mapping[str, pa.DataType]) -> Runner:
    """The runner of a step.

    Args:
        job: whose step it is.
        step: record, SQL, Arrow or sized aggregator.
        constant: keywords that the author's function may name.
        types: of the columns that earlier attempts of the shard wrote.
    """
    if step.aggregator is not None:
        return AggregatorStep(job, step, step.aggregator, constant, types)
    return VectorStep(job, step, constant) if step.is_vector_step else RecordStep(job, step, constant, types)

"""Aggregators: sized ones in a mapped task for each shard, streaming ones in one task over all shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from batch_provider.domain.errors import InvalidOptionError
from batch_provider.domain.spec import JobSpec
from batch_provider.engine.process.ending import held_by_all
from batch_provider.engine.process.stream import StreamTask, process_stream
from batch_provider.operators._failures import INTERRUPTIONS, airflow_errors
from batch_provider.operators._outside import SupervisorOutside
from batch_provider.operators.alerts import late_alert
from batch_provider.operators.base import BatchOperator, DeclaredJob
from batch_provider.operators.step import BatchStepOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class BatchAggregatorOperator(BatchStepOperator):
    """Calls a sized aggregator for groups of records across the blocks of a shard.

    Takes what :class:`BatchStepOperator` takes; ``step`` names a sized aggregator.
    """

    ui_color: str = "#dcefe3"

    def check_step(self) -> None:
        """Refuse a step that is another operator's."""
        self.refuse_fused()
        aggregator = self.job.step(self.step).aggregator
        if aggregator is None or aggregator.streaming:
            other = "BatchStreamOperator" if aggregator else "BatchStepOperator"
            raise InvalidOptionError("step", self.step, f"a sized aggregator; this one needs {other}")


class BatchStreamOperator(BatchOperator):
    """Calls a streaming aggregator once with every record of its step: a barrier between two stages.

    Args:
        job: the declared job.
        step: name of a streaming aggregator.
        shards: what :class:`BatchJobOperator` returned.
        **kwargs: of :class:`BatchOperator`.
    """

    template_fields: Sequence[str] = (*BatchOperator.template_fields, "shards")
    ui_color: str = "#dcefe3"

    def __init__(self, *, job: JobSpec | DeclaredJob, step: str, shards: Any, **kwargs: Any) -> None:
        kwargs.setdefault("do_xcom_push", False)
        super().__init__(job=job, **kwargs)
        self.step = step
        self.shards: Sequence[Mapping[str, str]] = shards
        if not self.job.step(step).is_streaming:
            raise InvalidOptionError("step", step, "a streaming aggregator")

    def execute(self, context: Context) -> None:
        """Call it with what is left for it, then commit every shard."""
        with airflow_errors():
            store = self.instance_store(context)
            info = self.attempt(context)
            works = held_by_all(
                lambda shard: store.generation(shard["generation"]).claim(self.step, shard["shard"], info, self.job),
                self.shards,
            )
            process_stream(
                StreamTask(
                    job=self.job,
                    step=self.job.step(self.step),
                    works=works,
                    clock=store.clock,
                    constant=self.constants(context),
                    cancelled=self._cancelled.is_set,
                    on_late=late_alert(self.job, context),
                    outside=SupervisorOutside(),
                    interruptions=INTERRUPTIONS,
                )
            )

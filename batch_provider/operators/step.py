"""A step, one mapped task for each shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from batch_provider import wiring
from batch_provider.domain.errors import InvalidOptionError
from batch_provider.domain.spec import JobSpec
from batch_provider.engine.process import ShardTask, process_shard
from batch_provider.operators._failures import airflow_errors
from batch_provider.operators.alerts import late_alert
from batch_provider.operators.base import BatchOperator, DeclaredJob
from batch_provider.storage.writers.targets import DatabaseTargets

if TYPE_CHECKING:
    from airflow.sdk import Context


class BatchStepOperator(BatchOperator):
    """Processes one step of one shard, block by block; resumes after its last checkpoint.

    Args:
        job: the declared job.
        step: name of the step.
        shard: what :class:`BatchJobOperator` returned for this mapped task.
        **kwargs: of :class:`BatchOperator`. Unless given, ``map_index_template`` names the shard and
            ``weight_rule`` is ``upstream``, so that shards run depth first (measured: the default runs the
            first step of all shards before the second of any).
    """

    template_fields: Sequence[str] = (*BatchOperator.template_fields, "shard")

    def __init__(self, *, job: JobSpec | DeclaredJob, step: str, shard: Mapping[str, str], **kwargs: Any) -> None:
        kwargs.setdefault("map_index_template", "shard {{ task.shard['shard'] }}")
        kwargs.setdefault("weight_rule", "upstream")
        kwargs.setdefault("do_xcom_push", False)
        super().__init__(job=job, **kwargs)
        self.step = step
        self.shard = shard
        self.check_step()

    def check_step(self) -> None:
        """Refuse a step that is another operator's."""
        if self.job.step(self.step).aggregator is not None:
            raise InvalidOptionError("step", self.step, "BatchAggregatorOperator for an aggregator")

    def execute(self, context: Context) -> None:
        """Process what is left of the shard."""
        with airflow_errors():
            store = self.instance_store(context)
            generation = store.generation(self.shard["generation"])
            work = generation.claim(self.step, self.shard["shard"], self.attempt(context), self.job)
            self.log.info("Step %s, %s, attempt %s", self.step, work.shard.label, work.claim.id)
            process_shard(
                ShardTask(
                    job=self.job,
                    step=self.job.step(self.step),
                    work=work,
                    clock=store.clock,
                    constant=self.constants(context),
                    cancelled=self._cancelled.is_set,
                    on_late=late_alert(self.job, context),
                    targets=DatabaseTargets(wiring.AirflowAccess()),
                )
            )

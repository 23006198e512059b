"""A step, one mapped task for each shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from batch_provider import wiring
from batch_provider.domain.errors import InvalidOptionError
from batch_provider.domain.fused import CheckpointStep, checkpoint_steps
from batch_provider.domain.spec import JobSpec
from batch_provider.engine.process.process import ShardTask, process_shard
from batch_provider.operators._failures import INTERRUPTIONS, airflow_errors
from batch_provider.operators._outside import SupervisorOutside
from batch_provider.operators.alerts import late_alert
from batch_provider.operators.base import BatchOperator, DeclaredJob
from batch_provider.writers.targets import DatabaseTargets

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
        self.refuse_fused()
        if self.job.step(self.step).aggregator is not None:
            raise InvalidOptionError("step", self.step, "BatchAggregatorOperator for an aggregator")

    def refuse_fused(self) -> None:
        """Refuse a step of a job whose steps are fused: it has no checkpoints of its own."""
        if self.job.fuse_steps:
            raise InvalidOptionError(
                "step", self.step, "BatchStageOperator for the steps of a job with fuse_steps=True"
            )

    def execute(self, context: Context) -> None:
        """Process what is left of the shard."""
        with airflow_errors():
            for step in self.checkpoint_steps():
                self._process(step, context)

    def checkpoint_steps(self) -> tuple[CheckpointStep, ...]:
        """What this task claims and processes."""
        return (self.job.step(self.step),)

    def _process(self, step: CheckpointStep, context: Context) -> None:
        store = self.instance_store(context)
        generation = store.generation(self.shard["generation"])
        work = generation.claim(step.name, self.shard["shard"], self.attempt(context), self.job)
        self.log.info("Step %s, %s, attempt %s", step.name, work.shard.label, work.claim.id)
        process_shard(
            ShardTask(
                job=self.job,
                step=step,
                work=work,
                clock=store.clock,
                constant=self.constants(context),
                cancelled=self._cancelled.is_set,
                on_late=late_alert(self.job, context),
                targets=DatabaseTargets(wiring.AirflowAccess()),
                outside=SupervisorOutside(),
                interruptions=INTERRUPTIONS,
            )
        )


class BatchStageOperator(BatchStepOperator):
    """Passes one shard through all steps of a stage of a job with ``fuse_steps``; a retry resumes where it ended.

    Args:
        job: the declared job.
        stage: which stage, counted from 1; a streaming aggregator ends one, and has a task of its own.
        shard: what :class:`BatchJobOperator` returned for this mapped task.
        **kwargs: of :class:`BatchStepOperator`.
    """

    def __init__(
        self, *, job: JobSpec | DeclaredJob, shard: Mapping[str, str], stage: int = 1, step: str = "", **kwargs: Any
    ) -> None:
        self.stage = stage
        super().__init__(job=job, step=step, shard=shard, **kwargs)

    def check_step(self) -> None:
        """Refuse a stage that the job does not have.

        Raises:
            InvalidOptionError: it has no such stage, or its steps are not to be fused.
        """
        if not self.job.fuse_steps:
            raise InvalidOptionError(
                "stage", self.stage, "fuse_steps=True on the job, or BatchStepOperator for each step"
            )
        count = len(self.job.stages())
        if not 1 <= self.stage <= count:
            raise InvalidOptionError("stage", self.stage, f"a number from 1 to {count}, the stages of the job")

    def checkpoint_steps(self) -> tuple[CheckpointStep, ...]:
        """The steps of the stage, as far as they can be fused."""
        steps = self.job.stages()[self.stage - 1]
        return checkpoint_steps(self.job, (step for step in steps if not step.is_streaming))

"""From a declared job to tasks: load → a mapped group of steps for each stage → on_complete."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import DAG, TaskGroup, chain, task_group

from batch_provider.airflow_compat import MappedTaskGroup, TaskGroupContext
from batch_provider.domain.errors import JobDefinitionError
from batch_provider.domain.fused import FusedStep, checkpoint_steps
from batch_provider.domain.spec import JobSpec, StepSpec
from batch_provider.operators.aggregate import BatchAggregatorOperator, BatchStreamOperator
from batch_provider.operators.load import BatchJobOperator
from batch_provider.operators.on_complete import BatchOnCompleteOperator
from batch_provider.operators.step import BatchStageOperator, BatchStepOperator


def wire_job(dag: DAG, job: JobSpec, instance_id: str | None, task_options: Mapping[str, Any]) -> TaskGroup:
    """Make the task group of ``job`` in ``dag``.

    Raises:
        JobDefinitionError: it is inside a mapped group, or the DAG has a group or task of its name already.
    """
    _refuse_bad_place(dag, job)
    checkpoint_steps(job)  # a name that fused steps may not have is refused at parse
    common: dict[str, Any] = {"job": job, "job_instance_id": instance_id, **task_options}
    with TaskGroup(group_id=job.name) as group:
        load = BatchJobOperator(task_id="load", **common)
        done: list[Any] = [load]
        for number in range(1, len(job.stages()) + 1):
            done += _wire_stage(job, number, load.output, done[-1], common)
        done >> BatchOnCompleteOperator(task_id="on_complete", **common)
    return group


def _wire_stage(job: JobSpec, number: int, shards: Any, before: Any, common: Mapping[str, Any]) -> list[Any]:
    """A mapped group of the stage's steps, then its streaming aggregator if it ends in one."""
    made: list[Any] = []
    stage = job.stages()[number - 1]
    steps = [step for step in stage if not step.is_streaming]
    if steps:

        @task_group(group_id="process" if number == 1 else f"process_{number}")
        def process(shard: Any) -> None:
            """The steps of one shard; shards do not wait for each other."""
            if job.fuse_steps:
                name = FusedStep(tuple(steps)).name if len(steps) > 1 else steps[0].name
                BatchStageOperator(**common, task_id=name, stage=number, shard=shard)
                return
            tasks = [_step_operator(step, shard, common) for step in steps]
            if len(tasks) > 1:
                chain(*tasks)

        made.append(process.expand(shard=shards))
    if stage[-1].is_streaming:
        step = stage[-1]
        options = {**common, **step.task_options, "task_id": step.name, "step": step.name, "shards": shards}
        made.append(BatchStreamOperator(**options))
    chain(before, *made)
    return made


def _step_operator(step: StepSpec, shard: Any, common: Mapping[str, Any]) -> BatchStepOperator:
    operator = BatchStepOperator if step.aggregator is None else BatchAggregatorOperator
    return operator(**{**common, **step.task_options, "task_id": step.name, "step": step.name, "shard": shard})


def _refuse_bad_place(dag: DAG, job: JobSpec) -> None:
    around = TaskGroupContext.get_current(dag)
    others = {task.job.name for task in dag.tasks if isinstance(task, BatchJobOperator)}
    if job.name in others:  # in another task group too: they would share one instance
        raise JobDefinitionError(
            f"DAG {dag.dag_id!r} has two jobs named {job.name!r}; give each job a name of its own."
        )
    group = around
    while group is not None:
        if isinstance(group, MappedTaskGroup):
            raise JobDefinitionError(
                f"Job {job.name!r} stands inside the mapped group {group.group_id!r}, which Airflow cannot map again; "
                "use one DAG run for each input instead."
            )
        group = group.parent_group
    if around is not None and job.name in {_label(child) for child in around.children}:
        raise JobDefinitionError(
            f"DAG {dag.dag_id!r} has a task or group named {job.name!r} beside this job; rename one of them."
        )


def _label(child: str) -> str:
    return child.rsplit(".", 1)[-1]

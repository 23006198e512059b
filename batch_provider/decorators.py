"""``@task.batch_step``: a step written TaskFlow-style inside the author's own task group."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from batch_provider.operators.step import BatchStepOperator

if TYPE_CHECKING:
    from batch_provider.task_group import BatchJob


def batch_step_task(
    function: Callable[..., Any] | None = None, *, job: BatchJob, shard: Any, **options: Any
) -> Callable[..., Any]:
    """Declare a step of ``job`` and make its task when the decorated function is called.

    The steps of a job are in the order in which they are declared; the tasks must follow each other in that
    order. Between them the author may put tasks of their own.

    Example:
        >>> job = BatchJob("orders", source=Files("orders.csv"))          # doctest: +SKIP
        >>> load = job.load_task()
        >>> @task_group
        ... def process(shard):
        ...     @task.batch_step(job=job, shard=shard)
        ...     def validate(record): ...
        ...     validate()
        >>> process.expand(shard=load.output) >> job.on_complete_task()

    Args:
        function: called for each record, as with ``@job.step``.
        job: made without ``with``; its own tasks come from ``job.load_task()`` and ``job.on_complete_task()``.
        shard: the argument of the mapped task group.
        **options: of ``@job.step``.
    """

    def declare(declared: Callable[..., Any]) -> Callable[[], BatchStepOperator]:
        name = options.get("name") or declared.__name__
        job.step(**options)(declared)
        step = job.spec.step(name)

        @wraps(declared)
        def make_task() -> BatchStepOperator:
            tasks = {**job.task_options, **step.task_options}
            return BatchStepOperator(
                task_id=name, job=job, step=name, shard=shard, job_instance_id=job.job_instance_id, **tasks
            )

        return make_task

    return declare(function) if function is not None else declare

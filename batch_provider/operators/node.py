"""A job's place among tasks: ``task >> job >> task``, without importing Airflow before it is needed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Self

from batch_provider.domain.errors import JobDefinitionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import TaskGroup

    from batch_provider.operators.load import BatchJobOperator
    from batch_provider.operators.on_complete import BatchOnCompleteOperator


class JobNode:
    """Stands for the task group of a job, as soon as it is wired.

    Airflow asks a node for ``roots``, ``leaves`` and ``update_relative``; nothing else is needed to be one.
    """

    def __init__(self, name: str, job_instance_id: str | None, task_options: Mapping[str, Any]) -> None:
        self.name = name
        self.job_instance_id = job_instance_id
        self.task_options = dict(task_options)
        self.group: TaskGroup | None = None

    def load_task(self, task_id: str = "load", **options: Any) -> BatchJobOperator:
        """The load task of a job that is wired by hand; map the task group of its steps over ``.output``."""
        from batch_provider.operators.load import BatchJobOperator

        return BatchJobOperator(task_id=task_id, **self._by_hand(options))

    def on_complete_task(self, task_id: str = "on_complete", **options: Any) -> BatchOnCompleteOperator:
        """The last task of a job that is wired by hand."""
        from batch_provider.operators.on_complete import BatchOnCompleteOperator

        return BatchOnCompleteOperator(task_id=task_id, **self._by_hand(options))

    def _by_hand(self, options: Mapping[str, Any]) -> dict[str, Any]:
        return {"job": self, "job_instance_id": self.job_instance_id, **self.task_options, **options}

    def _wired(self) -> TaskGroup:
        if self.group is None:
            raise JobDefinitionError(f"Job {self.name!r} has no tasks: declare it inside a DAG, and close its with.")
        return self.group

    @property
    def roots(self) -> Any:
        """The first tasks, for ``task >> job``."""
        return self._wired().roots

    @property
    def leaves(self) -> Any:
        """The last tasks, for ``job >> task``."""
        return self._wired().leaves

    def update_relative(self, other: Any, upstream: bool = True, edge_modifier: Any = None) -> None:
        """Airflow's side of ``task >> job``."""
        self._wired().update_relative(other, upstream, edge_modifier)

    def __rshift__(self, other: Any) -> Any:
        """``job >> task``."""
        self._wired().set_downstream(_node(other))
        return other

    def __lshift__(self, other: Any) -> Any:
        """``job << task``."""
        self._wired().set_upstream(_node(other))
        return other

    def __rrshift__(self, other: Any) -> Self:
        """``[task, …] >> job``."""
        self << other
        return self

    def __rlshift__(self, other: Any) -> Self:
        """``[task, …] << job``."""
        self >> other
        return self


def _node(other: Any) -> Any:
    """A job as its group, alone or in a list."""
    if isinstance(other, (list, tuple)):
        return [_node(item) for item in other]
    return other._wired() if isinstance(other, JobNode) else other


def current_dag() -> Any:
    """The DAG being defined, without importing Airflow: if nobody has imported it, there is none."""
    contexts = sys.modules.get("airflow.sdk.definitions._internal.contextmanager")
    return contexts.DagContext.get_current() if contexts is not None else None

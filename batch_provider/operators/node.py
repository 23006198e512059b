"""A job's place among tasks: ``task >> job >> task``, without importing Airflow before it is needed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Self

from batch_provider.domain.errors import JobDefinitionError

if TYPE_CHECKING:
    from airflow.sdk import TaskGroup


class JobNode:
    """Stands for the task group of a job, as soon as it is wired.

    Airflow asks a node for ``roots``, ``leaves`` and ``update_relative``; nothing else is needed to be one.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.group: TaskGroup | None = None

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

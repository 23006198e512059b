"""What Airflow says of DAG runs, asked from a task or a trigger through the task API: no database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from batch_provider.domain.instance import JobInstance
from batch_provider.storage.instances.tickets import Ticket

_ENDED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
_AT_A_TIME = 50  # run ids go into the query of a URL


def is_alive(instance: JobInstance) -> bool:
    """Whether the DAG run of an instance is queued or running; a run that was deleted is not."""
    return _count(instance.dag_id, [instance.run_id], ["queued", "running"]) > 0


def still_at_work(dag_id: str, tickets: Sequence[Ticket]) -> list[Ticket]:
    """Those of ``tickets`` whose DAG run is running and has not closed the instance yet.

    A run that is queued does not count: with ``max_active_runs`` it may be waiting for the one that asks.
    """
    groups = [
        group
        for group in map(list, _in_groups(tickets))
        if _count(dag_id, [ticket.run_id for ticket in group], ["running"])
    ]
    running = [ticket for group in groups for ticket in group if _count(dag_id, [ticket.run_id], ["running"])]
    return [ticket for ticket in running if not _is_closed(dag_id, ticket)]


def _in_groups(tickets: Sequence[Ticket]) -> Any:
    return (tickets[start : start + _AT_A_TIME] for start in range(0, len(tickets), _AT_A_TIME))


def _is_closed(dag_id: str, ticket: Ticket) -> bool:
    """Whether the instance's last task has ended; in a redrive it was cleared, so it has not."""
    if not ticket.last_task:
        return False
    states = _instance().get_task_states(dag_id, task_ids=[ticket.last_task], run_ids=[ticket.run_id])
    return str(states.get(ticket.run_id, {}).get(ticket.last_task)) in _ENDED


def _count(dag_id: str, run_ids: list[str], states: list[str]) -> int:
    return int(_instance().get_dr_count(dag_id, run_ids=run_ids, states=states))


def _instance() -> Any:
    """Where Airflow keeps these questions; DagStateTrigger of the standard provider asks them the same way."""
    from batch_provider.airflow_compat import RuntimeTaskInstance

    return RuntimeTaskInstance

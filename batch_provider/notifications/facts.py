"""What an alert is about, read from any of the contexts that Airflow calls a notifier with.

They differ (Airflow 3.3.2): a deadline's context holds `deadline` and the run as its REST API shows it, with
`dag_run_id` instead of `run_id`; a task callback's is the task's own; a DAG callback's is that of the last task
plus `reason`, or no more than `dag`, `run_id` and `reason`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Literal, Self
from urllib.parse import quote

_MAX_ERROR = 500

EventType = Literal["deadline_missed", "task", "dag_run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertFacts:
    """The facts of one alert; whatever a context does not say is None."""

    event: EventType
    dag_id: str
    run_id: str
    run_type: str | None = None
    state: str | None = None
    """The state of the task for a task's alert, else that of the run."""
    run_after: datetime | None = None
    ended: datetime | None = None
    deadline: datetime | None = None
    deadline_id: str | None = None
    task_id: str | None = None
    map_index: int | None = None
    """Only for a mapped task."""
    error: str | None = None
    reason: str | None = None
    """Why Airflow ended the run, in its words."""
    url: str | None = None

    @classmethod
    def from_context(cls, context: Mapping[str, Any], base_url: str = "") -> Self:
        """Read the facts from Airflow's context.

        Args:
            context: as Airflow gave it.
            base_url: the address of Airflow's web page; without it the alert has no link.
        """
        run = context.get("dag_run")
        dag_id = str(_of(run, "dag_id") or _of(context.get("dag"), "dag_id") or "an unknown DAG")
        run_id = str(_of(run, "dag_run_id") or _of(run, "run_id") or context.get("run_id") or "an unknown run")
        facts: dict[str, Any] = {
            "event": _event(context),
            "dag_id": dag_id,
            "run_id": run_id,
            "run_type": _text(_of(run, "run_type")),
            "state": _text(_of(run, "state")),
            "run_after": _instant(_of(run, "run_after")),
            "ended": _instant(_of(run, "end_date")),
            "reason": _text(context.get("reason")),
        }
        if base_url:
            facts["url"] = f"{base_url.rstrip('/')}/dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}"
        return cls(**(facts | _special_facts(facts["event"], context)))

    def as_json(self) -> dict[str, Any]:
        """Return the facts that are known, with instants as ISO 8601 text."""
        known = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in known.items()
            if value is not None
        }


def _event(context: Mapping[str, Any]) -> EventType:
    if "deadline" in context:
        return "deadline_missed"
    is_task = "reason" not in context and _of(context.get("ti"), "task_id") is not None
    return "task" if is_task else "dag_run"


def _special_facts(event: EventType, context: Mapping[str, Any]) -> dict[str, Any]:
    if event == "deadline_missed":
        deadline = context["deadline"]
        return {"deadline": _instant(_of(deadline, "deadline_time")), "deadline_id": _text(_of(deadline, "id"))}
    if event == "dag_run":
        return {}
    task = context["ti"]
    index = _of(task, "map_index")
    return {
        "state": _text(_of(task, "state")),
        "task_id": str(_of(task, "task_id")),
        "map_index": index if isinstance(index, int) and index >= 0 else None,
        "error": _error(context.get("exception")),
        "ended": _instant(_of(task, "end_date")),
    }


def _of(thing: Any, name: str) -> Any:
    """Return what an object or a mapping has under the name, or None."""
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return str(value.value if isinstance(value, Enum) else value)


def _instant(value: Any) -> datetime | None:
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        return None
    return value.astimezone(UTC)


def _error(error: Any) -> str | None:
    if error is None:
        return None
    return short_error(f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else str(error))


def short_error(text: str) -> str:
    """As much of it as an alert has room for."""
    return text if len(text) <= _MAX_ERROR else f"{text[:_MAX_ERROR]}…"

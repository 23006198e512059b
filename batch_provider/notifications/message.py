"""How an alert reads. It is read on a phone, at night: what is late, since when, and where to look."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from batch_provider.notifications.facts import AlertFacts

_RUN_PHRASES = {
    "queued": "has not started",
    "running": "is still running",
    "failed": "has failed",
    "success": "ended too late",
}


_LEAD_PHRASES = {
    "queued": "It has not started yet.",
    "running": "It goes on unless somebody ends it.",
    "success": "It has ended since, and succeeded.",
}


@dataclass(frozen=True, slots=True)
class Message:
    """One alert, ready to be sent."""

    subject: str
    """One line."""
    text: str
    fields: dict[str, Any]
    """What a webhook gets: subject, text and the facts; values that JSON holds."""


def compose(facts: AlertFacts, name: str, lead: str | None, redact: Callable[[str], str]) -> Message:
    """Write the alert.

    Args:
        facts: what it is about.
        name: what the deadline is called.
        lead: the author's own first lines, rendered; None: ours.
        redact: takes the secrets out of a text.
    """
    subject = redact(" ".join(_subject(facts, name).split()))
    text = redact(f"{lead or _lead(facts, name)}\n\n{_table(facts)}\n")
    known = facts.as_json()
    if facts.error is not None:
        known["error"] = redact(facts.error)
    return Message(subject, text, {"text": text, "subject": subject, "name": name, **known})


def _subject(facts: AlertFacts, name: str) -> str:
    if facts.event == "deadline_missed":
        return f"{name} missed: {facts.dag_id} {_RUN_PHRASES.get(facts.state or '', facts.state or 'is late')}"
    if facts.event == "task":
        task = f"{facts.dag_id}.{_task(facts)}"
        if facts.state in (None, "running"):  # the task itself sends it, and what it is about is in the name
            return f"{name}: {task}"
        return f"{task} {'failed and will be retried' if facts.state == 'up_for_retry' else facts.state}"
    return f"{facts.dag_id}: run {facts.state or facts.reason or 'ended'}"


def _lead(facts: AlertFacts, name: str) -> str:
    if facts.event != "deadline_missed":
        return f"{_subject(facts, name)}."
    by = _shown(facts.deadline)
    if facts.state == "failed":
        return f"{name}: the run had to be done by {by}, and it has failed."
    what = _LEAD_PHRASES.get(facts.state or "")
    return f"{name}: the run was not done by {by}.{f' {what}' if what else ''}"


def _table(facts: AlertFacts) -> str:
    rows = {
        "DAG": facts.dag_id,
        "Run": facts.run_id,
        "Task": _task(facts),
        "State": facts.state,
        "Reason": facts.reason,
        "Error": facts.error,
        "Due from": _shown(facts.run_after),
        "Deadline": _shown(facts.deadline),
        "Ended": _shown(facts.ended),
        "Look here": facts.url,
    }
    return "\n".join(f"{f'{label}:':<11}{value}" for label, value in rows.items() if value)


def _task(facts: AlertFacts) -> str:
    index = "" if facts.map_index is None else f"[{facts.map_index}]"
    return f"{facts.task_id or ''}{index}"


def _shown(instant: datetime | None) -> str:
    return "" if instant is None else instant.strftime("%Y-%m-%d %H:%M:%S %Z")

"""Alerts that a running job sends by itself, through the connection it names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from batch_provider.domain.spec import JobSpec

if TYPE_CHECKING:
    from airflow.sdk import Context

    from batch_provider.domain.result import BatchJobResult


def late_alert(job: JobSpec, context: Mapping[str, Any]) -> Callable[[str], None] | None:
    """What tells on-call that the SLA has passed; None if the job names no connection."""
    if job.alert_conn_id is None:
        return None
    return lambda reason: _send(job, context, f"SLA of job {job.name} has passed", reason)


def alert_failures(job: JobSpec, context: Mapping[str, Any], result: BatchJobResult) -> None:
    """Tell on-call of failed records that no limit would have told them of (``max_failed_records=-1``)."""
    if job.alert_conn_id is not None and job.limit.is_unlimited and result.failed_records:
        _send(job, context, f"failed records of job {job.name}", result.summary())


def _send(job: JobSpec, context: Mapping[str, Any], name: str, text: str) -> None:
    """Send; what goes wrong is logged: an alert that cannot be sent must not fail the batch."""
    from batch_provider.notifications.notifier import BatchNotifier

    notifier = BatchNotifier(conn_id=job.alert_conn_id or "", name=name, message="{{ batch_alert_text }}")
    notifier.notify(cast("Context", {**context, "batch_alert_text": text}))

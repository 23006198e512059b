"""Deadlines of a DAG run: on-call hears about a run that is not done in time.

The semantics are Airflow's deadline alerts (AIP-86): the scheduler notes the instant when it creates the run,
and when that instant passes before the run has ended, the triggerer calls the notifier, once. The run itself
goes on. What binds the job inside the run is its own `sla`, which the engine checks between blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from batch_provider.airflow_compat import AsyncCallback, BaseDeadlineReference, DeadlineAlert
from batch_provider.domain.errors import InvalidOptionError
from batch_provider.notifications.notifier import DEFAULT_CONN_ID, DEFAULT_NAME, BatchNotifier, checked_conn_ids

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_MAX_NAME = 250  # the column that Airflow keeps it in


class RunAfterUnlessBackfill(BaseDeadlineReference):
    """Counts from the instant a run was due to start, and gives backfill runs no deadline.

    A scheduled run is due when its schedule says, however late the scheduler gets to it; a manual run when it is
    triggered; one that assets trigger when their event came. Airflow's own references do not fit a batch: the
    logical date is missing in manual runs, and `DAGRUN_QUEUED_AT` pages once for every run of a backfill that
    waits for its turn (seen in Airflow 3.3.2: six runs, four alerts).

    The scheduler and the API server evaluate it; they know the class through the provider's plugin.
    """

    required_kwargs: ClassVar[frozenset[str]] = frozenset({"dag_id", "run_id"})

    def _evaluate_with(self, *, session: Session, dag_id: str, run_id: str) -> datetime | None:
        """Return the instant to count from, or None: this run gets no deadline.

        Airflow calls this in the transaction that creates the run, so no other session may be opened here: it
        would not see the run, and in the scheduler it would end the transaction.
        """
        from sqlalchemy import select

        from batch_provider.airflow_compat import DagRun, DagRunType

        of_this_run = select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)
        run: Any = session.scalar(of_this_run)
        if run is None or run.run_type == DagRunType.BACKFILL_JOB:
            return None
        due: datetime = run.run_after
        return due


def batch_deadline(
    *,
    hours: float = 0,
    minutes: float = 0,
    seconds: float = 0,
    interval: timedelta | None = None,
    conn_id: str | Sequence[str] = DEFAULT_CONN_ID,
    name: str = DEFAULT_NAME,
    message: str | None = None,
) -> DeadlineAlert:
    """Make the deadline of a DAG: `@dag(deadline=batch_deadline(hours=4))`.

    A list of them warns early and alerts late: `deadline=[batch_deadline(hours=3, name="warning"), ...]`.

    Args:
        hours: the time a run may take from the instant it was due to start; added to minutes and seconds.
        minutes: see hours.
        seconds: see hours.
        interval: the same as one timedelta, instead of the three.
        conn_id: the Airflow connection, or connections, that say where the alert goes; looked up when it is sent.
        name: what the alert and the Airflow UI call this deadline.
        message: a Jinja template for the first lines of the alert, with `dag_run`, `deadline` and `run_id`.

    Raises:
        InvalidOptionError: if the time is not positive, or given twice, or another option cannot be used.
    """
    if not name.strip() or len(name) > _MAX_NAME:
        raise InvalidOptionError("name", name, f"a name of 1 to {_MAX_NAME} characters")
    conn_ids = checked_conn_ids(conn_id)
    BatchNotifier(conn_id=conn_ids, name=name, message=message)  # raises now, not when the deadline has passed
    kwargs: dict[str, Any] = {"conn_id": conn_ids, "name": name}
    if message is not None:
        kwargs["message"] = message
    return DeadlineAlert(
        reference=RunAfterUnlessBackfill(),
        interval=_checked_interval(timedelta(hours=hours, minutes=minutes, seconds=seconds), interval),
        callback=AsyncCallback(BatchNotifier, kwargs=kwargs),
        name=name,
    )


def _checked_interval(parts: timedelta, whole: timedelta | None) -> timedelta:
    if whole is not None and parts:
        raise InvalidOptionError("interval", whole, "either interval, or hours, minutes and seconds")
    if whole is not None and not isinstance(whole, timedelta):
        raise InvalidOptionError("interval", whole, "a timedelta")
    interval = parts if whole is None else whole
    if interval <= timedelta(0):
        raise InvalidOptionError("interval", str(interval), "a positive time, for example hours=4")
    return interval

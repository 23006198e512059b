"""From Airflow's context to an instance and an attempt."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from datetime import datetime, tzinfo
from typing import Any

from batch_provider.domain.instance import AttemptInfo, JobInstance
from batch_provider.domain.names import default_instance_id

Context = Mapping[str, Any]


def job_instance(context: Context, job: str, instance_id: str | None) -> JobInstance:
    """The instance of ``job`` in this DAG run.

    Args:
        context: Airflow's.
        job: its name.
        instance_id: as the author templated it; None: from DAG id, run id and job name.

    Raises:
        InvalidOptionError: the id may not stand in a path.
    """
    run = context["dag_run"]
    return JobInstance(
        id=instance_id or default_instance_id(run.dag_id, run.run_id, job),
        dag_id=run.dag_id,
        run_id=run.run_id,
        job=job,
        business_date=business_date(context),
    )


def attempt_info(context: Context) -> AttemptInfo:
    """Who makes this attempt. A retry has the round token of the try before it, a clear or rerun has not."""
    instance, run = context["ti"], context["dag_run"]
    retries = int(getattr(instance.task, "retries", 0) or 0)
    first_try = int(instance.max_tries) - retries + 1
    started = run.start_date.isoformat() if run.start_date else ""
    return AttemptInfo(
        round_token=f"{started}/{first_try}",
        host=socket.gethostname(),
        pid=os.getpid(),
        try_number=int(instance.try_number),
        task_id=str(instance.task_id),
        map_index=-1 if instance.map_index is None else int(instance.map_index),
    )


def business_date(context: Context) -> str | None:
    """The ISO date the run stands for: params, else the interval's start, the logical date, or ``run_after``.

    In the DAG's time zone; never the wall clock. A param that is no date or time is taken as it is.
    """
    zone: tzinfo | None = getattr(context.get("dag"), "timezone", None)
    given = (context.get("params") or {}).get("business_date")
    if given is not None:
        try:
            return _local_date(datetime.fromisoformat(str(given)), zone)
        except ValueError:
            return str(given)
    run = context["dag_run"]
    return _local_date(run.data_interval_start or run.logical_date or run.run_after, zone)


def _local_date(instant: datetime, zone: tzinfo | None) -> str:
    local = instant.astimezone(zone) if zone is not None and instant.tzinfo is not None else instant
    return local.date().isoformat()

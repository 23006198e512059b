from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG

from batch_provider import BatchJob, Records

with DAG("no_steps", schedule=None, start_date=datetime(2020, 1, 1, tzinfo=UTC)):
    with BatchJob("orders", source=Records([])):
        pass

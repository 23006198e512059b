from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG

from batch_provider import BatchJob

with DAG("no_source", schedule=None, start_date=datetime(2020, 1, 1, tzinfo=UTC)), BatchJob("orders") as job:

    @job.step
    def check(record): ...

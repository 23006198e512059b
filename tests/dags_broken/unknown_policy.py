from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG

from batch_provider import BatchJob, Records

with DAG("unknown_policy", schedule=None, start_date=datetime(2020, 1, 1, tzinfo=UTC)):
    with BatchJob("orders", source=Records([])) as job:

        @job.step(accept_policy="SOME_FAILURES")
        def check(record): ...

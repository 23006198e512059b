from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG

from batch_provider import BatchJob, Records

with DAG("block_of_nothing", schedule=None, start_date=datetime(2020, 1, 1, tzinfo=UTC)):
    with BatchJob("orders", source=Records([]), block_size=0) as job:

        @job.step
        def check(record): ...

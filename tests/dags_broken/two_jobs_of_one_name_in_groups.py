from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG, TaskGroup

from batch_provider import BatchJob, Records

with DAG("two_jobs_of_one_name_in_groups", schedule=None, start_date=datetime(2020, 1, 1, tzinfo=UTC)):
    for region in ("north", "south"):
        with TaskGroup(region), BatchJob("orders", source=Records([])) as job:

            @job.step
            def check(record): ...

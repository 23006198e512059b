from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG, task_group

from batch_provider import BatchJob, Records

with DAG("job_in_a_mapped_group", schedule=None, start_date=datetime(2020, 1, 1, tzinfo=UTC)):

    @task_group
    def each(number):
        with BatchJob("orders", source=Records([])) as job:

            @job.step
            def check(record): ...

    each.expand(number=[1, 2])

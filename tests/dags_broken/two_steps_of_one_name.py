from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG

from batch_provider import BatchJob, Records

with DAG("two_steps_of_one_name", schedule=None, start_date=datetime(2020, 1, 1, tzinfo=UTC)):
    with BatchJob("orders", source=Records([])) as job:

        @job.step
        def check(record): ...

        @job.step(name="check")
        def check_again(record): ...

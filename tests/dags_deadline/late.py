"""A run that is late, one that fails, and one whose dates are filled in afterwards."""

from __future__ import annotations

import time

import pendulum
from airflow.sdk import DAG, task

from batch_provider.deadlines import batch_deadline
from batch_provider.notifications.notifier import BatchNotifier

with DAG("late", schedule=None, deadline=batch_deadline(seconds=10, message="Call the port: {{ dag_run.run_id }}")):

    @task
    def work():
        time.sleep(14)

    work()

with DAG("broken", schedule=None, on_failure_callback=BatchNotifier()):

    @task(on_failure_callback=BatchNotifier(message="Look at {{ ti.task_id }}."))
    def fail():
        raise ValueError("no such column")

    fail()

with DAG(
    "daily",
    schedule="@daily",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    max_active_runs=1,
    deadline=batch_deadline(seconds=1, conn_id="batch_hook", name="daily SLA"),
):

    @task
    def take_a_while():
        time.sleep(1.5)

    take_a_while()

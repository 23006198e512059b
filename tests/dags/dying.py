"""A job with a record that kills its process: a real Airflow tries its task again until the record is found."""

from __future__ import annotations

import ctypes
import os
import signal
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import BaseHook, Variable, dag

from batch_provider import BatchJob, Records

RECORDS, KILLER = 60, 41


def _die(way: str) -> None:
    if way == "segfault":
        ctypes.string_at(0)
    os.kill(os.getpid(), signal.SIGKILL)


def _declare(name: str, **options: Any) -> None:
    with BatchJob(
        name,
        source=Records([{"n": n} for n in range(RECORDS)]),
        max_failed_records=1,
        shards=2,
        task_options={"retries": 3, "retry_delay": timedelta(seconds=0.5)},
        **options,
    ) as job:

        @job.step
        def work(record: dict[str, Any], *, params: dict[str, Any]) -> dict[str, Any]:
            if record["n"] == KILLER:
                _die(params["way"])
            if record["n"] % 20:
                return {}
            host = BaseHook.get_connection("dying_host").host  # the child has to ask its parent
            return {"host": host, "word": Variable.get("dying_word", default="no word")}

        job.sql_step("after", assign={"twice": "n * 2"})


@dag(schedule=None, start_date=datetime(2020, 1, 1, tzinfo=UTC), params={"way": "segfault"})
def dying() -> None:
    _declare("orders")


@dag(schedule=None, start_date=datetime(2020, 1, 1, tzinfo=UTC), params={"way": "segfault"})
def dying_from_the_start() -> None:
    _declare("orders", max_process_deaths=0)


dying()
dying_from_the_start()

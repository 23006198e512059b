"""A job of every kind of step that tests/crash kills at random moments. Its records are made up: no two runs differ."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import dag

from batch_provider import AcceptPolicy, BatchJob, Records, SqlTable

RECORDS, SHARDS, BLOCK = 1_200, 3, 20
CREATE = "CREATE TABLE IF NOT EXISTS orders (run TEXT, number INTEGER, price INTEGER, total INTEGER)"


def numbers() -> Iterator[dict[str, int]]:
    for number in range(RECORDS):
        if number % 300 == 0:
            time.sleep(0.5)  # so that a load can be killed in its middle
        yield {"number": number}


def note(params: dict[str, Any], step: str, found: Iterable[int]) -> None:
    """What a function saw stays noted when its process is killed."""
    with (Path(params["out"]) / f"{step}-{os.getpid()}").open("a", encoding="utf-8") as file:
        file.write("".join(f"{number}\n" for number in found))


class RoundNumberError(ValueError):
    """Every hundredth order is refused."""


@dag(schedule=None, start_date=datetime(2020, 1, 1, tzinfo=UTC), params={"out": "", "seconds": 0.004})
def crashing() -> None:
    with BatchJob(
        "orders",
        source=Records(numbers),
        max_failed_records=RECORDS,
        block_size=BLOCK,
        shards=SHARDS,
        task_options={"retries": 1_000, "retry_delay": timedelta(seconds=0.5)},
    ) as job:

        @job.step
        def validate(record: dict[str, Any], *, params: dict[str, Any]) -> dict[str, Any]:
            time.sleep(params["seconds"])
            note(params, "validate", [record["number"]])
            if record["number"] % 100 == 0:
                raise RoundNumberError(f"{record['number']} is refused")
            return {"run": params["out"], "price": record["number"] * 3}

        job.sql_step("price", checks={"not fifty": "number % 100 <> 50"}, assign={"total": "price * 2"})

        job.write("store", SqlTable("crash_warehouse", "orders", columns=["run", "number", "price", "total"]), size=10)

        @job.aggregator("notify", streaming=True)
        def notify(records: Iterable[dict[str, Any]], *, params: dict[str, Any]) -> None:
            for record in records:
                time.sleep(params["seconds"] / 4)
                note(params, "notify", [record["number"]])

        @job.step(accept_policy=AcceptPolicy.ONLY_FAILURES)
        def quarantine(record: dict[str, Any], *, params: dict[str, Any], record_id: int) -> None:
            time.sleep(params["seconds"] * 20)
            note(params, "quarantine", [record_id])


crashing()

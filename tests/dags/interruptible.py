"""A job that takes long enough for tests/e2e to interrupt it. Its records are made up: no two runs differ."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import dag

from batch_provider import AcceptPolicy, BatchJob, Records

RECORDS = 3_000
SHARDS = 2
BLOCK = 50
SECONDS_PER_RECORD = 0.004
CREATE = "CREATE TABLE IF NOT EXISTS orders (number INTEGER, price INTEGER)"  # no key: a second write would show


def numbers() -> Iterator[dict[str, int]]:
    for number in range(RECORDS):
        yield {"number": number}


class RoundNumberError(ValueError):
    """Every hundredth order is refused, from some number on."""


@dag(
    schedule=None,
    start_date=datetime(2020, 1, 1, tzinfo=UTC),
    params={"out": "", "seconds": SECONDS_PER_RECORD, "refuse_from": 0},
)
def interruptible() -> None:
    with BatchJob(
        "orders",
        source=Records(numbers),
        max_failed_records=RECORDS // 100,
        block_size=BLOCK,
        shards=SHARDS,
        task_options={"retries": 2, "retry_delay": timedelta(seconds=1)},
    ) as job:

        @job.step
        def validate(record: dict[str, Any], *, params: dict[str, Any]) -> None:
            if record["number"] % 100 == 0 and record["number"] >= params["refuse_from"]:
                raise RoundNumberError(f"{record['number']} is refused")

        @job.step
        def enrich(record: dict[str, Any], *, params: dict[str, Any]) -> dict[str, int]:
            time.sleep(params["seconds"])
            with (Path(params["out"]) / f"enriched-{os.getpid()}").open("a", encoding="utf-8") as file:
                file.write(f"{record['number']}\n")
            return {"price": record["number"] * 3}

        @job.aggregator("store", size=500)
        def store(records: list[dict[str, Any]], *, params: dict[str, Any]) -> None:
            with closing(sqlite3.connect(Path(params["out"]) / "warehouse.db", timeout=60)) as database, database:
                database.execute(CREATE)
                database.executemany("INSERT INTO orders VALUES (:number, :price)", records)

        @job.step(accept_policy=AcceptPolicy.ONLY_FAILURES)
        def quarantine(record: dict[str, Any], *, params: dict[str, Any]) -> None:
            (Path(params["out"]) / f"quarantined-{record['number']}").touch()


interruptible()

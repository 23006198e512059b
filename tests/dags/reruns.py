"""Jobs that tests/integration/test_reruns.py clears: what they are to refuse stands in a file, so it can be mended."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow.sdk import dag

from batch_provider import BatchJob, Files, SqlTable

START = datetime(2020, 1, 1, tzinfo=UTC)
PARAMS = {"input": "", "out": ""}
SOURCE = Files("{{ params.input }}")
manual = dag(schedule=None, start_date=START, params=PARAMS)


class RefusedError(ValueError):
    """The test says that this step refuses this record for now."""


def note(params: dict[str, Any], name: str, value: object) -> None:
    """Add a line to a file of the test."""
    with (Path(params["out"]) / name).open("a", encoding="utf-8") as file:
        file.write(json.dumps(value) + "\n")


def work(params: dict[str, Any], step: str, record: dict[str, Any]) -> None:
    """Note the call, and refuse the records that the test has written down for this step."""
    note(params, step, record["id"])
    file = Path(params["out"]) / "refused.json"
    refused = json.loads(file.read_text()) if file.exists() else {}
    if record["id"] in refused.get(step, []):
        raise RefusedError(f"{step} refuses {record['id']}")


def check(record: dict[str, Any], *, params: dict[str, Any]) -> None:
    work(params, "check", record)


def price(record: dict[str, Any], *, params: dict[str, Any]) -> dict[str, int]:
    work(params, "price", record)
    return {"price": record["amount"] * 10}


def label(record: dict[str, Any], *, params: dict[str, Any]) -> dict[str, str]:
    work(params, "label", record)
    return {"label": f"{record['price']} EUR"}


@manual
def rerun() -> None:
    with BatchJob("orders", source=SOURCE, max_failed_records=5, block_size=3, shards=4) as job:
        job.step(check)
        job.step(price)
        job.step(label)
        job.write("store", SqlTable("warehouse", "orders", key=["id"]), size=4)


@manual
def rerun_bulk() -> None:
    with BatchJob("orders", source=SOURCE, max_failed_records=5, block_size=3, shards=2) as job:
        job.step(price)

        @job.aggregator(size=3)
        def group(records: list[dict[str, Any]], *, params: dict[str, Any]) -> None:
            note(params, "group", [record["id"] for record in records])

        @job.aggregator(streaming=True)
        def new(records: Iterable[dict[str, Any]], *, params: dict[str, Any]) -> None:
            note(params, "new", [record["id"] for record in records])

        job.step(label)

        @job.aggregator(streaming=True, on_redrive="all")
        def every(records: Iterable[dict[str, Any]], *, params: dict[str, Any]) -> None:
            note(params, "every", [record["id"] for record in records])


@manual
def two_jobs() -> None:
    with BatchJob("orders", source=SOURCE, max_failed_records=5, block_size=3, shards=2) as first:
        job_step = first.step(check)
        first.step(price)
    with BatchJob("bills", source=SOURCE, max_failed_records=5, block_size=3, shards=2) as second:
        second.step(name="check")(job_step)
        second.step(price)
    first >> second


rerun()
rerun_bulk()
two_jobs()

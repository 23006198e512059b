"""The gallery's DAG under `airflow backfill create`: days of real flights, then the same days again.

On PostgreSQL: the command writes to Airflow's database beside the scheduler, which SQLite refuses (database is locked).
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing

import pytest

from batch_provider.domain.outcome import JobState
from scripts.local_airflow import LocalAirflow
from tests.e2e.conftest import REPOSITORY
from tests.e2e.instances import Instance, until
from tests.unit.writers.conftest import postgres, postgres_server

__all__ = ["postgres", "postgres_server"]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(500)]

DAG = "flights_by_day"
FLIGHTS = {"2013-01-01": (842, 11), "2013-01-02": (943, 15), "2013-01-03": (914, 14)}
STORED = {day: flights - failed for day, (flights, failed) in FLIGHTS.items()}


@pytest.fixture(scope="module")
def airflow(tmp_path_factory, postgres):
    folder = tmp_path_factory.mktemp("airflow")
    (folder / "dags").mkdir()
    shutil.copy(REPOSITORY / "dags" / "flights_by_day.py", folder / "dags")
    server = f"postgres@127.0.0.1:{postgres}/postgres"
    env = {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg://{server}",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": f"postgresql+psycopg_async://{server}",
    }
    with LocalAirflow(folder / "home", folder / "dags", env=env) as airflow:
        yield airflow


@pytest.fixture
def backfill(airflow, cli):
    """Runs a backfill of the three days to its end; returns its instances by day."""

    def go(*options):
        cli("backfill", "create", "--dag-id", DAG, "--from-date", "2013-01-01", "--to-date", "2013-01-04", *options)
        until(lambda: all_done(airflow) or None, 240, "the backfill has not ended")
        runs = airflow.api("GET", f"dags/{DAG}/dagRuns", params={"run_type": "backfill", "limit": 100})["dag_runs"]
        assert [run["state"] for run in runs] == ["success"] * 3
        instances = [Instance(airflow, DAG, run["dag_run_id"], "flights") for run in runs]
        return {instance.generation.manifest.instance.business_date: instance for instance in instances}

    return go


def all_done(airflow):
    found = airflow.api("GET", "backfills", params={"dag_id": DAG})["backfills"]
    return bool(found) and all(each["completed_at"] for each in found)


def stored(airflow):
    with closing(sqlite3.connect(airflow.home / "warehouse" / "flights.db")) as warehouse:
        rows = warehouse.execute("SELECT flight_date, count(*) FROM flights_by_day GROUP BY 1").fetchall()
    return {day: count for day, count in rows if day in FLIGHTS}  # unpausing makes a scheduled run too


def test_a_backfill_and_the_same_again_with_reprocess(airflow, backfill):
    airflow.wait_for_dag(DAG)
    airflow.set_paused(DAG, paused=False)

    first = backfill("--max-active-runs", "2")

    assert sorted(first) == sorted(FLIGHTS)
    for day, (flights, failed) in FLIGHTS.items():
        result = first[day].result
        assert (result.state, result.total_records, result.failed_records) == (JobState.SUCCESSFUL, flights, failed)
        assert result.generation.startswith("g1-")
    assert stored(airflow) == STORED

    again = backfill("--reprocess-behavior", "completed", "--max-active-runs", "2")

    for day, (flights, failed) in FLIGHTS.items():
        result = again[day].result
        assert again[day].run_id == first[day].run_id
        assert (result.state, result.total_records, result.failed_records) == (JobState.SUCCESSFUL, flights, failed)
        assert result.generation.startswith("g2-"), "the input was read again"
    assert stored(airflow) == STORED, "no flight twice"

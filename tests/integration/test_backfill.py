"""The gallery's DAG over days of its schedule, as a backfill runs them; tests/e2e has the real one."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pendulum
import pytest

from batch_provider.domain.outcome import JobState

pytestmark = pytest.mark.integration

NEW_YORK = pendulum.timezone("America/New_York")
FLIGHTS = {"2013-01-01": (842, 11), "2013-01-02": (943, 15), "2013-03-10": (908, 6)}
"""Day → flights, and how many of them were cancelled or diverted. On the last clocks went forward."""


@pytest.fixture
def warehouse(tmp_path, monkeypatch):
    path = tmp_path / "warehouse" / "flights.db"
    path.parent.mkdir()
    connection = json.dumps({"conn_type": "sqlite", "host": str(path)})
    monkeypatch.setenv("AIRFLOW_CONN_FLIGHTS_WAREHOUSE", connection)
    return path


@pytest.fixture
def of_day(run, warehouse, monkeypatch):
    """Runs the flights of a local day; the job of this DAG has a name of its own."""
    monkeypatch.setattr("tests.integration.runs.JOB", "flights")

    def go(day):
        start = pendulum.from_format(day, "YYYY-MM-DD", tz=NEW_YORK)
        return run.scheduled("flights_by_day", warehouse, (start.in_timezone("UTC"), start.add(days=1)))

    return go


def stored(warehouse):
    """Day → rows."""
    with closing(sqlite3.connect(warehouse)) as database:
        return dict(database.execute("SELECT flight_date, count(*) FROM flights_by_day GROUP BY 1 ORDER BY 1"))


def test_each_day_has_its_own_flights_and_a_rerun_stores_none_twice(run, of_day, warehouse):
    done = {day: of_day(day) for day in FLIGHTS}

    for day, (flights, failed) in FLIGHTS.items():
        result = done[day].result
        assert (result.state, result.total_records, result.failed_records) == (JobState.SUCCESSFUL, flights, failed)
        assert done[day].generation.manifest.instance.business_date == day
    expected = {day: flights - failed for day, (flights, failed) in FLIGHTS.items()}
    assert stored(warehouse) == expected

    again = run.clear(done["2013-01-02"], ["land"])  # what a backfill with reprocess does to a run

    assert again.result.generation.startswith("g2-")
    assert (again.result.state, again.result.total_records) == (JobState.SUCCESSFUL, 943)
    assert stored(warehouse) == expected


def test_a_run_by_hand_names_its_day(run, of_day, warehouse):
    by_hand = run("flights_by_day", warehouse, business_date="2013-01-01")
    assert by_hand.result.total_records == FLIGHTS["2013-01-01"][0]
    assert by_hand.generation.manifest.instance.business_date == "2013-01-01"


def test_what_arrives_during_the_run_waits_for_the_next(run, orders, tmp_path):
    """The job's second step writes another file that the glob matches, and changes the one that was read."""
    orders(1, 2, name="landed-1.csv")
    first = run("arriving", tmp_path / "landed-*.csv", landing=str(tmp_path))
    assert (tmp_path / "landed-2.csv").exists()
    assert first.result.total_records == 2
    assert first.written("twice") == [2, 4]

    redriven = run.clear(first, ["orders.process.double"])
    assert redriven.result.total_records == 2, "a redrive works on the same snapshot"

    second = run("arriving", tmp_path / "landed-*.csv", landing=str(tmp_path))
    assert second.result.total_records == 4

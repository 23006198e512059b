"""The demo, as `make demo` runs it."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pyarrow.parquet as pq
import pytest

from batch_provider.domain.outcome import JobState
from tests.e2e.instances import Instance

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ALL, CANCELLED, DIVERTED = 336_776, 8_255, 1_175
STORED = ALL - CANCELLED - DIVERTED


def test_every_flight_is_stored_once_or_in_quarantine_with_its_reason(airflow):
    flights = Instance.start(airflow, "flights", "flights")

    assert flights.end(timeout=240) == "success"

    result = flights.result
    assert result.state is JobState.SUCCESSFUL
    assert (result.total_records, result.successful_records, result.failed_records) == (ALL, STORED, ALL - STORED)
    assert [(row.exception, row.step, row.count) for row in result.errors] == [
        ("CancelledError", "validate", CANCELLED),
        ("DivertedError", "validate", DIVERTED),
    ]
    assert {step.name: (step.successful, step.failed, step.skipped) for step in result.steps} == {
        "validate": (STORED, ALL - STORED, 0),
        "enrich": (STORED, 0, ALL - STORED),
        "store": (STORED, 0, ALL - STORED),
        "quarantine": (ALL - STORED, 0, STORED),
    }
    assert stored(airflow.home / "warehouse" / "flights.db") == (STORED, STORED)
    letters = sum(pq.read_table(flights.folder / file).num_rows for file in result.dead_letters)
    assert letters == ALL - STORED
    own = airflow.home / "warehouse" / "dead_letters" / result.job_instance_id
    assert sum(pq.read_table(file).num_rows for file in own.iterdir()) == ALL - STORED


def stored(database):
    """Rows, and different flights among them."""
    with closing(sqlite3.connect(database)) as warehouse:
        return warehouse.execute("SELECT count(*), count(DISTINCT flight_id) FROM flights").fetchone()

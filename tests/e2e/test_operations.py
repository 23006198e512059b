"""What an operator does at a terminal, and instances that take turns, on a real Airflow."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from batch_provider.domain.outcome import JobState
from tests.e2e.instances import Instance, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

RECORDS, SHARD = 3_000, 1_500


def start(airflow, out, **conf):
    return Instance.start(airflow, "interruptible", "orders", {"out": str(out), **conf})


def test_stop_and_redrive(airflow, out, cli):
    job = start(airflow, out, seconds=0.02)
    until(lambda: job.working("enrich", "01", 3), 90, "enrich has not begun")

    refused = cli("batch", "redrive", job.run_id, fails=True)
    assert "its DAG run is running" in refused
    cli("batch", "stop", job.run_id, "--reason", "maintenance tonight")

    assert job.end(timeout=120) == "failed"
    stopped = job.result
    assert stopped.state is JobState.STOPPED
    assert "maintenance tonight" in stopped.reason
    assert stopped.not_run_records > 0
    assert json.loads(cli("batch", "list", "-o", "json", "--state", "STOPPED"))[0]["run_id"] == job.run_id

    planned = json.loads(cli("batch", "redrive", job.run_id, "--dry-run", "-o", "json"))
    assert {row["shard"]: row["step"] for row in planned} == {"01": "validate", "02": "validate"}
    assert airflow.dag_run("interruptible", job.run_id)["state"] == "failed", "a dry run clears nothing"
    cli("batch", "redrive", job.run_id, "--yes")

    assert job.end(timeout=150) == "success"
    assert (job.result.state, job.result.not_run_records) == (JobState.SUCCESSFUL, 0)
    assert job.result.total_records == RECORDS


def test_a_redrive_clears_just_the_shards_with_failed_records(airflow, out, cli):
    job = start(airflow, out, seconds=0, refuse_from=SHARD)
    assert job.end(timeout=120) == "success"
    assert job.result.failed_records == 15

    (row,) = json.loads(cli("batch", "redrive", job.run_id, "--yes", "-o", "json"))

    assert {name: row[name] for name in ("shard", "step", "task_id", "map_index", "failed", "not_run")} == {
        "shard": "02",
        "step": "validate",
        "task_id": "orders.process.validate",
        "map_index": "1",
        "failed": "15",
        "not_run": "0",
    }
    assert job.end(timeout=120) == "success"
    tries = {
        (task["task_id"].rpartition(".")[2], task["map_index"]): task["try_number"]
        for task in airflow.task_instances("interruptible", job.run_id)
    }
    steps = ("validate", "enrich", "store", "quarantine")
    assert tries == {
        ("load", -1): 1,
        ("on_complete", -1): 2,
        **{(step, 0): 1 for step in steps},
        **{(step, 1): 2 for step in steps},
    }
    (again,) = job.generation.attempts("validate", "02")[-1:]
    assert again.tally.processed == 15, "and of that shard just the records that failed"


def test_instances_take_turns_and_a_waiting_one_holds_no_slot(airflow, out):
    first = start(airflow, out, seconds=0.01)
    until(first.store.latest, 90, "the first is not loaded")
    second = start(airflow, out, seconds=0)
    until(
        lambda: second.task("orders.load")["state"] == "deferred" or None,
        90,
        "the second does not wait, though the first is at work",
    )

    assert first.end(timeout=150) == "success"
    assert second.end(timeout=150) == "success"

    closed = datetime.fromisoformat(first.result.ended_at)
    began = datetime.fromisoformat(second.generation.highest_claim("validate", "01").started_at)
    assert began > closed
    assert second.result.successful_records == RECORDS - 30
    assert second.task("orders.load")["try_number"] == 1

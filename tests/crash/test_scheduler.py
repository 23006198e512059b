"""Tasks and their supervisors on a real Airflow, killed at random moments; a SIGTERM; a machine that stood still."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest

from batch_provider.domain.outcome import CloseOutcome, JobState
from scripts.local_airflow import LocalAirflow
from tests.dags.crashing import BLOCK, CREATE, RECORDS
from tests.e2e.conftest import SOON
from tests.e2e.instances import Instance, until

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600), pytest.mark.xdist_group("airflow")]

KILLS, RUNS = 40, 3
ROUND, FIFTY = RECORDS // 100, RECORDS // 100
GOOD = RECORDS - ROUND - FIFTY


@pytest.fixture(scope="module")
def airflow(tmp_path_factory):
    folder = tmp_path_factory.mktemp("airflow")
    (dags := folder / "dags").mkdir()
    shutil.copy(Path(__file__).parents[1] / "dags" / "crashing.py", dags)
    database = folder / "warehouse.db"
    with closing(sqlite3.connect(database)) as warehouse:
        warehouse.execute("PRAGMA journal_mode=WAL")
        warehouse.execute(CREATE)
    connection = {"conn_type": "sqlite", "host": str(database)}
    env = {**SOON, "AIRFLOW_CONN_CRASH_WAREHOUSE": json.dumps(connection)}
    with LocalAirflow(folder / "home", dags, env=env) as airflow:
        yield airflow


def start(airflow, out, seconds=0.004):
    out.mkdir()
    return Instance.start(airflow, "crashing", "orders", {"out": str(out), "seconds": seconds})


def tasks(airflow):
    """The living processes of tasks; the parent of each is its supervisor."""
    found = []
    for process in airflow.processes():
        with suppress(psutil.Error):
            title = " ".join(process.cmdline())
            if title.startswith("airflow worker -- ") and "LocalExecutor" not in title:
                found.append(process)
    return found


def kill_one(airflow, dice, killed):
    """Kill a task, its supervisor, or both; returns whether there was one."""
    living = sorted(tasks(airflow), key=lambda process: process.pid)
    if not living:
        return False
    task = dice.choice(living)
    sort = dice.choices(["task", "supervisor", "task and supervisor"], [8, 1, 1])[0]
    with suppress(psutil.Error):
        supervisor = task.parent()
        if "supervisor" in sort:
            supervisor.kill()
        if "task" in sort:
            task.kill()
        killed(f"on a real Airflow: {sort}")
        return True
    return False


def test_random_kills_lose_nothing_and_repeat_only_what_was_in_flight(airflow, tmp_path, killed):
    seed = int(os.environ.get("CRASH_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
    print(f"CRASH_SEED={seed}")  # noqa: T201
    dice = random.Random(seed)
    jobs = [start(airflow, tmp_path / f"run{number}") for number in range(RUNS)]
    kills, deadline = 0, time.monotonic() + 200
    while kills < KILLS and time.monotonic() < deadline:
        time.sleep(dice.uniform(0.2, 2.0))
        kills += kill_one(airflow, dice, killed)
        if all(airflow.dag_run("crashing", job.run_id)["state"] not in ("queued", "running") for job in jobs):
            break
    print(f"{kills} kills")  # noqa: T201
    assert kills >= RUNS * 5, f"too few for a test of anything, CRASH_SEED={seed}"
    for number, job in enumerate(jobs):
        assert job.end(timeout=240) == "success", f"CRASH_SEED={seed}"
        nothing_is_lost_or_twice(job, tmp_path / f"run{number}")


def nothing_is_lost_or_twice(job, out):
    result = job.result
    assert result.state is JobState.SUCCESSFUL
    counts = (result.total_records, result.successful_records, result.failed_records, result.not_run_records)
    assert counts == (RECORDS, GOOD, ROUND + FIFTY, 0)
    assert {step.name: (step.successful, step.failed, step.skipped) for step in result.steps} == {
        "validate": (RECORDS - ROUND, ROUND, 0),
        "price": (GOOD, FIFTY, ROUND),
        "store": (GOOD, 0, ROUND + FIFTY),
        "notify": (GOOD, 0, ROUND + FIFTY),
        "quarantine": (ROUND + FIFTY, 0, GOOD),
    }
    errors = [(row.exception, row.step, row.count) for row in result.errors]
    assert errors == [("RoundNumberError", "validate", ROUND), ("CheckFailed", "price", FIFTY)]
    with closing(sqlite3.connect(job.airflow.home.parent / "warehouse.db")) as warehouse:
        rows = warehouse.execute(
            "SELECT number, price, total FROM orders WHERE run = ? ORDER BY 1", [str(out)]
        ).fetchall()
    assert rows == [(n, n * 3, n * 6) for n in range(RECORDS) if n % 50], "each order once"
    for step, numbers in (("validate", range(RECORDS)), ("notify", [n for n in range(RECORDS) if n % 50])):
        assert set(seen(out, step)) == set(numbers)
    attempts = sum(len(job.generation.claim_ids("validate", shard.id)) for shard in job.generation.manifest.shards)
    again = seen(out, "validate").total() - RECORDS
    # A clock for each attempt but the last of a shard: its block, and what a task without its supervisor still did
    # beside its successor in the second before it looked again whether it is fenced.
    assert again <= (attempts - 3) * (BLOCK + 1 / 0.004)


def seen(out, step):
    """Number → how often a step's function saw it."""
    return Counter(int(line) for file in out.glob(f"{step}-*") for line in file.read_text().split())


def test_a_terminated_task_keeps_its_blocks_and_ends_failed_or_is_retried(airflow, tmp_path):
    """As an orderly shutdown of a node does it: SIGTERM."""
    out = tmp_path / "out"
    job = start(airflow, out, seconds=0.01)
    first = until(lambda: job.working("validate", "01", 3), 90, "shard 01 has not come to the middle of validate")

    job.process_of(first).send_signal(signal.SIGTERM)

    until(lambda: job.generation.close_of("validate", "01", first.id) or job.successor(first), 30, "it did not end")
    if close := job.generation.close_of("validate", "01", first.id):
        assert close.outcome is CloseOutcome.STOPPED
        until(lambda: job.task("orders.process.validate", 0)["state"] == "failed" or None, 30, "it is not failed")
        assert job.end(timeout=150) == "failed"
        airflow.clear("crashing", job.run_id, [("orders.process.validate", 0)], include_downstream=True)
    assert job.end(timeout=150) == "success"
    nothing_is_lost_or_twice(job, out)
    assert seen(out, "validate").total() <= RECORDS + BLOCK + ROUND


def test_a_machine_that_stood_still_and_comes_back_counts_for_nothing(airflow, tmp_path):
    """The task and its supervisor are stopped, a successor starts, both go on: a zombie."""
    out = tmp_path / "out"
    job = start(airflow, out, seconds=0.02)
    first = until(lambda: job.working("validate", "01", 3), 90, "shard 01 has not come to the middle of validate")
    zombie = job.process_of(first)
    supervisor = zombie.parent()
    zombie.suspend()
    supervisor.suspend()

    second = until(lambda: job.successor(first), 90, "Airflow has not tried it again")
    supervisor.resume()
    zombie.resume()

    assert job.end(timeout=150) == "success"
    nothing_is_lost_or_twice(job, out)
    attempt = job.generation.close_of("validate", "01", second.id)  # the zombie may have closed its own: no matter
    assert [file for file in attempt.files if file.claim == first.id] == list(second.adopted)

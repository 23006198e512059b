"""What `make demo` says while a job runs: read from the store, without Airflow."""

from __future__ import annotations

from collections import Counter

import pytest

from batch_provider import BatchJob
from batch_provider.storage.blobs.local import LocalBlobs
from batch_provider.testing import LocalRun
from scripts.local_airflow import RunProgress
from scripts.local_airflow.progress import ProgressLines

pytestmark = pytest.mark.integration


@pytest.fixture
def job():
    with BatchJob("orders", max_failed_records=5) as job:

        @job.step
        def validate(record):
            if record["amount"] < 0:
                raise ValueError("negative")

        @job.step
        def double(record):
            return {"twice": record["amount"] * 2}

    return job.spec


@pytest.fixture
def look(tmp_path):
    """Ask for a line at a second of the run; returns the lines so far."""
    lines = []
    progress_lines = ProgressLines(tmp_path, lines.append)

    def look(second, state="running", **tasks):
        progress_lines(RunProgress("shop", "run", state, float(second), Counter(tasks)))
        return lines

    return look


def test_a_line_names_the_steps_that_get_on_with_records_and_records_per_second(job, look, tmp_path):
    run = LocalRun(job, store=LocalBlobs(tmp_path), dag_id="shop", run_id="run", shards=2)
    validate, double = job.steps

    look(0, queued=1, none=3)
    run.load([{"amount": amount} for amount in range(-1, 99)])
    look(4, running=2)
    run.process(validate, "01")
    look(8, running=2)
    run.process(validate, "02")
    run.process(double, "01")
    look(13, running=2)

    assert look(17, running=1, success=4) == [
        "[   0 s] tasks: 1 queued",
        "[   4 s] tasks: 2 running",
        "[   8 s] orders: 100 records, validate 50 (12/s), 1 failed",
        "[  13 s] orders: 100 records, validate 100 (10/s), double 50 (10/s), 1 failed",
        "[  17 s] tasks: 1 running, 4 success",
    ]


def test_lines_are_seconds_apart_and_none_comes_after_the_end(look):
    for second in (0, 1, 2, 3, 4, 5, 6):
        look(second, running=1)

    assert [line[:8] for line in look(9, state="success")] == ["[   0 s]", "[   3 s]", "[   6 s]"]


def test_other_runs_of_the_dag_are_not_spoken_of(job, look, tmp_path):
    other = LocalRun(job, store=LocalBlobs(tmp_path), dag_id="shop", run_id="another", shards=1)
    other.run([{"amount": 1}])

    assert look(0, running=1) == ["[   0 s] tasks: 1 running"]

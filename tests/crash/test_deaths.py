"""A record that kills its process, on a real Airflow with LocalExecutor: retries find it, and it fails alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from batch_provider.domain.outcome import JobState
from scripts.local_airflow import LocalAirflow
from tests.dags.dying import KILLER, RECORDS
from tests.e2e.conftest import SOON
from tests.e2e.instances import Instance

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600), pytest.mark.xdist_group("airflow")]


@pytest.fixture(scope="module")
def airflow(tmp_path_factory):
    folder = tmp_path_factory.mktemp("airflow")
    (dags := folder / "dags").mkdir()
    shutil.copy(Path(__file__).parents[1] / "dags" / "dying.py", dags)
    connection = {"conn_type": "http", "host": "example.test"}
    env = {**SOON, "AIRFLOW_CONN_DYING_HOST": json.dumps(connection)}
    with LocalAirflow(folder / "home", dags, env=env) as airflow:
        airflow.api("POST", "variables", {"key": "dying_word", "value": "hello"})
        yield airflow


@pytest.mark.parametrize(("way", "how"), [("segfault", "signal SIGSEGV"), ("sigkill", "signal SIGKILL")])
def test_the_retries_of_a_task_that_dies_find_the_record_and_fail_it_alone(airflow, way, how):
    job = Instance.start(airflow, "dying", "orders", {"way": way})

    assert job.end(timeout=240) == "success"
    result = job.result
    assert result.state is JobState.SUCCESSFUL
    assert (result.total_records, result.failed_records, result.not_run_records) == (RECORDS, 1, 0)
    ((exception, step, count, sample),) = [(e.exception, e.step, e.count, e.sample) for e in result.errors]
    assert (exception, step, count) == ("ProcessDiedError", "work", 1)
    assert f"record {KILLER} alone, twice, was ended by {how}" in sample
    assert [len(job.generation.claim_ids("work", shard)) for shard in ("01", "02")] == [1, 3]
    shard = job.generation.manifest.shard("02")
    rows = job.generation.latest_reader("after", "02").read(shard.span).to_pylist()
    assert [(row["n"], row["host"], row["word"]) for row in rows if row["host"]] == [(40, "example.test", "hello")]

"""One real Airflow for all tests of this folder: scheduler, workers, API server."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.local_airflow import LocalAirflow

REPOSITORY = Path(__file__).parents[2]
DAG_FILES = (REPOSITORY / "dags" / "flights.py", REPOSITORY / "tests" / "dags" / "interruptible.py")

SOON = {
    # A killed supervisor is noticed when its heartbeats stop: after 5 minutes, unless told otherwise.
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "8",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "1",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "2",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
}


@pytest.fixture(scope="package")
def airflow(tmp_path_factory):
    folder = tmp_path_factory.mktemp("airflow")
    dags = folder / "dags"
    dags.mkdir()
    for file in DAG_FILES:
        shutil.copy(file, dags)
    with LocalAirflow(folder / "home", dags, env=SOON) as airflow:
        yield airflow


@pytest.fixture
def cli(airflow):
    """Runs ``airflow …`` beside the components, as the logged-in user; returns what it prints."""

    def call(*words, fails=False):
        environment = airflow.environment() | {"AIRFLOW_CLI_TOKEN": airflow.token()}
        command = [sys.executable, "-m", "airflow", *words]
        ended = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=120)
        assert (ended.returncode != 0) is fails, ended.stderr
        return ended.stderr if fails else ended.stdout

    return call


@pytest.fixture
def out(tmp_path):
    """Where the job of the test writes to."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder

"""The short form of the suite, for versions that nobody has tested yet: `make newest-short`.

Together with the catalogue of DuckDB's functions and the names of Airflow that are not public, this names what a new
release of a dependency breaks first.
"""

from __future__ import annotations

import json
import os
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import batch_provider

pytestmark = [pytest.mark.drift, pytest.mark.timeout(900)]

REPOSITORY = Path(__file__).parents[2]
MODULES = sorted(module.name for module in pkgutil.walk_packages(batch_provider.__path__, "batch_provider."))


def test_every_module_can_be_imported():
    for name in MODULES:
        import_module(name)
    for name in batch_provider.__all__:
        assert getattr(batch_provider, name) is not None


def test_the_demo_can_be_parsed_and_run_in_one_process(airflow_db, airflow_home, tmp_path):
    connection = {"conn_type": "sqlite", "host": str(tmp_path / "flights.db")}
    environment = os.environ | {
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__BATCH_PROVIDER__STORAGE_PATH": str(tmp_path / "batch"),
        "AIRFLOW_CONN_FLIGHTS_WAREHOUSE": json.dumps(connection),
        "PYTHONPATH": str(REPOSITORY),
    }
    done = subprocess.run(
        [sys.executable, "-m", "airflow", "dags", "test", "flights"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "336,776 records: 327,346 successful, 9,430 failed, 0 not run" in done.stdout + done.stderr

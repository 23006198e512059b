"""The provider as Airflow and a plain process see it."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.integration

WITHOUT_AIRFLOW = """
import json, sys
import batch_provider
light = sorted(name for name in ("airflow", "duckdb", "pyarrow", "numpy") if name in sys.modules)
from batch_provider import BatchJob

with BatchJob("orders", max_failed_records=1) as job:
    @job.step
    def validate(record):
        if record["amount"] < 0:
            raise ValueError("negative")

    @job.step(accept_expression="amount > 1")
    def double(record):
        return {"twice": record["amount"] * 2}

result = job.run([{"amount": amount} for amount in range(-1, 9)])
airflow = sorted(name for name in sys.modules if name.partition(".")[0] == "airflow")
print(json.dumps([light, airflow, str(result.state), result.successful_records, result.failed_records]))
"""


def test_airflow_lists_the_provider(airflow_db):
    listed = subprocess.run(
        [sys.executable, "-m", "airflow", "providers", "list", "--output", "json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )

    providers = {row["package_name"]: row for row in json.loads(listed.stdout)}
    assert providers["airflow-provider-batch"]["version"] == "0.1.0"


def test_a_job_runs_without_airflow_ever_being_imported():
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_AIRFLOW], capture_output=True, text=True, timeout=60, check=True
    )
    sys.stdout.write(f"the whole process took {time.monotonic() - began:.2f} s\n")

    at_import, airflow, state, successful, failed = json.loads(done.stdout.splitlines()[-1])
    assert at_import == [], "importing the package costs next to nothing"
    assert airflow == []
    assert (state, successful, failed) == ("SUCCESSFUL", 9, 1)

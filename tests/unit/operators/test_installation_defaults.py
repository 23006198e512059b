"""What the installation decides for jobs that do not decide for themselves."""

from __future__ import annotations

import pytest
from airflow.sdk import DAG

from batch_provider import BatchJob
from batch_provider.domain.limits import FailureLimit


@pytest.mark.parametrize("installed", ["0", "100", "-1"])
@pytest.mark.parametrize(
    ("options", "limit"),
    [
        pytest.param({"max_failed_ratio": 0.1}, FailureLimit(0, 0.1), id="a ratio alone is a ratio alone"),
        pytest.param({"max_failed_ratio": 0.1, "max_failed_records": 5}, FailureLimit(5, 0.1), id="both"),
        pytest.param({"max_failed_records": 5}, FailureLimit(5), id="a count"),
        pytest.param({}, None, id="nothing: the installation's"),
    ],
)
def test_a_default_count_stands_in_for_a_limit_and_not_beside_one(monkeypatch, installed, options, limit):
    monkeypatch.setenv("AIRFLOW__BATCH_PROVIDER__MAX_FAILED_RECORDS", installed)

    with DAG("orders", schedule=None):
        job = BatchJob("orders", **options)

    assert job.spec.limit == (limit or FailureLimit(int(installed)))

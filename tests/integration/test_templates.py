"""What may be templated, and whose an instance is."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

pytestmark = pytest.mark.integration

MIDNIGHT = datetime(2025, 7, 1, 4, tzinfo=UTC)  # in New York
NEXT_MIDNIGHT = datetime(2025, 7, 2, 4, tzinfo=UTC)


def test_business_date_of_a_scheduled_run_is_the_start_of_its_interval_in_the_time_zone_of_the_dag(run, orders):
    orders(1, 2, 3, name="orders-2025-07-01.csv")

    done = run.scheduled("dated", run.out.parent, (MIDNIGHT, NEXT_MIDNIGHT))

    assert done.state == "success"
    assert done.result.total_records == 3
    assert done.generation.manifest.instance.business_date == "2025-07-01"


def test_an_interval_that_starts_on_the_day_before_in_utc_belongs_to_the_day_of_the_dag(run, orders):
    orders(1, name="orders-2025-06-30.csv")

    done = run.scheduled("dated", run.out.parent, (datetime(2025, 7, 1, 3, 59, tzinfo=UTC), MIDNIGHT))

    assert done.result.total_records == 1
    assert done.generation.manifest.instance.business_date == "2025-06-30"


def test_business_date_of_a_manual_run_without_logical_date_is_the_day_it_was_made_to_run_after(run, orders):
    for day in ("2025-07-01", "2025-07-02"):
        orders(1, name=f"orders-{day}.csv")

    done = run("dated", run.out.parent, run_after=datetime(2025, 7, 2, 2, 30, tzinfo=UTC))

    assert done.state == "success"
    assert done.generation.manifest.instance.business_date == "2025-07-01", "New York is four hours behind"


@pytest.mark.parametrize(
    "given",
    [
        pytest.param("2024-02-29", id="date"),
        pytest.param("2024-02-29T23:00:00", id="timestamp"),
    ],
)
def test_business_date_in_the_params_wins(run, orders, given):
    orders(1, 2, name="orders-2024-02-29.csv")

    done = run.scheduled("dated", run.out.parent, (MIDNIGHT, NEXT_MIDNIGHT), business_date=given)

    assert done.result.total_records == 2
    assert done.generation.manifest.instance.business_date == "2024-02-29"


def test_params_name_the_input(run, orders):
    done = run("eight", orders(1, 2, 3, name="from the params.csv"))

    assert done.result.total_records == 3
    assert done.generation.manifest.source.endswith("from the params.csv")


def test_a_job_instance_id_is_templated(run, orders):
    done = run("owned", orders(1, 2), number=7, instance_id="orders-7")

    assert done.folder.name == "orders-7"
    assert done.result.job_instance_id == "orders-7"


def test_an_instance_id_of_another_run_is_refused_and_that_instance_stays_as_it_is(run, orders):
    first = run("owned", orders(1, 2), number=7, instance_id="orders-7")
    before = contents(first)

    second = run("owned", orders(3, 4, 5), number=7, instance_id="orders-7")

    assert second.state == "failed"
    assert second.tasks["orders.load"] == "failed"
    assert second.tasks["orders.on_complete"] == "failed"
    assert f"DuplicateInstanceError: The job instance id 'orders-7' belongs to DAG 'owned', run '{first.run_id}'" in (
        second.log
    )
    assert contents(first) == before, "the other run's instance is untouched"
    assert [result["state"] for result in first.written("results")] == ["SUCCESSFUL", "FAILED_INPUT"]


def contents(run):
    return {str(path): path.read_bytes() for path in run.storage.rglob("*") if path.is_file()}

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import duckdb
import pyarrow.parquet as pq
import pytest

from batch_provider import ParquetFiles
from batch_provider.domain.outcome import JobState

pytestmark = pytest.mark.integration

TWENTY = range(-2, 18)  # the first two amounts are negative


def test_a_job_runs_from_load_to_report(run, orders):
    done = run("small", orders(*TWENTY))

    assert done.state == "success"
    assert done.tasks == {
        "orders.load": "success",
        "orders.process.validate[0]": "success",
        "orders.process.validate[1]": "success",
        "orders.process.double[0]": "success",
        "orders.process.double[1]": "success",
        "orders.process.store[0]": "success",
        "orders.process.store[1]": "success",
        "orders.process.quarantine[0]": "success",
        "orders.process.quarantine[1]": "success",
        "orders.on_complete": "success",
    }
    result = done.result
    assert result.state is JobState.SUCCESSFUL
    assert (result.total_records, result.successful_records, result.failed_records) == (20, 18, 2)
    assert {step.name: (step.successful, step.failed, step.skipped) for step in result.steps} == {
        "validate": (18, 2, 0),
        "double": (18, 0, 2),
        "store": (18, 0, 2),
        "quarantine": (2, 0, 18),
    }
    assert [(row.exception, row.step, row.count) for row in result.errors] == [("NegativeAmountError", "validate", 2)]
    # Two shards of ten records; groups of four do not cross shards.
    assert sorted(map(sorted, done.written("stored"))) == sorted(
        [[0, 2, 4, 6], [8, 10, 12, 14], [16, 18, 20, 22], [24, 26, 28, 30], [32, 34]]
    )
    assert sorted(done.written("quarantined")) == [-2, -1]


def test_on_complete_gets_the_stored_result_and_the_log_has_its_report(run, orders):
    done = run("small", orders(*TWENTY))

    assert done.reported == done.result
    assert "Job orders: SUCCESSFUL" in done.log
    assert "20 records = 18 successful + 2 failed + 0 not run" in done.log
    assert "Dead letters: 2 records" in done.log


def test_dead_letters_and_ledger_are_readable_without_the_provider(run, orders):
    done = run("small", orders(*TWENTY))

    folder = done.folder / done.generation.manifest.generation
    letters = [row for name in done.result.dead_letters for row in pq.read_table(folder / name).to_pylist()]
    assert sorted((row["id"], row["amount"]) for row in letters) == [(0, -2), (1, -1)]
    (ledger,) = folder.glob("ledger.*.duckdb")
    with duckdb.connect(str(ledger), read_only=True) as connection:
        outcomes = connection.execute("SELECT outcome, count(*) FROM records GROUP BY ALL ORDER BY ALL").fetchall()
        failures = connection.execute("SELECT record_id, step, error_type, message FROM failures ORDER BY 1").fetchall()
    assert outcomes == [("FAILED", 2), ("SUCCEEDED", 18)]
    assert failures == [
        (0, "validate", "NegativeAmountError", "amount is -2"),
        (1, "validate", "NegativeAmountError", "amount is -1"),
    ]


def test_a_streaming_aggregator_stands_between_two_stages(run, orders):
    done = run("two_stages", orders(*TWENTY))

    assert done.state == "success"
    dag = run.dags["two_stages"]
    assert dag.get_task("orders.total").upstream_task_ids == {"orders.load", "orders.process.double"}
    assert dag.get_task("orders.process_2.label").upstream_task_ids == {"orders.load", "orders.total"}
    assert done.tasks["orders.total"] == "success"
    assert done.tasks["orders.process_2.label[1]"] == "success"
    assert done.written("total") == [2 * sum(range(18))]
    assert done.result.step("total").successful == 18
    assert done.result.step("label").successful == 18


@pytest.mark.parametrize(
    ("dag_id", "tasks"),
    [
        pytest.param(
            "small",
            {
                "orders.load": "success",
                "orders.process.validate": "skipped",
                "orders.process.double": "skipped",
                "orders.process.store": "skipped",
                "orders.process.quarantine": "skipped",
                "orders.on_complete": "success",
            },
            id="one-stage",
        ),
        pytest.param(
            "two_stages",
            {
                "orders.load": "success",
                "orders.process.validate": "skipped",
                "orders.process.double": "skipped",
                "orders.total": "skipped",
                "orders.process_2.label": "skipped",
                "orders.on_complete": "success",
            },
            id="two-stages",
        ),
    ],
)
def test_no_records_is_a_success(run, orders, dag_id, tasks):
    done = run.without_waiting(dag_id, orders())

    assert done.state == "success"
    assert done.tasks == tasks
    assert done.result.state is JobState.SUCCESSFUL
    assert done.result.total_records == 0
    assert done.reported == done.result


def test_one_record_makes_one_shard_however_many_are_asked_for(run, orders):
    done = run("eight", orders(7))

    assert done.state == "success"
    assert done.tasks == {
        "orders.load": "success",
        "orders.process.validate[0]": "success",
        "orders.process.double[0]": "success",
        "orders.process.store[0]": "success",
        "orders.process.quarantine[0]": "success",
        "orders.on_complete": "success",
    }
    assert done.written("stored") == [[14]]
    assert done.result.successful_records == 1


def test_too_many_failures_fail_the_run_without_a_retry(run, orders):
    done = run.without_waiting("strict", orders(1, 2, -3, 4, 5, 6))

    assert done.state == "failed"
    assert done.tasks["orders.process.validate[0]"] == "failed"
    assert done.tasks["orders.on_complete"] == "failed"
    assert set(done.tries.values()) <= {0, 1}, "a retry cannot help against bad records"
    assert done.result.state is JobState.FAILED_PROCESS_RECORDS
    assert "more than max_failed_records=0 allows" in done.result.reason
    assert done.reported == done.result
    assert "JobFailedError: Job 'orders'" in done.log


def test_a_failed_load_is_reported_and_fails_the_run(run, tmp_path):
    done = run("small", tmp_path / "absent.csv")

    assert done.state == "failed"
    assert done.tasks == {
        "orders.load": "failed",
        "orders.process.validate": "upstream_failed",
        "orders.process.double": "upstream_failed",
        "orders.process.store": "upstream_failed",
        "orders.process.quarantine": "upstream_failed",
        "orders.on_complete": "failed",
    }
    assert done.reported.state is JobState.FAILED_INPUT
    assert done.reported.failed_on_input_phase
    assert "absent.csv: there is no such file" in done.reported.reason


def test_only_the_shards_of_the_load_go_through_xcom(run, orders):
    done = run("two_stages", orders(*TWENTY))

    generation = done.generation.manifest.generation
    assert done.xcoms() == {
        ("orders.load", "return_value"): [
            {"generation": generation, "shard": "01"},
            {"generation": generation, "shard": "02"},
        ]
    }


def test_the_job_wired_by_hand_does_the_same(run, orders):
    done = run("small_by_hand", orders(*TWENTY))

    assert done.state == "success"
    assert {step.name: (step.successful, step.failed, step.skipped) for step in done.result.steps} == {
        "validate": (18, 2, 0),
        "double": (18, 0, 2),
        "store": (18, 0, 2),
        "quarantine": (2, 0, 18),
    }
    assert done.reported == done.result


FUSED = {
    "fused": {"orders.load", *(f"orders.process.validate_to_quarantine[{n}]" for n in (0, 1)), "orders.on_complete"},
    "fused_by_hand": {"load", "process.all_steps[0]", "process.all_steps[1]", "on_complete"},
}


@pytest.mark.parametrize("dag_id", FUSED)
def test_fused_steps_are_one_mapped_task_for_each_shard_and_do_the_same(run, orders, dag_id):
    done = run(dag_id, orders(*TWENTY))

    assert done.tasks == dict.fromkeys(FUSED[dag_id], "success")
    assert {step.name: (step.successful, step.failed, step.skipped) for step in done.result.steps} == {
        "validate": (18, 2, 0),
        "double": (18, 0, 2),
        "store": (18, 0, 2),
        "quarantine": (2, 0, 18),
    }
    assert sorted(map(sorted, done.written("stored"))) == sorted(
        [[0, 2, 4, 6], [8, 10, 12, 14], [16, 18, 20, 22], [24, 26, 28, 30], [32, 34]]
    )
    assert sorted(done.written("quarantined")) == [-2, -1]


def test_steps_written_taskflow_style_run_in_the_authors_own_group(run, orders):
    done = run("taskflow", orders(*TWENTY))

    assert done.state == "success"
    assert set(done.tasks) == {
        "load",
        *(f"process.{step}[{index}]" for step in ("check", "twice") for index in (0, 1)),
        "on_complete",
    }
    assert {step.name: (step.successful, step.failed, step.skipped) for step in done.result.steps} == {
        "check": (18, 2, 0),
        "twice": (14, 0, 6),
    }
    assert {task.task_id: task.max_tries for task in done.task_instances()}["process.check"] == 1


def test_the_output_of_another_task_is_the_input_of_vectorised_steps(run):
    done = run("from_a_task", "")

    assert done.state == "success"
    assert (done.result.total_records, done.result.successful_records) == (7, 7)
    assert sorted(map(sorted, done.written("stored"))) == [[0, 2, 4], [6, 8, 10, 12]]


def test_an_input_is_read_where_it_is(run, orders):
    done = run("left_in_place", orders(-1, *range(16), 2000, "7,a field too many"))

    assert done.state == "success"
    assert {(error.exception, error.step, error.count) for error in done.result.errors} == {
        ("MalformedRecord", "input", 1),
        ("NegativeAmountError", "check", 1),
        ("CheckFailed", "price", 1),
    }
    assert sorted(amount for group in done.written("stored") for amount in group) == list(range(0, 32, 2))
    assert done.store.blobs.files(f"{done.store.latest().base}/input") == []
    assert len(done.result.dead_letters) == 3


def test_an_input_that_changes_under_a_job_ends_it_with_what_to_do(run, orders):
    done = run.without_waiting("left_in_place", orders(*range(18), 666, 1))

    assert done.state == "failed"
    assert "since it was loaded with copy=False" in done.log
    assert "Put the same file back with its time of change, or clear the load task with Downstream" in done.log
    assert done.written("stored") == []


def test_a_writer_reaches_its_table_through_an_airflow_connection(run, orders, tmp_path, monkeypatch):
    path = tmp_path / "warehouse.db"
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": "sqlite", "host": str(path)}))
    with closing(sqlite3.connect(path)) as warehouse:
        warehouse.execute(
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, amount INTEGER CHECK (amount >= 0), twice INTEGER)"
        )
        done = run("writing", orders(*TWENTY))
        rows = warehouse.execute("SELECT amount, twice FROM orders ORDER BY id").fetchall()

    assert done.state == "success"
    assert rows == [(amount, 2 * amount) for amount in TWENTY if amount >= 0]
    assert [(error.exception, error.step, error.count) for error in done.result.errors] == [
        ("IntegrityError", "store", 2)
    ]
    [manifest] = ParquetFiles("memory://lake/orders").manifests()
    assert (manifest["instance"], manifest["state"], manifest["rows"]) == (
        done.result.job_instance_id, "SUCCESSFUL", len(rows),
    )  # fmt: skip

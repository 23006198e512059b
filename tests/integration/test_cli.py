"""``airflow batch …`` through Airflow's own parser, on instances that `dag.test()` has made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import timedelta

import pytest
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from sqlalchemy import update

from batch_provider.cli.commands import duration
from batch_provider.domain.errors import InvalidOptionError
from batch_provider.domain.instance import AttemptInfo
from batch_provider.domain.outcome import CloseOutcome, JobState

pytestmark = pytest.mark.integration


@pytest.fixture
def cli(capfd):
    """Runs a command as the shell would; returns what it prints."""
    from airflow.cli import cli_parser

    def call(*words):
        args = cli_parser.get_parser().parse_args(["batch", *words])
        capfd.readouterr()
        args.func(args)
        return capfd.readouterr().out

    return call


@pytest.fixture
def done(run, orders):
    """A finished run with two failed records."""
    return run("small", orders(*range(-2, 18)))


def set_state(run, state):
    with create_session() as session:
        session.execute(update(DagRun).where(DagRun.run_id == run.run_id).values(state=state))


def age(folder, days):
    then = time.time() - days * 86_400
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (then, then))


def instance_id(run):
    return run.store.instance.id


def test_list_has_every_instance_with_its_state_and_counts(cli, done):
    (row,) = json.loads(cli("list", "-o", "json"))
    assert {name: row[name] for name in ("dag_id", "job", "run_id", "state", "records", "successful", "failed")} == {
        "dag_id": "small",
        "job": "orders",
        "run_id": done.run_id,
        "state": "SUCCESSFUL",
        "records": "20",
        "successful": "18",
        "failed": "2",
    }
    assert json.loads(cli("list", "-o", "json", "--state", "STOPPED")) == []
    assert json.loads(cli("list", "-o", "json", "--dag-id", "other")) == []
    assert "SUCCESSFUL" in cli("list")  # a table that is wider than the terminal breaks its lines


def test_list_says_cancelled_of_a_run_that_ended_without_a_result(cli, done):
    next(done.folder.rglob("result.*.json")).unlink()
    assert json.loads(cli("list", "-o", "json"))[0]["state"] == "CANCELLED"
    set_state(done, "running")
    assert json.loads(cli("list", "-o", "json"))[0]["state"] == "EXECUTING"


def test_list_and_show_say_that_a_redrive_runs_and_what_it_leaves_behind(cli, done):
    """A result of the round before is no state of this one; and when nobody goes on, it is out of date."""
    work = done.store.latest().claim("validate", "01", AttemptInfo(round_token="clear"))
    set_state(done, "running")
    (row,) = json.loads(cli("list", "-o", "json"))
    assert {name: row[name] for name in ("state", "round", "records", "successful", "failed", "out_of_date")} == {
        "state": "EXECUTING",
        "round": "2",
        "records": "20",
        "successful": "",
        "failed": "",
        "out_of_date": "",
    }
    shown = cli("show", done.run_id)
    assert "is EXECUTING in round 2" in shown
    assert "The round before: Job 'orders'" in shown
    assert {row["step"] for row in json.loads(cli("show", done.run_id, "-o", "json"))} >= {"validate", "store"}

    work.close(CloseOutcome.FAILED, work.tally, fingerprint="", reason="StorageError: the disk is full")
    assert "Step 'validate' of shard 01 failed: StorageError: the disk is full" in cli("show", done.run_id)
    set_state(done, "failed")
    (row,) = json.loads(cli("list", "-o", "json"))
    assert (row["state"], row["round"], row["out_of_date"]) == ("SUCCESSFUL", "1", "yes")
    assert "OUT OF DATE: after this result there was another attempt" in cli("show", done.run_id)
    assert "OUT OF DATE" in cli("errors", done.run_id)


@pytest.mark.parametrize("means", ["id", "run_id", "part"])
def test_show_prints_the_report(cli, done, means):
    text = {"id": instance_id(done), "run_id": done.run_id, "part": done.run_id[:-3]}[means]
    assert "20 records = 18 successful + 2 failed + 0 not run" in cli("show", text)


def test_show_as_json_has_the_fields_of_the_result(cli, done):
    (result,) = json.loads(cli("show", done.run_id, "-o", "json"))
    assert (result["state"], result["failed_records"]) == ("SUCCESSFUL", "2")


def test_show_without_a_result_says_how_far_it_is(cli, done):
    next(done.folder.rglob("result.*.json")).unlink()
    set_state(done, "running")
    shown = cli("show", done.run_id)
    assert "is EXECUTING" in shown
    assert "validate" in shown


def test_errors_are_counted_by_kind_or_shown_one_by_one(cli, done):
    (kind,) = json.loads(cli("errors", done.run_id, "-o", "json"))
    assert (kind["exception"], kind["step"], kind["count"]) == ("NegativeAmountError", "validate", "2")
    records = json.loads(cli("errors", done.run_id, "-o", "json", "--records"))
    assert [(row["record_id"], row["message"]) for row in records] == [("0", "amount is -2"), ("1", "amount is -1")]
    assert len(json.loads(cli("errors", done.run_id, "-o", "json", "--records", "--limit", "1"))) == 1
    assert json.loads(cli("errors", done.run_id, "-o", "json", "--step", "double")) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "nothing"], "No instance is called 'nothing'"),
        (["show", "orders"], "means 2 instances"),
        (["errors", "{run_id}", "--step", "dubble"], "one of validate, double, store, quarantine, input"),
        (["stop", "{run_id}", "--reason", "x"], "is not running, so there is nothing to stop"),
        (["purge", "--older-than", "soon"], "7d"),
        (["redrive", "{run_id}"], "No API token"),
    ],
    ids=lambda value: "-".join(value[:1]) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_said_in_a_line_and_fails(cli, run, orders, done, words, message, monkeypatch):
    monkeypatch.delenv("AIRFLOW_CLI_TOKEN", raising=False)
    run("small", orders(1))
    with pytest.raises(SystemExit) as refused:
        cli(*(word.format(run_id=done.run_id) for word in words))
    assert message in str(refused.value)


def test_without_a_store_it_says_where_it_looked(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW__BATCH_PROVIDER__STORAGE_PATH", str(tmp_path / "nowhere"))
    with pytest.raises(SystemExit, match=r"nowhere.*the directory in which the workers keep their instances"):
        cli("list")


def test_a_stop_stops_the_instance_and_a_clear_carries_on(cli, run, orders):
    """The request lies there when the steps begin: what is not done yet is left."""
    first = run("small", orders(*range(20)))
    set_state(first, "running")
    assert "stops at the next block boundary: too much load" in cli("stop", first.run_id, "--reason", "too much load")
    set_state(first, "failed")

    stopped = run.clear(first, ["orders.process.validate"])

    assert (stopped.state, stopped.result.state) == ("failed", JobState.STOPPED)
    assert "too much load" in stopped.result.reason
    assert stopped.tasks["orders.process.validate[0]"] == "failed"
    resumed = run.clear(stopped, ["orders.process.validate"])
    assert (resumed.state, resumed.result.state, resumed.result.successful_records) == (
        "success",
        JobState.SUCCESSFUL,
        20,
    )


def test_purge_shows_what_would_go_and_then_removes_it(cli, done, storage):
    age(done.folder, 8)
    (row,) = json.loads(cli("purge", "--dry-run", "-o", "json"))
    assert (row["reason"], row["job_instance_id"], row["dead_letter_files"]) == ("expired", instance_id(done), "1")
    assert int(row["bytes"]) > 1_000
    assert done.folder.exists()
    assert "1 removed" in cli("purge", "--yes")
    assert not done.folder.exists()
    assert len(list((storage / "archive" / "small" / "orders").rglob("*.parquet"))) == 1


def test_purge_leaves_a_running_instance_alone_whatever_its_age(cli, done):
    age(done.folder, 100)
    set_state(done, "running")
    assert "its DAG run has not ended: it stays" in cli("purge", "--yes")
    assert done.folder.exists()


def test_purge_asks_before_it_removes(cli, done, monkeypatch):
    age(done.folder, 8)
    monkeypatch.setattr("builtins.input", lambda *_: "n")
    with pytest.raises(SystemExit, match=r"Nothing was done\."):
        cli("purge")
    assert done.folder.exists()


def test_purge_goes_by_the_retention_of_the_installation(cli, done, monkeypatch):
    age(done.folder, 8)
    monkeypatch.setenv("AIRFLOW__BATCH_PROVIDER__RETENTION_DAYS", "9")
    assert json.loads(cli("purge", "--dry-run", "-o", "json")) == []
    assert len(json.loads(cli("purge", "--dry-run", "-o", "json", "--older-than", "12h"))) == 1


def test_the_purge_operator_asks_airflow_for_the_state_of_runs(run, done, orders, storage):
    age(done.folder, 8)
    other = run("small", orders(1))
    age(other.folder, 8)
    set_state(other, "running")

    purged = run("purging", orders())

    assert purged.state == "success"
    assert (done.folder.exists(), other.folder.exists()) == (False, True)
    returned = purged.xcoms()["purge", "return_value"]
    assert (returned["removed"], returned["archived"]) == (1, 1)
    assert "its DAG run has not ended" in purged.log


@pytest.mark.parametrize(
    ("text", "value"), [("7d", timedelta(days=7)), ("12h", timedelta(hours=12)), (" 5m", timedelta(minutes=5))]
)
def test_durations(text, value):
    assert duration(text) == value


@pytest.mark.parametrize("text", ["", "0d", "-1d", "7", "7w", "1.5h", "1d2h"])
def test_no_durations(text):
    with pytest.raises(InvalidOptionError):
        duration(text)


def test_declaring_the_commands_imports_nothing_heavy():
    """They are declared at every call of ``airflow``, whatever it is for."""
    code = (
        "import sys, airflow.cli.cli_config as _; before = set(sys.modules);"
        "from batch_provider.cli.definition import get_cli_commands; get_cli_commands();"
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "['batch_provider']"

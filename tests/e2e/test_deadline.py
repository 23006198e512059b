"""A deadline under a real scheduler and triggerer: the alert leaves Airflow, and a backfill makes none."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from scripts.local_airflow import LocalAirflow
from tests.unit.notifications.servers import LOGIN, PASSWORD, MailServer, mail_server, make_certificate

log = logging.getLogger(__name__)

pytestmark = pytest.mark.e2e

_DAGS = Path(__file__).parents[1] / "dags_deadline"
_DEADLINE_SECONDS = 10


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def mail(certificate: Path) -> Iterator[MailServer]:
    with mail_server(certificate) as server:
        yield server


@pytest.fixture(scope="module")
def hook() -> Iterator[HTTPServer]:
    with HTTPServer(host="127.0.0.1") as server:
        for path in ("/first", "/second"):
            server.expect_request(path, method="POST").respond_with_data("ok")
        yield server


@pytest.fixture(scope="module")
def airflow(
    tmp_path_factory: pytest.TempPathFactory, mail: MailServer, hook: HTTPServer, certificate: Path
) -> Iterator[LocalAirflow]:
    """An Airflow whose mail connection is in its environment, and whose webhook is one that a person edits."""
    mailbox = {
        "conn_type": "smtp",
        "host": "127.0.0.1",
        "port": mail.port,
        "login": LOGIN,
        "password": PASSWORD,
        "extra": {"from_email": "airflow@example.com", "to": "on-call@example.com"},
    }
    env = {"AIRFLOW_CONN_BATCH_ALERTS": json.dumps(mailbox), "SSL_CERT_FILE": str(certificate)}
    with LocalAirflow(tmp_path_factory.mktemp("airflow"), _DAGS, env=env) as airflow:
        _set_hook(airflow, hook, "/first", new=True)
        airflow.wait_for_dag("daily")
        yield airflow


def _set_hook(airflow: LocalAirflow, hook: HTTPServer, path: str, new: bool = False) -> None:
    body = {"connection_id": "batch_hook", "conn_type": "http", "host": hook.url_for(path)}
    if new:
        airflow.api("POST", "connections", json=body)
    else:
        airflow.api("PATCH", "connections/batch_hook", json=body)


def _wait(find: Callable[[], Any], timeout: float = 40) -> Any:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if found := find():
            return found
        time.sleep(0.1)
    raise AssertionError(f"nothing came within {timeout:g} s")


def _posted(hook: HTTPServer, run_id: str) -> list[tuple[str, dict[str, Any]]]:
    bodies = [(request.path, request.json) for request, _ in hook.log]
    return [(path, body) for path, body in bodies if body["run_id"] == run_id]


def test_a_late_run_is_mailed_and_a_failed_one_too(airflow, mail):
    late = airflow.trigger("late", run_id="the-late-one")
    broken = airflow.trigger("broken", run_id="the-broken-one")
    (text,) = _wait(lambda: [each for each in _texts(mail) if late in each])
    assert text.startswith("Call the port: the-late-one\n")
    assert f"{airflow.url}/dags/late/runs/the-late-one" in text
    due = datetime.fromisoformat(airflow.dag_run("late", late)["run_after"])
    latency = mail.times[_texts(mail).index(text)] - due.timestamp() - _DEADLINE_SECONDS
    log.info("The mail came %.1f s after the deadline.", latency)
    assert 0 <= latency < 20
    texts = _wait(lambda: two if len(two := [each for each in _texts(mail) if broken in each]) == 2 else None)
    assert any(each.startswith("Look at fail.") and "no such column" in each for each in texts)
    assert any("broken: run failed" in each for each in texts)
    assert airflow.wait_for_run("late", late, timeout=40) == "success", "a missed deadline leaves the run alone"


def test_a_backfill_pages_nobody_and_routing_changes_without_a_redeploy(airflow, hook):
    first = airflow.trigger("daily", run_id="by-hand-1")
    assert _wait(lambda: _posted(hook, first))[0][0] == "/first"
    _set_hook(airflow, hook, "/second")
    second = airflow.trigger("daily", run_id="by-hand-2")
    dates = {"from_date": "2026-02-01T00:00:00Z", "to_date": "2026-02-02T00:00:00Z"}
    backfill = airflow.api("POST", "backfills", json={"dag_id": "daily", "max_active_runs": 1} | dates)
    assert _wait(lambda: _posted(hook, second))[0][0] == "/second"
    _wait(lambda: airflow.api("GET", f"backfills/{backfill['id']}")["completed_at"], timeout=60)
    runs = airflow.api("GET", "dags/daily/dagRuns", params={"run_type": "backfill", "limit": 100})["dag_runs"]
    assert [run["state"] for run in runs] == ["success"] * 2
    for run in runs:
        deadlines = airflow.api("GET", f"/ui/dags/daily/dagRuns/{run['dag_run_id']}/deadlines")
        assert deadlines["total_entries"] == 0
        assert not _posted(hook, run["dag_run_id"])


def _texts(mail: MailServer) -> list[str]:
    return [each.get_content().replace("\r\n", "\n") for each in mail.mails]

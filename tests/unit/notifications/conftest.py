"""Contexts as Airflow gives them, and connections as an operator writes them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG

from tests.unit.notifications.servers import MailServer, mail_server, make_certificate

RUN_ID = "scheduled__2026-10-05T00:00:00+00:00"
DEADLINE_ID = "01998d1e-0000-7000-8000-000000000001"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This machine trusts the mail server's certificate."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    return certificate


@pytest.fixture
def mail(trusted: Path) -> Iterator[MailServer]:
    """A mail server with STARTTLS and a login."""
    with mail_server(trusted) as server:
        yield server


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Give Airflow a connection through its environment."""

    def connect(conn_id: str, **fields: Any) -> str:
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))
        return conn_id

    return connect


@pytest.fixture(autouse=True)
def base_url(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.com/")
    return "https://airflow.example.com"


@pytest.fixture(autouse=True)
def every_log_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


@pytest.fixture
def speechless_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own servers log what they are asked for; who looks for secrets must see the product's lines only."""
    for name in ("mail.log", "werkzeug"):
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)


@pytest.fixture
def deadline_context() -> dict[str, Any]:
    """What the scheduler sends to the triggerer when a deadline has passed (Airflow 3.3.2, shortened)."""
    return {
        "dag_run": {
            "dag_run_id": RUN_ID,
            "dag_id": "flights",
            "logical_date": "2026-10-05T00:00:00Z",
            "queued_at": "2026-10-05T00:00:01Z",
            "start_date": "2026-10-05T00:00:02Z",
            "end_date": None,
            "run_after": "2026-10-05T00:00:00Z",
            "run_type": "scheduled",
            "state": "running",
            "conf": {"source": "north"},
        },
        "deadline": {"id": DEADLINE_ID, "deadline_time": "2026-10-05T04:00:00+00:00"},
    }


@pytest.fixture
def task_context() -> dict[str, Any]:
    """What a task's on_failure_callback gets, as far as alerts read it."""
    return {
        "dag": DAG("flights", schedule=None),
        "dag_run": SimpleNamespace(dag_id="flights", run_id=RUN_ID, state="running", run_type="scheduled"),
        "ti": SimpleNamespace(task_id="price.step", map_index=3, state="failed", end_date=None),
        "run_id": RUN_ID,
        "exception": ValueError("no such column"),
    }

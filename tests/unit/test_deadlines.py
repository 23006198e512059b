from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.models import DagRun
from airflow.sdk import DAG
from airflow.sdk.definitions.deadline import DeadlineReference
from airflow.serialization.definitions.deadline import SerializedReferenceModels
from airflow.serialization.serialized_objects import DagSerialization
from airflow.utils.types import DagRunType
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from batch_provider.deadlines import RunAfterUnlessBackfill, batch_deadline
from batch_provider.domain.errors import InvalidOptionError

_DUE = datetime(2026, 10, 5, tzinfo=UTC)


def test_hours_minutes_and_seconds_add_up():
    assert batch_deadline(hours=1, minutes=30, seconds=15).interval == timedelta(hours=1, minutes=30, seconds=15)


def test_an_interval_may_be_given_instead():
    assert batch_deadline(interval=timedelta(days=1)).interval == timedelta(days=1)


def test_the_triggerer_is_told_what_the_dag_says():
    alert = batch_deadline(hours=4, conn_id=["mail", "chat"], name="nightly", message="{{ run_id }}")
    assert alert.name == "nightly"
    assert alert.callback.path == "batch_provider.notifications.notifier.BatchNotifier"
    assert alert.callback.kwargs == {"conn_id": ["mail", "chat"], "name": "nightly", "message": "{{ run_id }}"}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="no time"),
        pytest.param({"hours": 0}, id="no hours"),
        pytest.param({"hours": -1}, id="negative"),
        pytest.param({"hours": 1, "minutes": -60}, id="nothing in sum"),
        pytest.param({"interval": timedelta(0)}, id="an empty interval"),
        pytest.param({"interval": 3600}, id="a number for an interval"),
        pytest.param({"hours": 1, "interval": timedelta(hours=1)}, id="given twice"),
        pytest.param({"hours": 1, "conn_id": ""}, id="no connection"),
        pytest.param({"hours": 1, "conn_id": []}, id="no connections"),
        pytest.param({"hours": 1, "conn_id": ["mail", 7]}, id="a number for a connection"),
        pytest.param({"hours": 1, "name": " "}, id="no name"),
        pytest.param({"hours": 1, "name": "n" * 251}, id="a name too long for Airflow"),
        pytest.param({"hours": 1, "message": "{{ run_id"}, id="a template with an error"),
    ],
)
def test_a_wrong_option_is_named_while_the_dag_is_parsed(options):
    with pytest.raises(InvalidOptionError):
        batch_deadline(**options)


def test_a_dag_takes_one_deadline_or_several():
    warning, alert = batch_deadline(hours=3, name="warning"), batch_deadline(hours=4)
    assert DAG("one", schedule=None, deadline=alert).deadline
    assert DAG("two", schedule=None, deadline=[warning, alert]).deadline == [warning, alert]


def test_airflow_knows_the_reference_through_the_plugin():
    """The scheduler and the API server read it back from the serialised DAG by its registered name."""
    serialised: dict[str, Any] = DagSerialization.to_dict(DAG("d", schedule=None, deadline=batch_deadline(hours=4)))
    (alert,) = serialised["dag"]["deadline"]
    read_back = SerializedReferenceModels.SerializedCustomReference.deserialize_reference(alert["reference"])
    assert isinstance(read_back.inner_ref, RunAfterUnlessBackfill)


def test_it_differs_from_airflows_own_references():
    assert RunAfterUnlessBackfill() == RunAfterUnlessBackfill()
    assert RunAfterUnlessBackfill() != DeadlineReference.DAGRUN_QUEUED_AT


@pytest.fixture
def session():
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        for table in ("log_template", "dag_run"):
            DagRun.metadata.tables[table].create(connection)
    with Session(engine) as session:
        yield session


@pytest.mark.parametrize("kind", [kind for kind in DagRunType if kind != DagRunType.BACKFILL_JOB])
def test_a_run_is_timed_from_the_instant_it_was_due(session, kind):
    assert _evaluate(session, kind) == _DUE


def test_a_backfill_run_has_no_deadline(session):
    assert _evaluate(session, DagRunType.BACKFILL_JOB) is None


def test_an_unknown_run_has_no_deadline(session):
    assert RunAfterUnlessBackfill()._evaluate_with(session=session, dag_id="d", run_id="none") is None


def _evaluate(session: Session, kind: DagRunType) -> datetime | None:
    session.add(DagRun(dag_id="d", run_id="r", run_type=kind, run_after=_DUE, logical_date=None))
    session.flush()
    return RunAfterUnlessBackfill()._evaluate_with(session=session, dag_id="d", run_id="r")

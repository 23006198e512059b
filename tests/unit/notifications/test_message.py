from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from airflow.sdk import TaskInstanceState

from batch_provider.notifications.errors import AlertNotSentError, AlertRefusedError
from batch_provider.notifications.facts import AlertFacts
from batch_provider.notifications.message import compose
from tests.unit.notifications.conftest import RUN_ID


def _message(context, lead=None, base_url=""):
    return compose(AlertFacts.from_context(context, base_url), "batch SLA", lead, lambda text: text)


def test_a_deadline_alert_reads_like_this(deadline_context):
    message = _message(deadline_context, base_url="https://airflow.example.com")
    assert message.text == (
        "batch SLA: the run was not done by 2026-10-05 04:00:00 UTC. It goes on unless somebody ends it.\n"
        "\n"
        "DAG:       flights\n"
        f"Run:       {RUN_ID}\n"
        "State:     running\n"
        "Due from:  2026-10-05 00:00:00 UTC\n"
        "Deadline:  2026-10-05 04:00:00 UTC\n"
        "Look here: https://airflow.example.com/dags/flights/runs/scheduled__2026-10-05T00%3A00%3A00%2B00%3A00\n"
    )


@pytest.mark.parametrize(
    ("state", "subject"),
    [
        ("queued", "batch SLA missed: flights has not started"),
        ("running", "batch SLA missed: flights is still running"),
        ("failed", "batch SLA missed: flights has failed"),
        ("success", "batch SLA missed: flights ended too late"),
        (None, "batch SLA missed: flights is late"),
    ],
)
def test_the_subject_says_what_became_of_the_run(deadline_context, state, subject):
    deadline_context["dag_run"]["state"] = state
    assert _message(deadline_context).subject == subject


@pytest.mark.parametrize(
    ("state", "lead"),
    [
        ("queued", "was not done by 2026-10-05 04:00:00 UTC. It has not started yet."),
        ("running", "was not done by 2026-10-05 04:00:00 UTC. It goes on unless somebody ends it."),
        ("success", "was not done by 2026-10-05 04:00:00 UTC. It has ended since, and succeeded."),
        ("failed", "had to be done by 2026-10-05 04:00:00 UTC, and it has failed."),
        (None, "was not done by 2026-10-05 04:00:00 UTC."),
    ],
)
def test_the_first_line_is_true_of_the_runs_state(deadline_context, state, lead):
    deadline_context["dag_run"]["state"] = state
    assert _message(deadline_context).text.partition("\n")[0] == f"batch SLA: the run {lead}"


def test_a_run_that_failed_before_its_deadline_is_called_so(deadline_context):
    deadline_context["dag_run"] |= {"state": "failed", "end_date": "2026-10-05T01:00:00Z"}
    text = _message(deadline_context).text
    assert "and it has failed" in text
    assert "Ended:     2026-10-05 01:00:00 UTC" in text


def test_an_instant_may_be_a_datetime(deadline_context):
    deadline_context["deadline"]["deadline_time"] = datetime(2026, 10, 5, 4, tzinfo=UTC)
    assert _message(deadline_context).fields["deadline"] == "2026-10-05T04:00:00+00:00"


def test_without_a_base_url_there_is_no_link(deadline_context):
    message = _message(deadline_context)
    assert "Look here" not in message.text
    assert "url" not in message.fields


def test_the_fields_are_json(deadline_context, task_context):
    for context in (deadline_context, task_context):
        assert json.loads(json.dumps(_message(context).fields))["dag_id"] == "flights"


def test_the_authors_lines_come_first_and_the_facts_stay(deadline_context):
    text = _message(deadline_context, lead="Call the port.").text
    assert text.startswith("Call the port.\n\nDAG:       flights\n")


def test_a_subject_is_one_line(deadline_context):
    deadline_context["dag_run"]["dag_id"] = "a\r\nBcc: everybody@example.com"
    assert _message(deadline_context).subject == "batch SLA missed: a Bcc: everybody@example.com is still running"


def test_a_task_that_will_be_retried_says_so(task_context):
    task_context["ti"].state = TaskInstanceState.UP_FOR_RETRY
    assert _message(task_context).subject == "flights.price.step[3] failed and will be retried"


def test_a_task_that_speaks_for_itself_gives_the_alert_its_name(task_context):
    task_context["ti"].state = TaskInstanceState.RUNNING
    assert _message(task_context).subject == "batch SLA: flights.price.step[3]"


def test_a_task_that_is_not_mapped_has_no_index(task_context):
    task_context["ti"].map_index = -1
    message = _message(task_context)
    assert message.subject == "flights.price.step failed"
    assert "map_index" not in message.fields


def test_a_long_error_is_cut(task_context):
    task_context["exception"] = ValueError("x" * 10_000)
    assert len(_message(task_context).text) < 1_000


def test_a_dag_callback_is_about_the_run(task_context):
    task_context["reason"] = "task_failure"
    task_context["dag_run"].state = "failed"
    message = _message(task_context)
    assert (message.subject, message.fields["event"]) == ("flights: run failed", "dag_run")
    assert "task_id" not in message.fields


def test_a_dag_callback_may_know_next_to_nothing():
    context = {"dag": SimpleNamespace(dag_id="flights"), "run_id": RUN_ID, "reason": "timed_out"}
    message = _message(context)
    assert message.subject == "flights: run timed_out"
    assert RUN_ID in message.text


def test_errors_cross_process_borders():
    for error in (AlertRefusedError("The webhook", "no"), AlertNotSentError("s", ["a"], ["b: c"])):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy)) == (type(error), str(error))

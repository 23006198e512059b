from __future__ import annotations

import asyncio
import logging
import time

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from batch_provider.domain.errors import InvalidOptionError
from batch_provider.notifications.errors import AlertNotSentError
from batch_provider.notifications.notifier import BatchNotifier
from tests.unit.notifications.conftest import DEADLINE_ID, RUN_ID
from tests.unit.notifications.servers import LOGIN, PASSWORD

_TOKEN = "T0KEN-of-the-webhook"
_PATH = "/services/s3cret-path"


@pytest.fixture
def mailbox(mail, connect):
    """A connection to the mail server, as docs/alerts.md writes it."""
    extra = {"from_email": "airflow@example.com", "to": ["on-call@example.com", "lead@example.com"]}
    connect("mail", conn_type="smtp", host="127.0.0.1", port=mail.port, login=LOGIN, password=PASSWORD, extra=extra)
    return mail


@pytest.fixture
def hook(httpserver, connect):
    """A connection to the webhook; its path is a secret, as that of a chat webhook is."""
    host = httpserver.url_for(_PATH)
    connect("hook", conn_type="http", host=host, password=_TOKEN, extra={"max_attempts": 3, "timeout": 1})
    return httpserver


def _late(context, **options):
    """Send a deadline's alert as the triggerer does."""

    async def call():
        await BatchNotifier(**options, context=context)

    asyncio.run(call())


def test_a_missed_deadline_reaches_the_mailbox(mailbox, deadline_context):
    _late(deadline_context, conn_id="mail")
    (mail,) = mailbox.mails
    assert mail["Subject"] == "batch SLA missed: flights is still running"
    assert mail["To"] == "on-call@example.com, lead@example.com"
    assert mail["From"] == "airflow@example.com"
    assert mailbox.envelopes[0].rcpt_tos == ["on-call@example.com", "lead@example.com"]
    text = mail.get_content()
    for fact in ("flights", RUN_ID, "running", "2026-10-05 04:00:00 UTC"):
        assert fact in text
    assert "https://airflow.example.com/dags/flights/runs/scheduled__2026-10-05T00%3A00%3A00%2B00%3A00" in text


def test_the_mail_travels_encrypted_after_a_login(mailbox, deadline_context):
    _late(deadline_context, conn_id="mail")
    (session,) = mailbox.sessions
    assert session.ssl is not None
    assert session.authenticated


def test_a_missed_deadline_reaches_the_webhook(hook, deadline_context):
    hook.expect_ordered_request(_PATH, method="POST").respond_with_data("ok")
    _late(deadline_context, conn_id="hook")
    ((request, _),) = hook.log
    body = request.json
    assert request.headers["Authorization"] == f"Bearer {_TOKEN}"
    assert body["event"] == "deadline_missed"
    assert (body["dag_id"], body["run_id"], body["state"]) == ("flights", RUN_ID, "running")
    assert (body["deadline"], body["deadline_id"]) == ("2026-10-05T04:00:00+00:00", DEADLINE_ID)
    assert body["subject"] in body["text"] or body["name"] in body["text"]


def test_several_connections_are_all_served(mailbox, hook, deadline_context):
    hook.expect_request(_PATH).respond_with_data("ok")
    _late(deadline_context, conn_id=["mail", "hook"])
    assert (len(mailbox.mails), len(hook.log)) == (1, 1)


def test_one_dead_connection_does_not_silence_the_others(mailbox, connect, deadline_context):
    connect("dead", conn_type="http", host="http://127.0.0.1:1", extra={"max_attempts": 1})
    with pytest.raises(AlertNotSentError) as caught:
        _late(deadline_context, conn_id=["dead", "none", "mail"])
    assert caught.value.reached == ("mail",)
    assert len(caught.value.problems) == 2
    assert len(mailbox.mails) == 1


def test_a_task_callback_sends_too(mailbox, hook, task_context):
    hook.expect_request(_PATH).respond_with_data("ok")
    BatchNotifier(conn_id=["mail", "hook"])(task_context)
    (mail,) = mailbox.mails
    assert mail["Subject"] == "flights.price.step[3] failed"
    assert "ValueError: no such column" in mail.get_content()
    assert hook.log[0][0].json["task_id"] == "price.step"


def test_a_callback_sends_even_where_an_event_loop_runs(mailbox, task_context):
    async def call():
        BatchNotifier(conn_id="mail")(task_context)

    asyncio.run(call())
    assert len(mailbox.mails) == 1


def test_a_failed_callback_is_logged_and_never_raised(connect, task_context, caplog):
    connect("dead", conn_type="http", host="http://127.0.0.1:1", extra={"max_attempts": 1})
    BatchNotifier(conn_id=["dead", "none"])(task_context)
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "reached nobody" in record.message
    assert "127.0.0.1:1" in record.message
    assert "none" in record.message


def test_trouble_of_the_webhook_is_waited_out(hook, deadline_context):
    hook.expect_ordered_request(_PATH).respond_with_data("busy", status=503)
    hook.expect_ordered_request(_PATH).respond_with_data("ok")
    _late(deadline_context, conn_id="hook")
    assert [response.status_code for _, response in hook.log] == [503, 200]


def test_a_refusal_is_not_repeated(hook, deadline_context):
    hook.expect_request(_PATH).respond_with_data("no", status=400)
    with pytest.raises(AlertNotSentError, match="answered 400"):
        _late(deadline_context, conn_id="hook")
    assert len(hook.log) == 1


def test_tries_are_bounded(hook, deadline_context):
    hook.expect_request(_PATH).respond_with_data("busy", status=500)
    with pytest.raises(AlertNotSentError, match="answered 500"):
        _late(deadline_context, conn_id="hook")
    assert len(hook.log) == 3


def test_a_redirect_is_not_followed(hook, deadline_context):
    hook.expect_request(_PATH).respond_with_data("", status=307, headers={"Location": "/elsewhere"})
    with pytest.raises(AlertNotSentError, match="answered 307"):
        _late(deadline_context, conn_id="hook")
    assert len(hook.log) == 1


def test_a_refused_connection_is_tried_again(connect, deadline_context, caplog):
    connect("dead", conn_type="http", host="http://127.0.0.1:1", extra={"max_attempts": 2})
    with pytest.raises(AlertNotSentError, match="cannot take the alert now: no connection"):
        _late(deadline_context, conn_id="dead")
    assert sum("Alert, try 1:" in record.message for record in caplog.records) == 1


def test_a_slow_server_does_not_hold_the_alert_for_ever(connect, deadline_context):
    def slow(request: Request) -> Response:
        time.sleep(1)
        return Response("ok")

    with HTTPServer() as server:
        server.expect_request("/slow").respond_with_handler(slow)
        connect("slow", conn_type="http", host=server.url_for("/slow"), extra={"timeout": 0.2, "max_attempts": 1})
        with pytest.raises(AlertNotSentError, match="cannot take the alert now"):
            _late(deadline_context, conn_id="slow")


def test_an_unknown_connection_is_named(deadline_context):
    with pytest.raises(AlertNotSentError, match="'nobody' cannot be used: Airflow knows no such connection"):
        _late(deadline_context, conn_id="nobody")


def test_the_message_sees_the_deadline_and_the_run(hook, deadline_context):
    hook.expect_request(_PATH).respond_with_data("ok")
    message = "{{ dag_run.conf.source }} of {{ run_id }} = {{ dag_run.run_id }}, by {{ deadline.deadline_time }}"
    _late(deadline_context, conn_id="hook", message=message)
    lead = hook.log[0][0].json["text"].splitlines()[0]
    assert lead == f"north of {RUN_ID} = {RUN_ID}, by 2026-10-05T04:00:00+00:00"


def test_the_same_message_serves_a_task_callback(hook, task_context):
    hook.expect_request(_PATH).respond_with_data("ok")
    BatchNotifier(conn_id="hook", message="{{ dag_id }}/{{ dag_run.run_id }}/{{ ti.task_id }}")(task_context)
    assert hook.log[0][0].json["text"].splitlines()[0] == f"flights/{RUN_ID}/price.step"


def test_a_template_that_fails_does_not_stop_the_alert(hook, deadline_context):
    hook.expect_request(_PATH).respond_with_data("ok")
    _late(deadline_context, conn_id="hook", message="{{ deadline.a.b.c }}")
    text = hook.log[0][0].json["text"]
    assert "The message template cannot be rendered" in text
    assert RUN_ID in text


def test_a_template_cannot_reach_into_python(hook, deadline_context):
    hook.expect_request(_PATH).respond_with_data("ok")
    _late(deadline_context, conn_id="hook", message="{{ ''.__class__.__mro__ }}")
    assert "The message template cannot be rendered" in hook.log[0][0].json["text"]


@pytest.mark.usefixtures("speechless_servers")
def test_no_secret_is_logged(mailbox, hook, connect, deadline_context, task_context, monkeypatch, caplog, capfd):
    hook.expect_ordered_request(_PATH).respond_with_data(_TOKEN, status=503)
    hook.expect_ordered_request(_PATH).respond_with_data(_TOKEN, status=403)
    extra = {"from_email": "a@example.com", "to": "b@example.com"}
    connect(
        "bad_login",
        conn_type="smtp",
        host="127.0.0.1",
        port=mailbox.port,
        login=LOGIN,
        password="wr0ng-pass",
        extra=extra,
    )
    connect("bad", conn_type="http", host=f"http://u:{PASSWORD}@example.com/{_PATH}")
    connect("newline", conn_type="http", host=hook.url_for(_PATH), password=f"{_TOKEN}\n")
    monkeypatch.setenv("AIRFLOW_CONN_BROKEN", f"http://u:{PASSWORD}@[broken")
    with pytest.raises(AlertNotSentError) as caught:
        _late(deadline_context, conn_id=["mail", "hook", "bad_login", "bad", "newline", "broken"])
    assert len(caught.value.problems) == 5
    BatchNotifier(conn_id=["mail", "hook", "bad"])(task_context)
    output = capfd.readouterr()
    seen = "\n".join([*(record.getMessage() for record in caplog.records), str(caught.value), output.out, output.err])
    assert "Alert, try 1:" in seen
    for secret in (_TOKEN, "s3cret-path", PASSWORD, "wr0ng-pass"):
        assert secret not in seen


def test_a_secret_in_the_error_is_masked_in_the_alert(mailbox, hook, task_context):
    hook.expect_request(_PATH).respond_with_data("ok")
    task_context["exception"] = ValueError(f"cannot log in with {PASSWORD}")
    BatchNotifier(conn_id=["mail", "hook"])(task_context)
    body = hook.log[0][0].json
    assert "cannot log in with ***" in body["text"]
    assert PASSWORD not in str(body)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"conn_id": []}, id="no connection"),
        pytest.param({"conn_id": " "}, id="an empty connection"),
        pytest.param({"message": "{% if %}"}, id="a template with an error"),
    ],
)
def test_a_wrong_option_is_named_at_once(options):
    with pytest.raises(InvalidOptionError):
        BatchNotifier(**options)

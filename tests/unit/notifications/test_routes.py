from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import pytest

from batch_provider.notifications.errors import AlertConnectionError, AlertRefusedError
from batch_provider.notifications.message import Message
from batch_provider.notifications.routes import Security, SmtpRoute, WebhookRoute, route_of
from batch_provider.notifications.webhook import post

_MAIL = {"from_email": "airflow@example.com", "to": "on-call@example.com"}


@dataclass
class _Connection:
    conn_type: str | None = "smtp"
    host: str | None = "mail.example.com"
    schema: str | None = None
    login: str | None = None
    password: str | None = None
    port: int | None = None
    extra: str | None = None


def _smtp(port: int | None = None, **extra: Any) -> SmtpRoute:
    route = route_of("c", _Connection(port=port, extra=json.dumps(_MAIL | extra)))
    assert isinstance(route, SmtpRoute)
    return route


def _webhook(host: str | None, extra: dict[str, Any] | None = None, **fields: Any) -> WebhookRoute:
    route = route_of("c", _Connection("http", host, extra=json.dumps(extra or {}), **fields))
    assert isinstance(route, WebhookRoute)
    return route


@pytest.mark.parametrize(
    ("port", "extra", "security"),
    [
        (None, {}, Security.STARTTLS),
        (587, {}, Security.STARTTLS),
        (465, {}, Security.IMPLICIT_TLS),
        (25, {"starttls": False}, Security.NONE),
        (465, {"starttls": False}, Security.IMPLICIT_TLS),
        (25, {"starttls": "true"}, Security.STARTTLS),
        (587, {"disable_ssl": True}, Security.STARTTLS),
        (2465, {"disable_tls": True}, Security.IMPLICIT_TLS),
        (25, {"disable_tls": True, "disable_ssl": True}, Security.NONE),
    ],
)
def test_mail_is_encrypted_unless_the_connection_says_otherwise(port, extra, security):
    assert _smtp(port, **extra).security is security


def test_the_usual_port_is_taken():
    assert _smtp().port == 587
    assert _smtp(disable_tls=True).port == 465


def test_recipients_are_a_list_or_a_text():
    assert _smtp(to="a@x.org; b@x.org,c@x.org").recipients == ("a@x.org", "b@x.org", "c@x.org")
    assert _smtp(to=["a@x.org", "b@x.org"]).recipients == ("a@x.org", "b@x.org")


@pytest.mark.parametrize(
    ("host", "fields", "extra", "address"),
    [
        ("https://h.example.com/a/b?c=d", {}, {}, ("https://h.example.com", "/a/b?c=d")),
        ("h.example.com", {}, {}, ("http://h.example.com", "/")),
        ("h.example.com", {"schema": "https", "port": 8443}, {}, ("https://h.example.com:8443", "/")),
        ("h.example.com/base/", {}, {"endpoint": "/hook"}, ("http://h.example.com", "/base/hook")),
        ("http://[::1]:8080/x", {}, {}, ("http://[::1]:8080", "/x")),
        ("http://h.example.com/ü b", {}, {}, ("http://h.example.com", "/%C3%BC%20b")),
    ],
)
def test_an_address_is_read_as_airflows_http_hook_reads_it(host, fields, extra, address):
    route = _webhook(host, extra, **fields)
    assert (route.origin, route.target) == address


def test_a_generic_connection_with_a_whole_address_is_a_webhook():
    """That is what Airflow's command line makes of `--conn-type http` where the HTTP provider is missing."""
    route = route_of("c", _Connection("generic", "https://h.example.com/hook"))
    assert isinstance(route, WebhookRoute)
    assert (route.origin, route.target) == ("https://h.example.com", "/hook")


def test_an_address_that_cannot_be_written_is_refused_at_once():
    with pytest.raises(AlertRefusedError, match="the request cannot be written"):
        _post(WebhookRoute(conn_id="c", origin="http://exam\nple.com", target="/"))


def test_a_password_without_a_login_is_a_bearer_token():
    assert _webhook("h", password="pw").headers == {"Authorization": "Bearer pw"}
    assert _webhook("h", login="me", password="pw").credentials == ("me", "pw")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        pytest.param({"conn_type": "slack"}, "use smtp for e-mail, and http", id="another type"),
        pytest.param({"conn_type": None}, "use smtp for e-mail, and http", id="no type"),
        pytest.param({"conn_type": "generic"}, "a whole address as host", id="a generic one"),
        pytest.param({"extra": '{"from_email": "a@x.org"}'}, "to is missing in its extra", id="nobody to write to"),
        pytest.param({"extra": '{"to": "b@x.org"}'}, "from_email is missing", id="no sender"),
        pytest.param({"extra": json.dumps(_MAIL | {"to": 7})}, "to in its extra must be", id="a number"),
        pytest.param({"extra": json.dumps(_MAIL | {"to": "oncall"})}, "is not an e-mail address", id="no address"),
        pytest.param({"extra": json.dumps(_MAIL | {"starttls": "no"})}, "starttls in its extra must", id="no flag"),
        pytest.param({"extra": json.dumps(_MAIL | {"auth_type": "oauth2"})}, "auth_type", id="oauth2"),
        pytest.param({"extra": json.dumps(_MAIL | {"timeout": "soon"})}, "timeout must be", id="no number"),
        pytest.param({"extra": json.dumps(_MAIL | {"max_attempts": 0})}, "max_attempts", id="no try"),
        pytest.param({"extra": "[1]"}, "is not a JSON object", id="a list"),
        pytest.param({"extra": "{"}, "is not a JSON object", id="no JSON"),
        pytest.param({"host": None, "extra": json.dumps(_MAIL)}, "it has no host", id="no mail server"),
        pytest.param({"conn_type": "http", "host": None}, "it has no host", id="no address"),
        pytest.param({"conn_type": "http", "host": "file:///etc/passwd"}, "not http or https", id="a file"),
        pytest.param({"conn_type": "http", "host": "ftp://h"}, "not http or https", id="ftp"),
        pytest.param({"conn_type": "http", "host": "h", "schema": "s3cret"}, "not http or https", id="a path"),
        pytest.param({"conn_type": "http", "host": "http://u:s3cret@h"}, "as login and password", id="a login"),
        pytest.param({"conn_type": "http", "host": "h", "extra": '{"headers": "x"}'}, "headers", id="no headers"),
        pytest.param({"conn_type": "http", "host": "h", "password": "s3cret\n"}, "a line break", id="a line break"),
        pytest.param({"conn_type": "http", "host": "h", "extra": '{"fields": "x"}'}, "fields", id="no fields"),
    ],
)
def test_a_wrong_connection_says_what_is_wrong(fields, reason):
    with pytest.raises(AlertConnectionError) as caught:
        route_of("alerts", _Connection(**fields))
    assert "'alerts'" in str(caught.value)
    assert reason in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_route_does_not_show_its_secrets():
    shown = repr(_webhook("https://h/s3cret", {"headers": {"X-Key": "s3cret"}}, login="u", password="s3cret"))
    assert "s3cret" not in shown
    assert "s3cret" not in repr(route_of("c", _Connection(password="s3cret", extra=json.dumps(_MAIL))))


def _post(route: WebhookRoute) -> None:
    asyncio.run(post(route, Message("s", "t", {"text": "t", "dag_id": "d"})))


@pytest.mark.parametrize(
    "host",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[fe80::1]/",
        "http://[::ffff:169.254.169.254]/",
        "http://[fd00:ec2::254]/",
        "http://100.100.100.200/",
    ],
)
def test_the_addresses_where_clouds_keep_credentials_are_never_called(host):
    with pytest.raises(AlertRefusedError, match="link-local"):
        _post(_webhook(host))


def test_what_a_name_leads_to_is_checked_before_anything_is_sent(httpserver, monkeypatch):
    """This machine has no link-local server, so loopback is declared forbidden."""
    from ipaddress import ip_address

    from batch_provider.notifications import webhook

    monkeypatch.setattr(webhook, "_METADATA", frozenset({ip_address("127.0.0.1"), ip_address("::1")}))
    with pytest.raises(AlertRefusedError, match="link-local"):
        _post(_webhook(f"http://localhost:{httpserver.port}/hook"))
    assert httpserver.log == []
    httpserver.expect_request("/hook").respond_with_data("ok")
    _post(_webhook(f"http://localhost:{httpserver.port}/hook", {"allow_link_local": True}))
    assert len(httpserver.log) == 1


def test_a_webhook_on_a_private_network_is_called(httpserver):
    httpserver.expect_request("/").respond_with_data("ok")
    _post(_webhook(f"http://127.0.0.1:{httpserver.port}"))
    assert httpserver.log[0][0].json == {"text": "t", "dag_id": "d"}


def test_a_chat_that_knows_only_text_gets_only_text(httpserver):
    httpserver.expect_request("/").respond_with_data("ok")
    _post(_webhook(httpserver.url_for("/"), {"fields": ["text"]}, login="me", password="pw"))
    assert httpserver.log[0][0].json == {"text": "t"}
    assert httpserver.log[0][0].authorization.password == "pw"

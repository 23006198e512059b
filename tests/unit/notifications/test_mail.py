from __future__ import annotations

import asyncio
import gc

import pytest

from batch_provider.notifications.delivery import deliver
from batch_provider.notifications.errors import AlertRefusedError, AlertUndeliveredError
from batch_provider.notifications.message import Message
from batch_provider.notifications.routes import Patience, Security, SmtpRoute
from tests.unit.notifications.servers import LOGIN, PASSWORD, mail_server, silent_server

_MESSAGE = Message("Late: 航班", "Naïve text\n", {})


def _route(port, **changes):
    facts = {
        "conn_id": "mail",
        "host": "127.0.0.1",
        "port": port,
        "sender": "airflow@example.com",
        "recipients": ("on-call@example.com",),
        "security": Security.STARTTLS,
        "login": LOGIN,
        "password": PASSWORD,
        "patience": Patience(timeout=5, max_attempts=2),
    }
    return SmtpRoute(**(facts | changes))


def _send(route):
    asyncio.run(deliver(route, _MESSAGE))


def test_any_script_arrives_as_it_was_written(mail):
    _send(_route(mail.port))
    assert mail.mails[0]["Subject"] == "Late: 航班"
    assert mail.mails[0].get_content().splitlines() == ["Naïve text"]
    assert mail.mails[0]["Auto-Submitted"] == "auto-generated"


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")  # aiosmtpd sees only STARTTLS as TLS
def test_tls_from_the_first_byte(trusted):
    with mail_server(trusted, implicit_tls=True) as server:
        _send(_route(server.port, security=Security.IMPLICIT_TLS))
        assert len(server.mails) == 1


def test_without_encryption_only_if_the_connection_says_so(trusted):
    with mail_server(trusted, plain=True) as server:
        with pytest.raises(AlertRefusedError, match="does not offer"):
            _send(_route(server.port))
        _send(_route(server.port, security=Security.NONE, login=None, password=None))
        assert len(server.mails) == 1


def test_a_certificate_nobody_vouches_for_is_refused(certificate):
    with mail_server(certificate) as server:
        with pytest.raises(AlertRefusedError, match="certificate is not trusted"):
            _send(_route(server.port))
        _send(_route(server.port, check_certificate=False))
        assert len(server.mails) == 1


def test_a_wrong_password_is_not_tried_twice(mail, caplog):
    with pytest.raises(AlertRefusedError, match="the login was refused"):
        _send(_route(mail.port, password="wrong"))
    assert "Alert, try" not in caplog.text


def test_a_busy_server_is_asked_again(mail):
    mail.answers = ["451 Try again later"]
    _send(_route(mail.port))
    assert len(mail.mails) == 1


def test_a_refused_mail_is_not_sent_again(mail, caplog):
    mail.answers = ["554 No spam please"]
    with pytest.raises(AlertRefusedError, match="code 554"):
        _send(_route(mail.port))
    assert "Alert, try" not in caplog.text


def test_no_connection_is_left_to_a_server_that_says_no_farewell(trusted):
    """TLS would wait 30 s for it, in an event loop that has ended by then; a connection left open is a warning."""
    with silent_server(trusted, b"554 Go away\r\n") as port:
        with pytest.raises(AlertRefusedError, match="code 554"):
            _send(_route(port, security=Security.IMPLICIT_TLS))
        gc.collect()


def test_an_absent_server_is_tried_as_often_as_allowed(caplog):
    with pytest.raises(AlertUndeliveredError, match=r"mail server 127\.0\.0\.1:1 "):
        _send(_route(1))
    assert caplog.text.count("Alert, try 1:") == 1

"""E-mail, through aiosmtplib: the library below the async hook of Airflow's SMTP provider.

The hook itself (3.2.0) cannot be used here: with STARTTLS it asks for TLS twice and fails with "Connection already
using TLS", and it reads the connection's extra in a way that the triggerer forbids.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from email.message import EmailMessage
from email.utils import localtime, make_msgid
from typing import Any

import aiosmtplib

from batch_provider.notifications.errors import AlertRefusedError, AlertUndeliveredError
from batch_provider.notifications.message import Message
from batch_provider.notifications.routes import Security, SmtpRoute


async def send_mail(route: SmtpRoute, message: Message) -> None:
    """Hand one e-mail to the mail server.

    A login is never sent in the clear to another machine's server by accident: without a word in the connection the
    server must offer STARTTLS, with a certificate that this machine trusts.

    Raises:
        AlertUndeliveredError: if the server cannot be reached or answers 4xx: try later.
        AlertRefusedError: if it refuses the login, the addresses or the mail.
    """
    client = _Client(
        hostname=route.host,
        port=route.port,
        use_tls=route.security is Security.IMPLICIT_TLS,
        start_tls=route.security is Security.STARTTLS,
        tls_context=_tls_context(route),
        timeout=route.patience.timeout,
    )
    try:
        await _hand_over(client, route, _mail(route, message))
    except (aiosmtplib.SMTPException, OSError) as error:
        raise _explained(route, error) from None


class _Client(aiosmtplib.SMTP):
    """A client whose closing is the end: TLS says farewell for longer than the event loop of a callback lives.

    aiosmtplib closes by itself when the server refuses it, a login or a greeting, so closing is where it must end.
    """

    def close(self) -> None:
        """Close the connection, and wait for no farewell of the server's."""
        connection: Any = self.transport
        super().close()
        if connection is not None:
            connection.abort()


async def _hand_over(client: _Client, route: SmtpRoute, mail: EmailMessage) -> None:
    try:
        await client.connect()
        if route.login:
            await client.login(route.login, route.password or "")
        await client.send_message(mail)
        with suppress(aiosmtplib.SMTPException, OSError):  # the mail is handed over already
            await client.quit()
    finally:
        client.close()
        await asyncio.sleep(0)  # the connection goes in the loop's next turn


def _mail(route: SmtpRoute, message: Message) -> EmailMessage:
    mail = EmailMessage()
    mail["Subject"] = message.subject
    mail["From"] = route.sender
    mail["To"] = ", ".join(route.recipients)
    mail["Date"] = localtime()
    mail["Message-ID"] = make_msgid(domain=route.sender.rpartition("@")[2])
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
    mail.set_content(message.text)
    return mail


def _tls_context(route: SmtpRoute) -> ssl.SSLContext | None:
    if route.security is Security.NONE:
        return None
    context = ssl.create_default_context()
    if not route.check_certificate:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _explained(route: SmtpRoute, error: Exception) -> AlertRefusedError | AlertUndeliveredError:
    """Say it without the server's own text, which may repeat what it was sent."""
    certificate = _certificate_error(error)
    if certificate is not None:
        return AlertRefusedError(route.label, f"its certificate is not trusted: {certificate.verify_message}.")
    if isinstance(error, aiosmtplib.SMTPAuthenticationError) and error.code >= 500:
        return AlertRefusedError(route.label, f"the login was refused (code {error.code}).")
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        codes = sorted({refused.code for refused in error.recipients})
        return _by_code(route, max(codes, default=550), "every recipient was refused")
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return _by_code(route, error.code, f"{type(error).__name__}")
    if isinstance(error, aiosmtplib.SMTPNotSupported) or type(error) is aiosmtplib.SMTPException:
        reason = "it does not offer what the connection demands (STARTTLS or a login)."
        return AlertRefusedError(route.label, reason)
    return AlertUndeliveredError(route.label, f"{type(error).__name__}.")


def _by_code(route: SmtpRoute, code: int, what: str) -> AlertRefusedError | AlertUndeliveredError:
    kind = AlertRefusedError if code >= 500 else AlertUndeliveredError
    return kind(route.label, f"{what} (code {code}).")


def _certificate_error(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error
        error = error.__cause__ or error.__context__
    return None

"""From an Airflow connection to an address, checked, so that a mistake in it is named before anything is sent."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from batch_provider.notifications.errors import AlertConnectionError

_IMPLICIT_TLS_PORT = 465
_RESERVED = ":/?#[]@!$&'()*+,;=%~"
_ADDRESS = re.compile(r"[^@\s,;]+@[^@\s,;]+")


class AirflowConnection(Protocol):
    """What is read of a connection; Airflow has two classes for it, of its core and of its SDK."""

    conn_type: str | None
    host: str | None
    schema: str | None
    login: str | None
    password: str | None
    port: int | None
    extra: str | None


class Security(Enum):
    """How a connection to a mail server is protected."""

    STARTTLS = "starttls"
    IMPLICIT_TLS = "tls from the first byte"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long one address is tried."""

    timeout: float = 10.0
    """Seconds for one try."""
    max_attempts: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SmtpRoute:
    """A mail server, and who gets the mail."""

    conn_id: str
    host: str
    port: int
    sender: str
    recipients: tuple[str, ...]
    security: Security
    login: str | None = None
    password: str | None = field(default=None, repr=False)
    check_certificate: bool = True
    patience: Patience = Patience()

    @property
    def label(self) -> str:
        """The server, for logs and errors."""
        return f"The mail server {self.host}:{self.port} (connection {self.conn_id!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookRoute:
    """The address of a webhook."""

    conn_id: str
    origin: str
    """Scheme, host and port: what may be shown."""
    target: str = field(repr=False)
    """Path and query, which are the secret of many chat webhooks."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    credentials: tuple[str, str] | None = field(default=None, repr=False)
    only_fields: tuple[str, ...] | None = None
    allow_link_local: bool = False
    patience: Patience = Patience()

    @property
    def label(self) -> str:
        """The server, for logs and errors."""
        return f"The webhook at {self.origin} (connection {self.conn_id!r})"


Route = SmtpRoute | WebhookRoute


def route_of(conn_id: str, connection: AirflowConnection) -> Route:
    """Read where an alert goes.

    Raises:
        AlertConnectionError: if something is missing or wrong; it says what, and never a value that may be secret.
    """
    try:
        extra = _extra(connection)
        if connection.conn_type == "smtp":
            return _smtp(conn_id, connection, extra)
        if connection.conn_type in ("http", "https") or _is_address(connection):
            return _webhook(conn_id, connection, extra)
    except ValueError as error:
        raise AlertConnectionError(conn_id, str(error)) from None
    found = f"its type is {connection.conn_type!r}"
    advice = "use smtp for e-mail, and http, or generic with a whole address as host, for a webhook."
    raise AlertConnectionError(conn_id, f"{found}; {advice}")


def _is_address(connection: AirflowConnection) -> bool:
    """Tell a webhook in a generic connection: without the HTTP provider Airflow's form and CLI make only those."""
    return connection.conn_type == "generic" and "://" in (connection.host or "")


def _extra(connection: AirflowConnection) -> Mapping[str, Any]:
    """Read the extra; Airflow has told its masker of it already, when it handed out the connection."""
    try:
        extra = json.loads(connection.extra or "{}")
    except ValueError:
        extra = None
    if not isinstance(extra, dict):
        raise ValueError("its extra is not a JSON object.")
    return extra


def _smtp(conn_id: str, connection: AirflowConnection, extra: Mapping[str, Any]) -> SmtpRoute:
    if not connection.host:
        raise ValueError("it has no host.")
    if extra.get("auth_type", "basic") != "basic":
        raise ValueError("auth_type in its extra may only be basic: login and password.")
    recipients = _addresses("to", extra.get("to"))
    sender = _addresses("from_email", extra.get("from_email") or connection.login)
    security = _security(connection.port, extra)
    standard_port = _IMPLICIT_TLS_PORT if security is Security.IMPLICIT_TLS else 587
    return SmtpRoute(
        conn_id=conn_id,
        host=connection.host,
        port=connection.port or standard_port,
        sender=sender[0],
        recipients=recipients,
        security=security,
        login=connection.login or None,
        password=connection.password or None,
        check_certificate=extra.get("ssl_context") != "none",
        patience=_patience(extra),
    )


def _security(port: int | None, extra: Mapping[str, Any]) -> Security:
    """Choose the protection: encrypted, unless the connection says otherwise.

    `starttls` is ours; `disable_tls` (no STARTTLS) and `disable_ssl` (no TLS from the first byte) are the flags of
    Airflow's own SMTP connections, so that those serve here as well.
    """
    without_starttls = Security.IMPLICIT_TLS if port == _IMPLICIT_TLS_PORT else Security.NONE
    starttls = _flag("starttls", extra)
    if starttls is not None:
        return Security.STARTTLS if starttls else without_starttls
    if _flag("disable_tls", extra):
        return Security.NONE if _flag("disable_ssl", extra) else Security.IMPLICIT_TLS
    return without_starttls if port == _IMPLICIT_TLS_PORT else Security.STARTTLS


def _webhook(conn_id: str, connection: AirflowConnection, extra: Mapping[str, Any]) -> WebhookRoute:
    headers = extra.get("headers") or {}
    if not isinstance(headers, Mapping) or not all(isinstance(value, str) for value in headers.values()):
        raise ValueError("headers in its extra must be an object of texts.")
    fields = extra.get("fields")
    if fields is not None and not (isinstance(fields, list) and all(isinstance(name, str) for name in fields)):
        raise ValueError('fields in its extra must be a list of names, for example ["text"].')
    if not connection.login and connection.password:
        headers = {"Authorization": f"Bearer {connection.password}", **headers}
    if not all(value.isprintable() and value.isascii() for value in headers.values()):
        raise ValueError("its password or headers hold a line break or a letter that HTTP does not allow.")
    origin, target = _address(connection, str(extra.get("endpoint") or ""))
    return WebhookRoute(
        conn_id=conn_id,
        origin=origin,
        target=target,
        headers=dict(headers),
        credentials=(connection.login, connection.password or "") if connection.login else None,
        only_fields=None if fields is None else tuple(fields),
        allow_link_local=_flag("allow_link_local", extra) or False,
        patience=_patience(extra),
    )


def _address(connection: AirflowConnection, endpoint: str) -> tuple[str, str]:
    """Put the address together as Airflow's HTTP hook does: a whole URL as host, or host, schema and port."""
    host = connection.host or ""
    url = urlsplit(host if "://" in host else f"{connection.schema or 'http'}://{host}")
    if url.scheme not in ("http", "https"):
        reason = "its scheme is not http or https; a path belongs to the host or to endpoint in its extra."
        raise ValueError(reason)  # without the scheme: in a connection URI it is the path, perhaps a secret one
    if not url.hostname:
        raise ValueError("it has no host.")
    if url.username or url.password:
        raise ValueError("user and password stand in its host; give them as login and password.")
    name = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    port = connection.port or url.port
    origin = f"{url.scheme}://{name}" + (f":{port}" if port else "")
    path = f"{url.path.rstrip('/')}/{endpoint.lstrip('/')}" if endpoint else url.path or "/"
    target = path + (f"?{url.query}" if url.query else "")
    return origin, quote(target, safe=_RESERVED)


def _addresses(name: str, value: Any) -> tuple[str, ...]:
    given = re.split(r"[,;]", value) if isinstance(value, str) else value or []
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise ValueError(f"{name} in its extra must be a text or a list of texts.")
    addresses = tuple(each.strip() for each in given if each.strip())
    if not addresses:
        raise ValueError(f'{name} is missing in its extra, for example {{"{name}": "on-call@example.com"}}.')
    for address in addresses:
        if not _ADDRESS.fullmatch(address):
            raise ValueError(f"{address!r} in {name} is not an e-mail address.")
    return addresses


def _flag(name: str, extra: Mapping[str, Any]) -> bool | None:
    value = extra.get(name)
    if value is None or isinstance(value, bool):
        return value
    if str(value).lower() in ("true", "1", "false", "0"):  # as a connection URI gives them
        return str(value).lower() in ("true", "1")
    raise ValueError(f"{name} in its extra must be true or false.")


def _patience(extra: Mapping[str, Any]) -> Patience:
    default = Patience()
    try:
        timeout = float(extra.get("timeout", default.timeout))
        attempts = int(extra.get("max_attempts", default.max_attempts))
    except (TypeError, ValueError):
        timeout, attempts = 0.0, 0
    if not (0 < timeout <= 120 and 1 <= attempts <= 20):
        raise ValueError("in its extra, timeout must be seconds up to 120 and max_attempts a number from 1 to 20.")
    return Patience(timeout=timeout, max_attempts=attempts)

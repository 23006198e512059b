"""A JSON webhook, over httpx."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from batch_provider.notifications.errors import AlertRefusedError, AlertUndeliveredError
from batch_provider.notifications.message import Message
from batch_provider.notifications.routes import WebhookRoute

# Where clouds serve a machine's own credentials, besides the link-local 169.254.169.254.
_METADATA: Final = frozenset({ip_address("fd00:ec2::254"), ip_address("100.100.100.200")})
_PASSING: Final = frozenset({408, 425, 429})
_CONNECTED: Final = "connection.connect_tcp.complete"


async def post(route: WebhookRoute, message: Message) -> None:
    """Post one message as JSON; any answer of 200 to 299 means that it was taken.

    Redirects are not followed: the next address was not written by whoever wrote the connection.

    Raises:
        AlertUndeliveredError: if the server cannot be reached, or answers 5xx, 408, 425 or 429: try later.
        AlertRefusedError: if it gives any other answer, or if its address is one that is never called.
    """
    try:
        response = await _request(route, _body(route, message))
    except (httpx.InvalidURL, httpx.LocalProtocolError, UnicodeError):
        reason = (
            "the request cannot be written; look for line breaks and strange letters in host, password and headers."
        )
        raise AlertRefusedError(route.label, reason) from None
    except httpx.ConnectError as error:
        raise AlertUndeliveredError(route.label, f"no connection: {error}.") from None
    except httpx.HTTPError as error:  # without its text, which can quote what was sent
        raise AlertUndeliveredError(route.label, f"{type(error).__name__}.") from None
    code = response.status_code
    if code in _PASSING or response.is_server_error:
        raise AlertUndeliveredError(route.label, f"it answered {code} {response.reason_phrase}.")
    if not response.is_success:
        raise AlertRefusedError(route.label, f"it answered {code} {response.reason_phrase}.")


def _body(route: WebhookRoute, message: Message) -> dict[str, Any]:
    if route.only_fields is None:
        return message.fields
    return {name: value for name, value in message.fields.items() if name in route.only_fields}


async def _request(route: WebhookRoute, body: dict[str, Any]) -> httpx.Response:
    """Send the request; path and query go as an extension, for httpx logs the address of every request."""
    _refuse_by_name(route)

    async def on_event(event: str, info: Mapping[str, Any]) -> None:
        if event == _CONNECTED:
            await _check_peer(route, info["return_value"])

    extensions = {"target": route.target.encode("ascii"), "trace": on_event}
    async with httpx.AsyncClient(timeout=route.patience.timeout, auth=route.credentials) as client:
        return await client.post(route.origin, json=body, headers=dict(route.headers), extensions=extensions)


def _refuse_by_name(route: WebhookRoute) -> None:
    """Refuse an address written as such; through a proxy it is never seen connected."""
    host = urlsplit(route.origin).hostname or ""
    try:
        _refuse(route, ip_address(host))
    except ValueError:  # a name
        return


async def _check_peer(route: WebhookRoute, stream: Any) -> None:
    """Refuse what a name led to: the connection stands, but nothing has been sent over it.

    Looking at the connection itself leaves no moment in which the name could change its address.
    """
    peer = stream.get_extra_info("server_addr")
    try:
        _refuse(route, ip_address(str(peer[0]).partition("%")[0]))
    except BaseException:
        await stream.aclose()  # httpcore has not taken it over yet
        raise


def _refuse(route: WebhookRoute, address: IPv4Address | IPv6Address) -> None:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    address = mapped or address
    if (address.is_link_local or address in _METADATA) and not route.allow_link_local:
        reason = (
            f"{address} is a link-local address, where machines in a cloud find their credentials. If it really is "
            f"your webhook, set allow_link_local to true in the connection's extra."
        )
        raise AlertRefusedError(route.label, reason)

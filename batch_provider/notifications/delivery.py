"""Sends a message to one route, with patience: what may pass is tried again, what will not is not."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, stop_before_delay
from tenacity.wait import wait_exponential, wait_random

from batch_provider.notifications.errors import AlertUndeliveredError
from batch_provider.notifications.message import Message
from batch_provider.notifications.routes import Route, SmtpRoute

log = logging.getLogger(__name__)

# A DAG's callback runs in the DAG processor, which ends a file's process after 50 s.
_TOTAL_SECONDS: Final = 30


async def deliver(route: Route, message: Message) -> None:
    """Send a message; come back when the server has taken it.

    A try that timed out may have been taken all the same: an alert is sent at least once.

    Raises:
        AlertError: if the server refused it, or every try failed.
    """
    retrying = AsyncRetrying(
        stop=stop_after_attempt(route.patience.max_attempts) | stop_before_delay(_TOTAL_SECONDS),
        wait=wait_exponential(multiplier=0.5, max=10) + wait_random(0, 0.5),
        retry=retry_if_exception(lambda error: isinstance(error, AlertUndeliveredError)),
        before_sleep=_log_failed_try,
        reraise=True,
    )
    await retrying(_try_once, route, message)


async def _try_once(route: Route, message: Message) -> None:
    try:
        async with asyncio.timeout(route.patience.timeout):
            await _send(route, message)
    except TimeoutError:
        reason = f"no answer within {route.patience.timeout:g} s."
        raise AlertUndeliveredError(route.label, reason) from None


async def _send(route: Route, message: Message) -> None:
    if isinstance(route, SmtpRoute):
        from batch_provider.notifications.smtp import send_mail

        await send_mail(route, message)
    else:
        from batch_provider.notifications.webhook import post

        await post(route, message)


def _log_failed_try(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.warning("Alert, try %d: %s Again in %.1f s.", state.attempt_number, error, state.upcoming_sleep)

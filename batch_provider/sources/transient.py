"""Trying again what failed for a passing reason, with growing pauses, and giving up."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

ATTEMPTS = 3

Result = TypeVar("Result")

_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_TRANSIENT_NAMES = frozenset({"OperationalError", "InterfaceError"})
"""What PEP 249 calls the errors of a database that cannot be reached; every driver has classes of its own."""


def is_transient(error: BaseException) -> bool:
    """Whether the same call may work a moment later."""
    if isinstance(error, OSError):
        return not isinstance(error, _LASTING)
    return any(kind.__name__ in _TRANSIENT_NAMES for kind in type(error).__mro__)


def retrying(action: Callable[[], Result]) -> Result:
    """Call ``action`` up to three times, waiting longer each time, with jitter; the last error is raised."""
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential, wait_random

    retry = Retrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential(multiplier=0.25, max=8) + wait_random(0, 0.25),
        retry=retry_if_exception(is_transient),
        reraise=True,
    )
    return retry(action)

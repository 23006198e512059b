"""How an attempt ended: decided here and nowhere else, for every kind of step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from batch_provider.domain.errors import FailureLimitExceededError, FencedError, StopProcessingError
from batch_provider.domain.outcome import CloseOutcome
from batch_provider.domain.tally import Tally
from batch_provider.engine.calls.invoke import RecordError
from batch_provider.engine.ports.store import ShardWork

log = logging.getLogger(__name__)

T = TypeVar("T")

Close = Callable[[CloseOutcome, str], object]
"""Closes what is still open of an attempt: how it ended, and why."""


@contextmanager
def ending(close: Close, interruptions: tuple[type[BaseException], ...] = ()) -> Iterator[None]:
    """Close an attempt as it ends, if it is ended by what it raises; who comes to the end closes it ``done``.

    Args:
        close: told how it ended; what is closed already stays as it is.
        interruptions: what ends the task without being an Exception, such as its time limit. Anything else of that
            kind is like a kill: the attempt stays open, and a retry resumes it.
    """
    try:
        yield
    except FencedError:
        raise  # the later attempt is the truth
    except StopProcessingError as stop:
        close(_outcome_of(stop), str(stop))
        raise
    except (Exception, *interruptions) as error:  # type: ignore[misc]  # mypy: it takes no unpacked tuple
        _close_failed(close, error)
        raise


def held_by_all(claim: Callable[[T], ShardWork], shards: Iterable[T]) -> list[ShardWork]:
    """Claim several shards for one attempt; if one cannot be claimed, it ends in the others with that error."""
    held: list[ShardWork] = []

    def close(outcome: CloseOutcome, reason: str) -> None:
        for work in held:
            work.close(outcome, work.tally.with_work(Tally(), 0.0), fingerprint="", reason=reason)

    with ending(close):
        for shard in shards:
            held += [claim(shard)]
    return held


def _outcome_of(stop: StopProcessingError) -> CloseOutcome:
    return CloseOutcome.LIMITED if isinstance(stop, FailureLimitExceededError) else CloseOutcome.STOPPED


def _close_failed(close: Close, error: BaseException) -> None:
    """Write down what ended it; if that cannot be done either, the first error is the one to know."""
    found = RecordError.of(error)
    try:
        close(CloseOutcome.FAILED, f"{found.type}: {found.message}")
    except Exception as second:  # noqa: BLE001  # whatever it is, it is not what ended the attempt
        log.warning("The attempt could not be closed as failed, and stays open: %s: %s", type(second).__name__, second)

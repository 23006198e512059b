"""Where the child is: written before each call into memory that the parent reads when the child is dead."""

from __future__ import annotations

import mmap
from dataclasses import dataclass

from batch_provider.domain.layout import Span

_NOWHERE = -1
_SLOTS = 5


@dataclass(frozen=True)
class Trace:
    """What a child had noted when it died.

    Attributes:
        step: number of the step it was in, among fused ones; None: it had not come to one.
        span: the block it was at; None: it was still looking for its end.
        inside: the ids of the call it was in: of a record or a group; None: it was in none.
    """

    step: int | None
    span: Span | None
    inside: Span | None


class CallIndex:
    """A few numbers in memory that a parent shares with the children it forks."""

    def __init__(self) -> None:
        self._slots = memoryview(mmap.mmap(-1, 8 * _SLOTS)).cast("q")
        self.reset()

    def reset(self) -> None:
        """Nothing is begun."""
        for slot in range(_SLOTS):
            self._slots[slot] = _NOWHERE

    def at_block(self, span: Span) -> None:
        """The block is known."""
        self._slots[1], self._slots[2] = span.first, span.last

    def at_step(self, number: int) -> None:
        """A step begins with a block, and is in no call yet."""
        self._slots[0] = number
        self.outside()

    def at_call(self, first: int, last: int) -> None:
        """A call begins, for the records of these ids."""
        self._slots[3], self._slots[4] = first, last

    def outside(self) -> None:
        """The call has returned."""
        self._slots[3] = self._slots[4] = _NOWHERE

    def read(self) -> Trace:
        """What was noted last."""
        step, *ids = self._slots
        return Trace(None if step == _NOWHERE else step, _span(*ids[:2]), _span(*ids[2:]))


def _span(first: int, last: int) -> Span | None:
    return None if first == _NOWHERE else Span(first, last)

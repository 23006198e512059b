"""Mergeable counts and timings of one attempt."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self


@dataclass(frozen=True)
class Tally:
    """What one attempt, or several added up, did to records. ``+`` merges; an empty Tally is neutral.

    Attributes:
        succeeded, failed, skipped: records by outcome in the step.
        newly_failed: of ``failed``, those that had not failed before this step.
        processed: records handed to the author's function by the attempt itself (a resumed attempt does not
            count what it adopted), failed ones included.
        blocks: checkpoints written by the attempt itself.
        errors: exception type → failed records.
        seconds: wall time the attempt worked.
        call_seconds, call_squares: sum and sum of squares of the time each record's call took.
        slowest_call: the longest of them, seconds.
    """

    succeeded: int = 0
    failed: int = 0
    skipped: int = 0
    newly_failed: int = 0
    processed: int = 0
    blocks: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    call_seconds: float = 0.0
    call_squares: float = 0.0
    slowest_call: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        """Both together; associative and commutative."""
        errors = dict(self.errors)
        for name, count in other.errors.items():
            errors[name] = errors.get(name, 0) + count
        return Tally(
            succeeded=self.succeeded + other.succeeded,
            failed=self.failed + other.failed,
            skipped=self.skipped + other.skipped,
            newly_failed=self.newly_failed + other.newly_failed,
            processed=self.processed + other.processed,
            blocks=self.blocks + other.blocks,
            errors=errors,
            seconds=self.seconds + other.seconds,
            call_seconds=self.call_seconds + other.call_seconds,
            call_squares=self.call_squares + other.call_squares,
            slowest_call=max(self.slowest_call, other.slowest_call),
        )

    def with_work(self, own: Tally, seconds: float) -> Tally:
        """These outcomes with the calls, blocks and time of one attempt alone."""
        return replace(
            self,
            processed=own.processed,
            blocks=own.blocks,
            seconds=seconds,
            call_seconds=own.call_seconds,
            call_squares=own.call_squares,
            slowest_call=own.slowest_call,
        )

    def without(self, part: Tally) -> Tally:
        """These outcomes less those of a part that counts no more; the calls and times stay, as the work was done."""
        errors = {name: count - part.errors.get(name, 0) for name, count in self.errors.items()}
        return replace(
            self,
            succeeded=self.succeeded - part.succeeded,
            failed=self.failed - part.failed,
            skipped=self.skipped - part.skipped,
            newly_failed=self.newly_failed - part.newly_failed,
            errors={name: count for name, count in errors.items() if count},
        )

    @property
    def received(self) -> int:
        """Records that came to the step: each has one of the three outcomes."""
        return self.succeeded + self.failed + self.skipped

    @property
    def records_per_second(self) -> float | None:
        """Records handed to the function per second of work; None when nothing was done."""
        return self.processed / self.seconds if self.processed and self.seconds > 0 else None

    @property
    def mean_call_seconds(self) -> float | None:
        """Mean time of one call."""
        return self.call_seconds / self.processed if self.processed else None

    @property
    def call_deviation_seconds(self) -> float | None:
        """Standard deviation of the time of one call."""
        mean = self.mean_call_seconds
        if mean is None:
            return None
        return math.sqrt(max(0.0, self.call_squares / self.processed - mean * mean))

    def to_json(self) -> dict[str, Any]:
        """As it stands in progress files and closes."""
        return {**asdict(self), "errors": dict(sorted(self.errors.items()))}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        names = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in data.items() if name in names})

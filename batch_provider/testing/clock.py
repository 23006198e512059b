"""A clock that tests turn."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class FakeClock:
    """Stands still until it is told to go on (a Clock).

    Args:
        start: the first instant.
        tick_seconds: how far every look at it moves it.
    """

    def __init__(self, start: datetime = datetime(2030, 1, 1, tzinfo=UTC), tick_seconds: float = 0.0) -> None:
        self._start, self._tick, self._elapsed = start, tick_seconds, 0.0
        self._shift = timedelta()

    def now(self) -> datetime:
        """The instant it shows."""
        return self._start + self._shift + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        """Seconds since the start."""
        self._elapsed += self._tick
        return self._elapsed

    def advance(self, seconds: float) -> None:
        """Move it on."""
        self._elapsed += seconds

    def jump(self, seconds: float) -> None:
        """Set the time of day, back if negative, as somebody who corrects a clock; intervals stay as they are."""
        self._shift += timedelta(seconds=seconds)

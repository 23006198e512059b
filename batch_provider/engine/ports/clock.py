"""The real clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class SystemClock:
    """The machine's clock (a Clock)."""

    def now(self) -> datetime:
        """The current instant, in UTC."""
        return datetime.now(UTC)  # this is the Clock

    def monotonic(self) -> float:
        """Seconds on a clock that never jumps back."""
        return time.monotonic()

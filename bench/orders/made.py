"""What a script makes of a block of the workload `orders`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

Counts = Counter[str]
"""``step/status`` → records."""


@dataclass
class Made:
    """Loaded rows and status rows as Arrow tables, and how many records took which way."""

    good: Any
    status: Any
    counts: Counts

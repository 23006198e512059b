"""When too many records have failed, and how long a job may take."""

from __future__ import annotations

import math
from dataclasses import dataclass

from batch_provider.domain.errors import InvalidOptionError

NO_LIMIT = -1


@dataclass(frozen=True)
class FailureLimit:
    """How many records of an instance may fail before it stops.

    Attributes:
        max_failed_records: 0 stops at the first failure (the default, as in Mule), -1 never stops.
        max_failed_ratio: failed / finished records, 0 to 1; None: no ratio is asked.
        minimum_sample: records that must be finished before the ratio is looked at.
    """

    max_failed_records: int = 0
    max_failed_ratio: float | None = None
    minimum_sample: int = 1_000

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if not _is_int(self.max_failed_records) or self.max_failed_records < NO_LIMIT:
            raise InvalidOptionError(
                "max_failed_records",
                self.max_failed_records,
                "-1 (never stop), 0 (stop at the first) or more",
            )
        ratio = self.max_failed_ratio
        if ratio is not None and not (_is_number(ratio) and 0 <= ratio <= 1):
            raise InvalidOptionError("max_failed_ratio", ratio, "a number from 0 to 1")
        if not _is_int(self.minimum_sample) or self.minimum_sample < 1:
            raise InvalidOptionError("minimum_sample", self.minimum_sample, "a whole number of records, 1 or more")

    def exceeded(self, failed: int, finished: int, *, final: bool = False) -> str | None:
        """Name the limit that ``failed`` of ``finished`` records exceed, or None.

        A ratio replaces the default count of 0; an explicit count holds beside it. When the counts are ``final``,
        the ratio is asked however few records there are: a small input must not pass with every record failed.
        """
        counts = self.max_failed_ratio is None or self.max_failed_records > 0
        if counts and self.max_failed_records != NO_LIMIT and failed > self.max_failed_records:
            return f"max_failed_records={self.max_failed_records:,}"
        ratio = self.max_failed_ratio
        if ratio is not None and (final or finished >= self.minimum_sample) and failed > ratio * finished:
            return f"max_failed_ratio={ratio:g}"
        return None

    @property
    def is_unlimited(self) -> bool:
        """Whether no number of failures stops the job."""
        return self.max_failed_records == NO_LIMIT and self.max_failed_ratio is None


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

"""When too many records have failed, and how long a job may take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from batch_provider.domain.errors import FailureLimitExceededError, InvalidOptionError
from batch_provider.domain.text import count

NO_LIMIT = -1


@dataclass(frozen=True)
class FailureCounts:
    """How many records of an instance have failed, and of how many.

    Failures of the load are all known before the first block, those of the steps are not: each is judged against what
    was looked at to find it.

    Attributes:
        failed: records that failed in a step, and not in the load.
        finished: records that the steps have come to.
        on_input: records that failed in the load.
        loaded: all records of the input; 0: nothing is known of it, and nothing failed in it.
    """

    failed: int
    finished: int
    on_input: int = 0
    loaded: int = 0

    @property
    def total(self) -> int:
        """Records that failed anywhere."""
        return self.on_input + self.failed

    @property
    def input_share(self) -> Fraction:
        """Of what was loaded, what failed in the load."""
        return Fraction(self.on_input, self.loaded) if self.on_input else Fraction()

    @property
    def share(self) -> Fraction:
        """The same, and of what the steps finished, what failed in them: what the whole comes to, if it goes on so."""
        return self.input_share + (Fraction(self.failed, self.finished) if self.failed else Fraction())

    def __str__(self) -> str:
        """For messages."""
        if not self.on_input:
            return f"{self.failed:,} of {count(self.finished, 'finished record')}"
        of_input = f"{self.on_input:,} of {count(self.loaded, 'loaded record')}"
        return f"{of_input} and {self.failed:,} of {self.finished:,} finished" if self.failed else of_input


@dataclass(frozen=True)
class FailureLimit:
    """How many records of an instance may fail before it stops.

    Attributes:
        max_failed_records: 0 stops at the first failure (the default, as in Mule), -1 never stops.
        max_failed_ratio: failed / finished records, 0 to 1; None: no ratio is asked.
        minimum_sample: records that must be finished before the ratio of failures in steps is looked at.
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

    def exceeded(self, counts: FailureCounts, *, final: bool = False) -> FailureLimitExceededError | None:
        """What ends the work, if there are more failures than is allowed.

        A ratio replaces the default count of 0; an explicit count holds beside it. When the counts are ``final``,
        the ratio is asked however few records there are: a small input must not pass with every record failed.
        """
        has_count = self.max_failed_ratio is None or self.max_failed_records > 0
        if has_count and self.max_failed_records != NO_LIMIT and counts.total > self.max_failed_records:
            limit = f"max_failed_records={self.max_failed_records:,}"
            return FailureLimitExceededError(
                counts.total, limit, by_input_alone=counts.on_input > self.max_failed_records
            )
        if self.max_failed_ratio is None:
            return None
        ratio = Fraction(str(self.max_failed_ratio))  # as it is written: 0.29 * 100 is less than 29
        by_input_alone = counts.input_share > ratio
        is_enough = final or counts.finished >= self.minimum_sample
        if not (by_input_alone or (is_enough and counts.share > ratio)):
            return None
        limit = f"max_failed_ratio={self.max_failed_ratio:g}"
        return FailureLimitExceededError(counts.total, limit, str(counts), by_input_alone=by_input_alone)

    @property
    def is_unlimited(self) -> bool:
        """Whether no number of failures stops the job."""
        return self.max_failed_records == NO_LIMIT and self.max_failed_ratio is None


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

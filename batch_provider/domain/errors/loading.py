"""Errors of the load: the input could not become an instance."""

from __future__ import annotations

from batch_provider.domain.errors.base import BatchError
from batch_provider.domain.text import count


class LoadError(BatchError):
    """The input could not be loaded; no instance was made."""


class SourceError(LoadError):
    """The input could not be read."""

    retryable = True

    def __init__(self, source: str, reason: str, *, retryable: bool = True) -> None:
        super().__init__(f"Cannot read {source}: {reason}")
        self.source, self.reason = source, reason
        self.retryable = retryable  # type: ignore[misc]  # a missing file may arrive, a wrong option never


class UnsupportedPayloadError(LoadError):
    """The payload is not something that can be split into records."""

    def __init__(self, found: str, convert_to: str) -> None:
        super().__init__(f"{found} cannot be split into records; convert it to {convert_to} first.")
        self.found, self.convert_to = found, convert_to


class DuplicateInstanceError(LoadError):
    """The job instance id is already owned by another DAG, run or job."""

    def __init__(self, instance: str, owner: str) -> None:
        super().__init__(
            f"The job instance id {instance!r} belongs to {owner}; nothing was created. Make job_instance_id "
            f"unique, for example by adding {{{{ run_id }}}} to it."
        )
        self.instance, self.owner = instance, owner


class TooManyRecordsError(LoadError):
    """The input holds more records than max_records allows."""

    def __init__(self, maximum: int) -> None:
        super().__init__(
            f"The input holds more than max_records={maximum:,} records; nothing was processed. Check the input, "
            f"or raise max_records if it really grew."
        )
        self.maximum = maximum


class TooFewRecordsError(LoadError):
    """The input holds fewer records than min_records demands."""

    def __init__(self, found: int, minimum: int) -> None:
        super().__init__(
            f"The input holds {count(found, 'record')}, fewer than min_records={minimum:,}; nothing was processed. "
            f"Check whether the input is whole, then clear the load task, or lower min_records if so few are in order."
        )
        self.found, self.minimum = found, minimum

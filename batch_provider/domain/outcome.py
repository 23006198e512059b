"""What a step did with a record, and the states of a job instance."""

from __future__ import annotations

from enum import IntEnum, StrEnum

FAILED_BEFORE = 8
"""Bit of ``_status`` that says: the record had failed before it came to this step (failure is sticky)."""


class Outcome(IntEnum):
    """What a step did with a record; stored in the low bits of ``_status``."""

    NOT_RUN = 0
    """The step never came to the record: a stop or a limit ended the work before."""
    SUCCEEDED = 1
    FAILED = 2
    SKIPPED = 3
    """The step's policy or expression did not accept the record (Mule: filtered); later steps still see it."""


class JobState(StrEnum):
    """The nine states of a job instance (Mule's ``BatchJobInstanceStatus``, with ours added)."""

    LOADING = "LOADING"
    EXECUTING = "EXECUTING"
    SUCCESSFUL = "SUCCESSFUL"
    STOPPED = "STOPPED"
    CANCELLED = "CANCELLED"
    FAILED_INPUT = "FAILED_INPUT"
    FAILED_LOADING = "FAILED_LOADING"
    FAILED_PROCESS_RECORDS = "FAILED_PROCESS_RECORDS"
    FAILED_ON_COMPLETE = "FAILED_ON_COMPLETE"

    @property
    def is_finished(self) -> bool:
        """Whether the instance has reached its verdict."""
        return self not in (JobState.LOADING, JobState.EXECUTING)


class CloseOutcome(StrEnum):
    """How an attempt of one (step, shard) ended."""

    DONE = "done"
    STOPPED = "stopped"
    """At a block boundary: deadline, stop request, or the task was told to end."""
    LIMITED = "limited"
    """At a block boundary: more records failed than the job allows."""
    FAILED = "failed"
    """With an error of the job, of a target or of the store, which the close names; a retry of the task resumes it."""
    ABANDONED = "abandoned"
    """Closed by on-complete for an attempt that never closed itself."""

"""Errors that end a step's task, and the one that stands for a record's."""

from __future__ import annotations

from collections.abc import Sequence

from batch_provider.domain.errors.base import BatchError
from batch_provider.domain.text import count


class StopProcessingError(BatchError):
    """The engine decided to stop at a block boundary; everything done so far is kept."""


class FailureLimitExceededError(StopProcessingError):
    """More records failed than the job allows."""

    def __init__(self, failed: int, limit: str, counted: str = "", *, by_input_alone: bool = False) -> None:
        """Say what to do.

        Args:
            failed: records that failed anywhere.
            limit: the option that allows fewer, with its value.
            counted: failed records and of how many, in words; empty: the number says enough.
            by_input_alone: the malformed records of the input are more than the limit allows.
        """
        cause = (
            "put the input right and clear the load task with Downstream"
            if by_input_alone
            else "fix the cause and clear the failed tasks"
        )
        self.fact = f"{counted or count(failed, 'record')} failed, more than {limit} allows"
        self.advice = f"then {cause}, or raise the limit."
        super().__init__(
            f"{self.fact}; no further block is started. Look at the error table in the on_complete task's log, "
            f"{self.advice}"
        )
        self.failed, self.limit = failed, limit


class DeadlineExceededError(StopProcessingError):
    """The job's time allowance (SLA) is used up."""

    def __init__(self, deadline: str, elapsed: str) -> None:
        super().__init__(
            f"The deadline {deadline} has passed after {elapsed}; stopped at a block boundary, everything done is "
            f"kept. Clear the failed tasks to carry on."
        )
        self.deadline, self.elapsed = deadline, elapsed


class StopRequestedError(StopProcessingError):
    """Somebody asked the instance to stop, or the task was told to end."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"Stopped at a block boundary: {reason}. Everything done is kept; clear the failed tasks to carry on."
        )
        self.reason = reason


class FencedError(StopProcessingError):
    """A later attempt of the same step and shard has taken over."""

    def __init__(self, step: str, shard: str, claim: str, successor: str) -> None:
        super().__init__(
            f"Attempt {claim} of step {step!r}, shard {shard} was succeeded by attempt {successor}; nothing it "
            f"writes from now on counts. No action is needed: the later attempt does the work."
        )
        self.step, self.shard, self.claim, self.successor = step, shard, claim, successor


class StepsChangedError(BatchError):
    """The job's list of steps is another one than when its input was loaded."""

    def __init__(self, job: str, loaded: Sequence[str], declared: Sequence[str]) -> None:
        super().__init__(
            f"Job {job!r} was loaded with the steps {', '.join(loaded)} and has now {', '.join(declared)}. What is "
            "done cannot be carried on with other steps: clear the load task with Downstream, or run the DAG version "
            "it was loaded with."
        )
        self.job, self.loaded, self.declared = job, tuple(loaded), tuple(declared)


class InvalidReturnError(BatchError):
    """A step returned for a block what it may not: its code is wrong, whatever the records hold."""

    def __init__(self, step: str, came: str, wanted: str) -> None:
        super().__init__(
            f"Step {step!r} returned {came}; it must return {wanted}. No record is to blame: correct the step and "
            "clear its failed tasks to carry on."
        )
        self.step, self.came, self.wanted = step, came, wanted


class ExpressionLimitError(BatchError):
    """A SQL expression needs more time or memory than it may take for the records it was asked about."""

    retryable = True

    def __init__(self, expression: str, limit: str, place: str = "") -> None:
        super().__init__(
            f"The expression {expression!r}{place} takes {limit}. No record is to blame. Let the expression make less "
            "of a record, or give the job a smaller block_size=; if the worker was merely busy, try the task again."
        )
        self.expression, self.limit = expression, limit


class CircuitOpenError(BatchError):
    """A dependency is down; failing record by record would say nothing more."""

    retryable = True

    def __init__(self, step: str, failures: int, delay_seconds: float) -> None:
        super().__init__(
            f"Step {step!r} failed {failures} times in a row, its dependency seems to be down; the task is tried "
            f"again after {delay_seconds:g} s."
        )
        self.step, self.failures, self.delay_seconds = step, failures, delay_seconds


class ProcessDiedError(BatchError):
    """The process that ran a step was ended from outside of Python: by a signal, or for lack of memory."""

    retryable = True

    def __init__(self, step: str, how: str, what: str, *, is_alone: bool = True) -> None:
        alone = f"with {what} alone, twice" if is_alone else f"with {what}"
        super().__init__(
            f"The process that ran step {step!r} {alone}, was ended by {how}. Look for what can do that: a native "
            "library that the step calls, or how much memory it takes; the log of the task says where it was."
        )
        self.step, self.how, self.what = step, how, what


class UserCodeError(BatchError):
    """What a step's or aggregator's function raised for a record; never leaves the engine."""

    def __init__(self, step: str, error_type: str, message: str) -> None:
        super().__init__(f"Step {step!r} raised {error_type}: {message}")
        self.step, self.error_type, self.error_message = step, error_type, message

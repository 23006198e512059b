"""Errors of a job as it is written: raised while the DAG file is parsed."""

from __future__ import annotations

from batch_provider.domain.errors.base import BatchError


class JobDefinitionError(BatchError, ValueError):
    """The job as written cannot run; raised while the DAG file is parsed."""


class DuplicateStepError(JobDefinitionError):
    """Two steps of one job bear the same name."""

    def __init__(self, job: str, step: str) -> None:
        super().__init__(f"Job {job!r} has two steps named {step!r}; give each step a name of its own.")


class InvalidExpressionError(JobDefinitionError):
    """An accept expression, check or assignment is not one scalar SQL expression."""

    def __init__(self, expression: str, reason: str, place: str = "") -> None:
        super().__init__(
            f"The expression {expression!r}{place} cannot be used: {reason}. Write one scalar SQL expression over the "
            f"record's columns, for example \"amount > 0 AND country = 'NL'\"."
        )
        self.expression, self.reason = expression, reason


class InvalidOptionError(JobDefinitionError):
    """An option has a value outside what it allows."""

    def __init__(self, option: str, value: object, allowed: str, place: str = "") -> None:
        super().__init__(f"{option}={value!r} is not allowed{place}; use {allowed}.")
        self.option, self.value, self.allowed = option, value, allowed

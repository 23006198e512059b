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
    """An accept expression, check or assignment is not one scalar SQL expression, or not one over these columns."""

    def __init__(self, expression: str, reason: str, place: str = "", advice: str = "") -> None:
        super().__init__(f"The expression {expression!r}{place} cannot be used: {reason}. {advice or _ONE_SCALAR}")
        self.expression, self.reason, self.advice = expression, reason, advice


_ONE_SCALAR = (
    "Write one scalar SQL expression over the record's columns, for example \"amount > 0 AND country = 'NL'\"."
)


class InvalidOptionError(JobDefinitionError):
    """An option has a value outside what it allows."""

    def __init__(self, option: str, value: object, allowed: str, place: str = "") -> None:
        super().__init__(f"{option}={value!r} is not allowed{place}; use {allowed}.")
        self.option, self.value, self.allowed = option, value, allowed

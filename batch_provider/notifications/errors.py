"""Why an alert could not be sent. None of these touches the job it is about.

No message holds a password, a header or the path of a webhook's address: such paths are often the secret.
"""

from __future__ import annotations

from collections.abc import Sequence

from batch_provider.domain.errors import BatchError


class AlertError(BatchError):
    """Base: an alert did not reach everybody it was meant for."""


class AlertConnectionError(AlertError):
    """The Airflow connection does not say where the alert goes."""

    def __init__(self, conn_id: str, reason: str) -> None:
        super().__init__(f"The alert connection {conn_id!r} cannot be used: {reason}")
        self.conn_id, self.reason = conn_id, reason


class AlertRefusedError(AlertError):
    """The server at the other end will not take the alert; trying again cannot help."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where} does not take the alert: {reason}")
        self.where, self.reason = where, reason


class AlertUndeliveredError(AlertError):
    """The server at the other end cannot be reached, or says that it has trouble."""

    retryable = True

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where} cannot take the alert now: {reason}")
        self.where, self.reason = where, reason


class AlertNotSentError(AlertError):
    """At least one connection of an alert failed; the others have got it."""

    def __init__(self, subject: str, reached: Sequence[str], problems: Sequence[str]) -> None:
        whom = f"was sent through {', '.join(reached)} only" if reached else "reached nobody"
        super().__init__(f"The alert {subject!r} {whom}. {' '.join(problems)}")
        self.subject, self.reached, self.problems = subject, tuple(reached), tuple(problems)

"""The one place that turns the provider's errors into Airflow's retry or fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from airflow.sdk.exceptions import AirflowFailException, AirflowTaskTimeout

from batch_provider.domain.errors import BatchError, JobFailedError, StopProcessingError
from batch_provider.engine.isolation.faults import let_faults_kill

INTERRUPTIONS = (AirflowTaskTimeout,)
"""What Airflow raises in a task without its being an Exception, and the task ends with: ``execution_timeout``."""


@contextmanager
def airflow_errors() -> Iterator[None]:
    """Let errors that another try can mend go on as they are; the others fail the task without retry.

    A fault of the processor ends the process, whatever Airflow has put in its way.

    Raises:
        AirflowFailException: for every BatchError that is not retryable.
    """
    let_faults_kill()
    try:
        yield
    except BatchError as error:
        if error.retryable:
            raise
        decided = isinstance(error, (StopProcessingError, JobFailedError))
        # What the engine decided says all in its message; where in the engine it was raised tells nobody anything.
        raise AirflowFailException(f"{type(error).__name__}: {error}") from (None if decided else error)

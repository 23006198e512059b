"""Every error of the provider.

BatchError
├─ JobDefinitionError(ValueError)     raised while the DAG file is parsed
│  ├─ DuplicateStepError · InvalidExpressionError · InvalidOptionError
├─ LoadError                          the input could not become an instance
│  ├─ SourceError                     retried: the input may be readable later
│  └─ UnsupportedPayloadError · DuplicateInstanceError · TooManyRecordsError
├─ InstanceNotFoundError · NotLoadedError · RedriveRefusedError     what was asked for cannot be done
├─ StorageError                       retried: the store may answer later
│  └─ CheckpointMissingError · GenerationGoneError · LayoutVersionError · CorruptCheckpointError     not retried
├─ StopProcessingError                the engine's own decision; not retried
│  └─ FailureLimitExceededError · DeadlineExceededError · StopRequestedError · FencedError
├─ StepsChangedError                  the job has other steps now than its load knew
├─ CircuitOpenError                   retried after a delay
├─ UserCodeError                      what a step raised; becomes a row of the ledger
├─ DataLossError                      reconciliation failed
└─ JobFailedError                     the verdict of on-complete; holds the result

A constructor takes facts and builds the message, which ends in what to do next. Every class pickles, because
errors cross process borders. ``retryable`` says whether trying the same task again can help.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

from batch_provider.domain.text import count

if TYPE_CHECKING:
    from batch_provider.domain.result import BatchJobResult


class BatchError(Exception):
    """Base of every error of the provider."""

    retryable: ClassVar[bool] = False
    _facts: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Keep the facts, so that the error can be built again on the other side of a process border."""
        self = super().__new__(cls, *args)
        self._facts = (args, kwargs)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the constructor's own arguments."""
        args, kwargs = self._facts
        return (partial(type(self), **kwargs), args)


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


class InstanceNotFoundError(BatchError):
    """No instance, or more than one, is what was asked for."""

    def __init__(self, text: str, candidates: Iterable[str]) -> None:
        found = sorted(candidates)
        if found:
            shown = ", ".join(found[:10]) + (f" and {len(found) - 10} more" if len(found) > 10 else "")
            message = f"{text!r} means {len(found)} instances: {shown}. Give the whole id, or name DAG and job."
        else:
            message = f"No instance is called {text!r}. List those there are with: airflow batch list"
        super().__init__(message)
        self.text, self.candidates = text, tuple(found)


class NotLoadedError(BatchError):
    """An instance has no loaded input, so it cannot be asked to do something."""

    def __init__(self, instance: str) -> None:
        super().__init__(
            f"Instance {instance!r} has no loaded input yet. Wait until it is loaded, or mark its load task failed."
        )
        self.instance = instance


class RedriveRefusedError(BatchError):
    """There is nothing to process again, or not now."""

    def __init__(self, instance: str, reason: str) -> None:
        super().__init__(f"Instance {instance!r} is not redriven: {reason}")
        self.instance, self.reason = instance, reason


class StorageError(BatchError):
    """The store did not do what was asked of it."""

    retryable = True

    def __init__(self, action: str, name: str, reason: str) -> None:
        super().__init__(f"Cannot {action} {name}: {reason}")
        self.action, self.name, self.reason = action, name, reason


class CheckpointMissingError(StorageError):
    """A finished step whose output is needed is not there."""

    retryable = False

    def __init__(self, step: str, shard: str, reason: str) -> None:
        BatchError.__init__(
            self,
            f"Step {step!r} of shard {shard} has no finished output: {reason}. Clear that step's task (with "
            f"Downstream) so that it is made again.",
        )
        self.step, self.shard = step, shard


class GenerationGoneError(StorageError):
    """A task is to work on a generation that is not in the store."""

    retryable = False

    def __init__(self, generation: str) -> None:
        BatchError.__init__(
            self,
            f"{generation} is not in the store: it was purged, or this worker's [batch_provider] storage_path is "
            f"another one. Clear the load task with Downstream so that the input is read again.",
        )
        self.generation = generation


class LayoutVersionError(StorageError):
    """The store was written in a layout this version does not know."""

    retryable = False

    def __init__(self, name: str, found: object, known: int) -> None:
        BatchError.__init__(
            self,
            f"{name} was written in layout {found!r}, this version reads layout {known}. Use the version of "
            f"airflow-provider-batch that wrote it, or clear the load task to read the input again.",
        )
        self.found, self.known = found, known


class CorruptCheckpointError(StorageError):
    """A file's content does not match its digest."""

    retryable = False

    def __init__(self, name: str, reason: str, *, is_input: bool = False) -> None:
        advice = (
            "It is a copy of the input: clear the load task with Downstream, so that the input is read again."
            if is_input
            else "Clear the task of the step that wrote it (with Downstream): a damaged file is not adopted, and its "
            "records are processed again."
        )
        BatchError.__init__(self, f"{name} is damaged: {reason}. {advice}")
        self.name, self.reason = name, reason


class OlderGenerationError(StorageError):
    """A target holds what an older generation of the instance wrote, and would hold it twice."""

    retryable = False

    def __init__(self, target: str, instance: str, step: str, generation: str) -> None:
        BatchError.__init__(
            self,
            f"Step {step!r} has written records of instance {instance!r} to {target} in generation {generation}; "
            f"mode='insert' would write them again, so nothing was written now. Give SqlTable a key= (rows are "
            f"updated) or mode='replace_run' (rows of older generations are deleted first). Or delete those rows by "
            f"hand, then those of this instance and step in the table _batch_commits, and clear this task.",
        )
        self.target, self.instance, self.step, self.generation = target, instance, step, generation


class StopProcessingError(BatchError):
    """The engine decided to stop at a block boundary; everything done so far is kept."""


class FailureLimitExceededError(StopProcessingError):
    """More records failed than the job allows."""

    def __init__(self, failed: int, limit: str) -> None:
        super().__init__(
            f"{count(failed, 'record')} failed, more than {limit} allows; no further block is started. Look at the "
            f"error table in the on_complete task's log, then fix the cause and clear the failed tasks, or raise the "
            f"limit."
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


class CircuitOpenError(BatchError):
    """A dependency is down; failing record by record would say nothing more."""

    retryable = True

    def __init__(self, step: str, failures: int, delay_seconds: float) -> None:
        super().__init__(
            f"Step {step!r} failed {failures} times in a row, its dependency seems to be down; the task is tried "
            f"again after {delay_seconds:g} s."
        )
        self.step, self.failures, self.delay_seconds = step, failures, delay_seconds


class UserCodeError(BatchError):
    """What a step's or aggregator's function raised for a record; never leaves the engine."""

    def __init__(self, step: str, error_type: str, message: str) -> None:
        super().__init__(f"Step {step!r} raised {error_type}: {message}")
        self.step, self.error_type, self.error_message = step, error_type, message


class DataLossError(BatchError):
    """Reconciliation found records without exactly one outcome."""

    def __init__(self, instance: str, reason: str, record_ids: Iterable[int] = ()) -> None:
        ids: Sequence[int] = tuple(record_ids)
        shown = ", ".join(map(str, ids[:20])) + (f" and {len(ids) - 20:,} more" if len(ids) > 20 else "")
        super().__init__(
            f"The account of instance {instance!r} does not add up: {reason}"
            + (f" (record ids {shown})" if ids else "")
            + ". Do not use its output; clear the step named here with Downstream, and report this as a bug."
        )
        self.instance, self.reason, self.record_ids = instance, reason, ids


class JobFailedError(BatchError):
    """The verdict: the instance did not end successfully."""

    def __init__(self, result: BatchJobResult) -> None:
        super().__init__(result.summary())
        self.result = result

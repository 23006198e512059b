"""Errors of the store, and of the targets that writers write to."""

from __future__ import annotations

from collections.abc import Sequence

from batch_provider.domain.errors.base import BatchError


class StorageError(BatchError):
    """The store did not do what was asked of it."""

    retryable = True

    def __init__(self, action: str, name: str, reason: str) -> None:
        super().__init__(f"Cannot {action} {name}: {reason}")
        self.action, self.name, self.reason = action, name, reason


class CheckpointMissingError(StorageError):
    """A finished step whose output is needed is not there."""

    retryable = False

    def __init__(self, step: str, shard: str, reason: str, advice: str = "") -> None:
        """Say what to do.

        Args:
            step: whose output is missing.
            shard: of which records.
            reason: why there is none.
            advice: for those who have no tasks to clear.
        """
        advice = advice or "Clear that step's task (with Downstream) so that it is made again."
        BatchError.__init__(self, f"Step {step!r} of shard {shard} has no finished output: {reason}. {advice}")
        self.step, self.shard, self.reason = step, shard, reason


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


class UnstorableColumnsError(StorageError):
    """Columns that can be written to Parquet, but not be read again."""

    retryable = False

    def __init__(self, step: str, columns: Sequence[str], reason: str) -> None:
        BatchError.__init__(
            self,
            f"The file of step {step!r} cannot be read again, so nothing of it was committed: {reason}. Columns: "
            f"{', '.join(columns) or 'all together'}. Give them fewer levels of lists and structs, or store them as "
            f"JSON text.",
        )
        self.step, self.columns, self.reason = step, tuple(columns), reason


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

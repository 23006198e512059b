"""What can be asked of an instance, while it runs and afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from batch_provider.domain.outcome import JobState
from batch_provider.domain.result import BatchJobResult
from batch_provider.domain.tally import Tally
from batch_provider.storage.claims.generation import Generation
from batch_provider.storage.instances.stale import staleness
from batch_provider.storage.instances.store import InstanceStore, read_result
from batch_provider.storage.views.ledger import live_ledger
from batch_provider.storage.views.step_views import open_views

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class RecordFailure:
    """One failure of one record."""

    record_id: int
    step: str
    error_type: str
    message: str
    attempt: str
    failed_at: datetime


class InstanceView:
    """Reads an instance from its files: no task, no database, and nothing is written.

    Args:
        store: the files of the instance.
        generation: an older generation by its name; None: the latest load's.
    """

    def __init__(self, store: InstanceStore, generation: str | None = None) -> None:
        self._store = store
        self._name = generation

    def _generation(self) -> Generation | None:
        return self._store.generation(self._name) if self._name else self._store.latest()

    def state(self, *, run_has_ended: bool = False) -> JobState | None:
        """The state now; None when nobody ever began to load the instance.

        Args:
            run_has_ended: what Airflow says of the DAG run. An instance without a result whose run has ended
                (marked failed, timed out) reads CANCELLED.
        """
        if not self._store.load_claims():
            return None
        generation = self._generation()
        if generation is None:
            failure = self._store.load_failure()
            unfinished = JobState.CANCELLED if run_has_ended else JobState.LOADING
            return failure.state if failure else unfinished
        if (result := read_result(generation)) is not None:
            return result.state
        return JobState.CANCELLED if run_has_ended else JobState.EXECUTING

    def result(self) -> BatchJobResult | None:
        """The latest report, or None while there is none; its ``stale`` says if a step was run again after it."""
        generation = self._generation()
        result = read_result(generation) if generation else None
        if generation is None or result is None:
            return None
        return replace(result, stale=staleness(generation, result))

    def progress(self) -> Mapping[str, Tally]:
        """Step → what its tasks report so far."""
        generation = self._generation()
        return generation.progress() if generation else {}

    def errors(self, step: str | None = None, *, limit: int = 1_000) -> list[RecordFailure]:
        """The failures of one step (``input`` for the input phase), or of all, in order of record ids."""
        tail = f"{'WHERE step = $step' if step else ''} ORDER BY record_id, failed_at LIMIT {int(limit)}"
        return self._failures(tail, {"step": step} if step else {})

    def first_error(self, record_id: int) -> RecordFailure | None:
        """The failure that came first for a record, in order of steps."""
        found = self._of_record(record_id)
        return found[0] if found else None

    def last_error(self, record_id: int) -> RecordFailure | None:
        """The failure that came last for a record."""
        found = self._of_record(record_id)
        return found[-1] if found else None

    def connect(self) -> duckdb.DuckDBPyConnection:
        """DuckDB with a view for each step and for ``input``, as they count at this moment: every record once.

        A view has the record's payload after the step, ``_id``, ``_kept``, ``outcome``, ``failed``, ``error_type`` and
        ``error_message``. The connection reads nothing else; the caller closes it.

        Raises:
            LookupError: nothing is loaded.
            CorruptCheckpointError: a file is not what was written.
        """
        generation = self._generation()
        if generation is None:
            raise LookupError(f"Instance {self._store.instance.id!r} has no loaded input, so there is nothing to ask.")
        return open_views(generation)

    def _of_record(self, record_id: int) -> list[RecordFailure]:
        order = "ORDER BY (SELECT position FROM steps WHERE steps.step = failures.step)"
        return self._failures(f"WHERE record_id = $record_id {order}", {"record_id": record_id})

    def _failures(self, tail: str, parameters: Mapping[str, object]) -> list[RecordFailure]:
        generation = self._generation()
        if generation is None:
            return []
        columns = "record_id, step, error_type, message, attempt, failed_at"
        with closing(live_ledger(generation)) as ledger:
            rows = ledger.execute(f"SELECT {columns} FROM failures {tail}", dict(parameters)).fetchall()
        return [RecordFailure(*row) for row in rows]

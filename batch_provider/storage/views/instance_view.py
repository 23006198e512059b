"""What can be asked of an instance, while it runs and afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from batch_provider.domain.instance import Claim, Close
from batch_provider.domain.outcome import CloseOutcome, JobState
from batch_provider.domain.result import BatchJobResult
from batch_provider.domain.tally import Tally
from batch_provider.storage.claims.generation import Generation
from batch_provider.storage.instances.store import InstanceStore, rounds_reported
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


@dataclass(frozen=True)
class InstanceStatus:
    """Where an instance stands at one moment.

    Attributes:
        state: None when nobody ever began to load it. While a redrive runs it is EXECUTING, whatever came before.
        round: 1 for the first run, 2 for the first redrive; the one at work, or the one that ``result`` reports.
        result: the latest report, or None; while a redrive runs that of a round before, and its ``stale`` says so.
        failed: why attempts ended that an error has ended, and that nobody has repeated yet: step, shard, error.
    """

    state: JobState | None
    round: int = 1
    result: BatchJobResult | None = None
    failed: tuple[str, ...] = ()

    @property
    def is_at_work(self) -> bool:
        """Whether it has no result yet, or is about to get another."""
        return self.state is not None and not self.state.is_finished


class InstanceView:
    """Reads an instance from its files: no task, no database, and nothing is written.

    Args:
        store: the files of the instance.
        generation: an older generation by its name, one of ``store.generations()``; None: the latest load's.
    """

    def __init__(self, store: InstanceStore, generation: str | None = None) -> None:
        self._store = store
        self._name = generation

    def _generation(self) -> Generation | None:
        return self._store.named(self._name) if self._name else self._store.latest()

    def state(self, *, run_has_ended: bool | None = None) -> JobState | None:
        """The state now; None when nobody ever began to load the instance.

        Args:
            run_has_ended: what Airflow says of the DAG run, if it was asked. An instance without a result whose run
                has ended (marked failed, timed out) reads CANCELLED.
        """
        return self.status(run_has_ended=run_has_ended).state

    def status(self, *, run_has_ended: bool | None = None) -> InstanceStatus:
        """The state now, the round, and the latest report.

        Args:
            run_has_ended: what Airflow says of the DAG run; None: it was not asked. Then a redrive is taken to run as
                long as an attempt of it has not ended, and no longer.
        """
        if not self._store.load_claims():
            return InstanceStatus(None)
        generation = self._generation()
        if generation is not None and self._name and generation.base != f"{self._store.base}/{self._store.current()}":
            run_has_ended = True  # nobody works on it any more
        unfinished = JobState.CANCELLED if run_has_ended else JobState.EXECUTING
        if generation is None:
            failure = self._store.load_failure()
            loading = JobState.CANCELLED if run_has_ended else JobState.LOADING
            return InstanceStatus(failure.state if failure else loading)
        result, failed = self.result(), _failed(generation)
        if result is None:
            return InstanceStatus(unfinished, failed=failed)
        rounds = rounds_reported(generation)
        if not result.stale:
            return InstanceStatus(result.state, rounds, result)
        runs = _has_open_attempt(generation) if run_has_ended is None else not run_has_ended
        if runs:
            return InstanceStatus(JobState.EXECUTING, rounds + 1, result, failed)
        return InstanceStatus(result.state, rounds, result, failed)

    def result(self) -> BatchJobResult | None:
        """The latest report, or None while there is none; its ``stale`` says if a step was run again after it."""
        return self._store.result(self._name)

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


def _latest(generation: Generation) -> Iterator[tuple[Claim | None, Close | None]]:
    for step in generation.checkpoint_names:
        for shard in generation.manifest.shards:
            yield generation.latest(step, shard.id)


def _has_open_attempt(generation: Generation) -> bool:
    return any(claim is not None and close is None for claim, close in _latest(generation))


def _failed(generation: Generation) -> tuple[str, ...]:
    ends = [close for _, close in _latest(generation) if close is not None and close.outcome is CloseOutcome.FAILED]
    return tuple(f"Step {close.step!r} of shard {close.shard} failed: {close.reason}" for close in ends)

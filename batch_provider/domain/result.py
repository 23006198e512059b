"""The report of an instance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from batch_provider.domain.documents import known_fields
from batch_provider.domain.outcome import JobState
from batch_provider.domain.tally import Tally
from batch_provider.domain.text import count

TOLD_APART = r"CheckFailed|IntegrityError|ConstraintException|RaiseException|\w*Violation"
"""Exceptions whose message says which check or constraint it was: SQL and Arrow steps, databases, their triggers.

As a regular expression over the whole name, for Python and DuckDB. Databases give the row only after the first line.
"""


@dataclass(frozen=True)
class ErrorCount:
    """A row of the error table: how many records failed with this exception in this step.

    Checks and constraints are told apart: of those, it is how many failed with this message.
    """

    exception: str
    step: str
    count: int
    sample: str = ""
    """The message of one of them."""


@dataclass(frozen=True)
class StepResult:
    """What one step did, by the latest outcome of every record.

    Attributes:
        not_run: records the step never came to.
        seconds: time its tasks worked, added over shards and attempts.
        share: of the time of all steps, 0 to 1.
        attempts: tasks tried for it; ``processed``: records handed to its function in all of them.
        older_code: fingerprint of the step's code → records that count as that older code did them.
        given_up: failed records that failed in ``max_redrives`` redrives as well, and are not tried again.
        remark: what is to be known of its output, such as that a writer does not count its rows.
    """

    name: str
    received: int
    successful: int
    failed: int
    skipped: int
    not_run: int
    processed: int
    seconds: float
    share: float
    attempts: int
    mean_call_seconds: float | None = None
    call_deviation_seconds: float | None = None
    slowest_call_seconds: float = 0.0
    older_code: Mapping[str, int] = field(default_factory=dict)
    given_up: int = 0
    remark: str = ""

    @property
    def records_per_second(self) -> float | None:
        """Records handed to the function per second of work."""
        return self.processed / self.seconds if self.processed and self.seconds > 0 else None

    @classmethod
    def of(cls, name: str, outcomes: Tally, work: Tally, **facts: Any) -> Self:
        """From the latest outcomes and the work that all attempts did; the other fields as they are."""
        return cls(
            name=name,
            received=outcomes.received,
            successful=outcomes.succeeded,
            failed=outcomes.failed,
            skipped=outcomes.skipped,
            processed=work.processed,
            seconds=work.seconds,
            mean_call_seconds=work.mean_call_seconds,
            call_deviation_seconds=work.call_deviation_seconds,
            slowest_call_seconds=work.slowest_call,
            **facts,
        )


@dataclass(frozen=True)
class BatchJobResult:
    """The report of an instance: Mule's thirteen ``BatchJobResult`` fields in snake case, and more.

    ``processed_records = successful_records + failed_records``; a record that no step skipped over, but that
    never came to its last step, is neither (``not_run_records``).
    """

    job_instance_id: str
    total_records: int
    loaded_records: int
    processed_records: int
    successful_records: int
    failed_records: int
    elapsed_seconds: float
    failed_on_input_phase: bool
    failed_on_loading_phase: bool
    failed_on_complete_phase: bool
    input_phase_exception: str | None
    loading_phase_exception: str | None
    on_complete_phase_exception: str | None

    state: JobState
    reason: str
    """Why it is in that state, in plain words."""
    job: str = ""
    dag_id: str = ""
    run_id: str = ""
    generation: str = ""
    not_run_records: int = 0
    skipped_records: int = 0
    """Outcomes SKIPPED over all steps; a record can be skipped by several."""
    steps: tuple[StepResult, ...] = ()
    errors: tuple[ErrorCount, ...] = ()
    dead_letters: tuple[str, ...] = ()
    """Files with the failed records, relative to the generation."""
    closes: tuple[str, ...] = ()
    """The attempts whose output counts: ``step/shard/claim``."""
    stops: tuple[str, ...] = ()
    """Stop requests this result answers; a later rerun is not bound by them."""
    started_at: str = ""
    ended_at: str = ""
    stale: str = ""
    """Why it is out of date and what to clear, found out by who reads it: a step was run again after it."""

    @property
    def is_successful(self) -> bool:
        """Whether the verdict is SUCCESSFUL; failed records within the limit do not change it."""
        return self.state is JobState.SUCCESSFUL

    @property
    def bottleneck(self) -> StepResult | None:
        """The step that took most of the time."""
        return max(self.steps, key=lambda step: step.seconds, default=None)

    def step(self, name: str) -> StepResult:
        """The result of one step.

        Raises:
            KeyError: there is none of that name.
        """
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(name)

    def summary(self) -> str:
        """One sentence for logs, alerts and the task's error."""
        counts = (
            f"{count(self.total_records, 'record')}: {self.successful_records:,} successful, "
            f"{self.failed_records:,} failed, {self.not_run_records:,} not run"
        )
        stale = f" OUT OF DATE: {self.stale}" if self.stale else ""
        return f"Job {self.job!r} ({self.job_instance_id}) is {self.state}: {counts}. {self.reason}".rstrip() + stale

    def to_json(self) -> dict[str, Any]:
        """As it stands in ``result.<claim>.json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        return cls(
            **{
                **known_fields(cls, data),
                "state": JobState(data["state"]),
                "steps": tuple(StepResult(**known_fields(StepResult, step)) for step in data["steps"]),
                "errors": tuple(ErrorCount(**known_fields(ErrorCount, error)) for error in data["errors"]),
                "dead_letters": _texts(data["dead_letters"]),
                "closes": _texts(data["closes"]),
                "stops": _texts(data["stops"]),
            }
        )


def _texts(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(values)

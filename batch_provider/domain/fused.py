"""Fused steps: a run of steps that a shard passes in one pass, with one checkpoint for all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from batch_provider.domain.accept import AcceptPolicy
from batch_provider.domain.errors import DuplicateStepError
from batch_provider.domain.spec import JobSpec, StepSpec, WriterSpec

MOST_FUSED = 32
"""Steps in one checkpoint: their outcomes are two bits each of a 64-bit number."""


@dataclass(frozen=True, repr=False)
class FusedStep:
    """Steps that are claimed, committed and redriven as one; a record restarts at the first of them.

    A record fails in at most one of them: only the first may take records that have failed.
    """

    steps: tuple[StepSpec, ...]

    @property
    def name(self) -> str:
        """Of its claims and checkpoints: ``<first>_to_<last>``."""
        return f"{self.steps[0].name}_to_{self.steps[-1].name}"

    @property
    def is_streaming(self) -> bool:
        """A streaming aggregator is never fused."""
        return False

    def __repr__(self) -> str:
        """Names only, as of a job."""
        return f"FusedStep({', '.join(step.name for step in self.steps)})"


CheckpointStep = StepSpec | FusedStep
"""What writes checkpoints of its own."""


def fuse(steps: Iterable[StepSpec]) -> tuple[CheckpointStep, ...]:
    """Fuse consecutive steps as far as one checkpoint can hold what they do.

    A run ends after an aggregator, whose groups set the ends of blocks, and before a step that takes failed records:
    a checkpoint has room for one error of a record. A streaming aggregator stands alone, and so does a step that
    commits outside of the store (a writer, a step or an aggregator with a transaction): what it was given must be
    committed before, so that it is the same when a crash or a redrive brings it again (ADR 0015).
    """
    runs: list[list[StepSpec]] = []
    for step in steps:
        if runs and _continues(runs[-1], step):
            runs[-1].append(step)
        else:
            runs.append([step])
    return tuple(FusedStep(tuple(run)) if len(run) > 1 else run[0] for run in runs)


def checkpoint_steps(job: JobSpec, steps: Iterable[StepSpec] | None = None) -> tuple[CheckpointStep, ...]:
    """What writes checkpoints in a job, or in a run of its steps.

    Raises:
        DuplicateStepError: fused steps would have the name of another step.
    """
    chosen = job.steps if steps is None else tuple(steps)
    if not job.fuse_steps:
        return chosen
    found = fuse(chosen)
    names = {step.name for step in job.steps}
    for step in found:
        if isinstance(step, FusedStep) and step.name in names:
            raise DuplicateStepError(job.name, step.name)
    return found


def described(step: CheckpointStep) -> dict[str, Any]:
    """As it stands in the manifest."""
    if isinstance(step, FusedStep):
        return {**described(step.steps[0]), "name": step.name, "steps": [each.name for each in step.steps]}
    return {"name": step.name, "accept_policy": str(step.accept_policy)}


def _continues(run: list[StepSpec], step: StepSpec) -> bool:
    if run[-1].aggregator is not None or _stands_alone(run[-1]) or len(run) == MOST_FUSED:
        return False
    return step.accept_policy is AcceptPolicy.NO_FAILURES and not _stands_alone(step)


def _stands_alone(step: StepSpec) -> bool:
    return step.is_streaming or _has_transaction(step) or isinstance(step.function, WriterSpec)


def _has_transaction(step: StepSpec) -> bool:
    return step.transaction is not None or (step.aggregator is not None and step.aggregator.transaction is not None)

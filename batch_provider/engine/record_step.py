"""A step whose function is called for each record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from batch_provider.domain.layout import Span
from batch_provider.domain.outcome import Outcome
from batch_provider.domain.spec import JobSpec, StepSpec
from batch_provider.engine.accept import Acceptance, call_for, variables_text
from batch_provider.engine.block import Block, BlockResult
from batch_provider.engine.invoke import PER_RECORD, Calls, UserFunction
from batch_provider.engine.patches import PatchWriter, whole_payloads
from batch_provider.engine.ports import GenerationReader
from batch_provider.engine.rows import scatter


class RecordStep:
    """Runs a record step over blocks.

    Args:
        job, step: what the author declared.
        constant: keywords that a function may name: ``instance`` and Airflow's context.
    """

    def __init__(
        self,
        job: JobSpec,
        step: StepSpec,
        constant: dict[str, Any],
        types: Mapping[str, pa.DataType] | None = None,
    ) -> None:
        self.step = step
        self._initial = variables_text(job)
        self._accept = Acceptance(job, step, constant)
        self.function = UserFunction(step.name, step.call, PER_RECORD, constant, step.calls)
        self._patches = PatchWriter(step, types or {})

    def close(self) -> None:
        """Nothing is held open."""

    def block(self, upstream: GenerationReader, span: Span) -> Block:
        """Read what the step needs of a block."""
        return Block(upstream, span, self.step.reads)

    def run(self, block: Block, candidates: np.ndarray) -> BlockResult:
        """Process the records at ``candidates``; the others keep what they have (NOT_RUN in the result)."""
        result = BlockResult(outcome=np.zeros(len(block), dtype=np.uint8))
        result.outcome[candidates] = Outcome.SKIPPED
        accepted, result.errors = self._accept.of(block, candidates)
        calls = call_for(self.function, block, accepted, self._initial)
        result.call_seconds = calls.seconds
        result.errors.update({int(accepted[row]): error for row, error in calls.errors.items()})
        self._apply(block, accepted, calls, result)
        result.outcome[accepted] = Outcome.SUCCEEDED
        result.outcome[list(result.errors)] = Outcome.FAILED
        return result

    def _apply(self, block: Block, accepted: np.ndarray, calls: Calls, result: BlockResult) -> None:
        returned = calls.returned
        if any(value is not None for value in returned) or self.step.output == "replace":
            patches, errors = self._patches.check(returned, accepted)
            result.errors.update(errors)
        else:
            patches = [{}] * len(returned)  # the common case of a step that only checks
        good = list(range(len(returned)))
        if result.errors:
            good = [row for row, position in enumerate(accepted.tolist()) if position not in result.errors]
        replacing = [row for row in good if returned[row] is not None] if self.step.output == "replace" else []
        for row, patch in zip(replacing, whole_payloads([patches[row] for row in replacing]), strict=True):
            patches[row] = patch
        kept, at = (patches, accepted) if len(good) == len(patches) else ([patches[r] for r in good], accepted[good])
        columns, bad = self._patches.columns(block, kept, at)
        result.errors.update(bad)
        result.columns = columns
        if self.step.drop or self.step.output == "replace":
            fine = [row for row, position in enumerate(at.tolist()) if position not in bad]
            positions = (int(accepted[row]) for row in replacing)
            replaced = np.array([position for position in positions if position not in bad], dtype=np.int64)
            result.dropped = self._patches.cut(block, columns, at[fine], replaced)
        if calls.variables:
            result.columns["_vars"] = _variables(block, accepted, calls, result)


def _variables(block: Block, accepted: np.ndarray, calls: Calls, result: BlockResult) -> pa.Array:
    changed = {int(accepted[row]): text for row, text in calls.variables.items()}
    kept = {position: text for position, text in changed.items() if position not in result.errors}
    base = block.column("_vars")
    return scatter(
        pa.array(list(kept.values()), pa.string()),
        np.array(list(kept), dtype=np.int64),
        base if base is not None else pa.nulls(len(block), pa.string()),
    )

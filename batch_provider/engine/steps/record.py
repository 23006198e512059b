"""A step whose function is called for each record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import pyarrow as pa

from batch_provider.domain.layout import Span
from batch_provider.domain.outcome import Outcome
from batch_provider.domain.spec import JobSpec, StepSpec
from batch_provider.engine.calls.invoke import PER_RECORD, UserFunction
from batch_provider.engine.columns.block import Block, BlockResult
from batch_provider.engine.columns.patches import BlockPatches, PatchWriter, whole_payloads
from batch_provider.engine.columns.rows import scatter
from batch_provider.engine.ports.store import GenerationReader
from batch_provider.engine.steps.accept import Acceptance, calls_for
from batch_provider.engine.steps.asking import variables_text


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
        self.function = self.make_function(constant)
        self._patches = PatchWriter(step, types or {})

    def make_function(self, constant: dict[str, Any]) -> UserFunction:
        """What is called for each record."""
        return UserFunction(self.step.name, self.step.call, PER_RECORD, constant, self.step.calls)

    @property
    def types(self) -> Mapping[str, pa.DataType]:
        """The columns that it has written, with the types it gave them."""
        return self._patches.types

    @property
    def stacks(self) -> Mapping[str, str]:
        """Exception type → stack of the first of its kind."""
        return self.function.stacks

    def close(self) -> None:
        """Nothing is held open."""

    def cut(self, upstream: GenerationReader, rest: Span, wanted: int) -> Span:  # noqa: ARG002  # any end will do
        """The next block of ``rest``, of ``wanted`` records."""
        return rest.head(wanted)

    def block(self, upstream: GenerationReader, span: Span) -> Block:
        """Read what the step needs of a block."""
        return Block(upstream, span, self.step.reads)

    def run(self, block: Block, candidates: np.ndarray) -> BlockResult:
        """Process the records at ``candidates``; the others keep what they have (NOT_RUN in the result)."""
        result = BlockResult(outcome=np.zeros(len(block), dtype=np.uint8))
        result.outcome[candidates] = Outcome.SKIPPED
        accepted, result.errors = self._accept.of(block, candidates)
        patches = self._patches.on(block)
        whole: list[np.ndarray] = []
        seconds: list[np.ndarray] = []
        variables: dict[int, str] = {}
        with closing(calls_for(self.function, block, accepted, self._initial)) as runs:
            for positions, calls in runs:
                seconds.append(calls.seconds)
                result.errors.update({int(positions[row]): error for row, error in calls.errors.items()})
                variables.update({int(positions[row]): text for row, text in calls.variables.items()})
                if self.step.output == "replace":
                    whole.append(self._replace(calls.returned, positions, patches))
                else:
                    patches.take(calls.returned, positions)
        result.call_seconds = np.concatenate(seconds) if seconds else result.call_seconds
        replaced = np.concatenate(whole) if whole else _NOBODY
        patches.fill(replaced)
        result.columns = patches.columns()
        result.errors.update(patches.errors)
        if self.step.drop or len(replaced):
            fine = np.array([p for p in accepted.tolist() if p not in result.errors], dtype=np.int64)
            result.dropped = self._patches.cut(block, result.columns, fine, np.intersect1d(replaced, fine))
        if variables:
            result.columns["_vars"] = _variables(block, variables, result)
        result.outcome[accepted] = Outcome.SUCCEEDED
        result.outcome[list(result.errors)] = Outcome.FAILED
        return result

    def _replace(self, returned: Sequence[Any], positions: np.ndarray, patches: BlockPatches) -> np.ndarray:
        """Take the dicts that a run returned as whole payloads; returns the positions that have one."""
        present = [row for row, value in enumerate(returned) if value is not None]
        payloads, errors = self._patches.check([returned[row] for row in present], positions[present])
        patches.errors.update(errors)
        good = [row for row, position in enumerate(positions[present].tolist()) if position not in errors]
        replaced: np.ndarray = positions[present][good]
        patches.add(whole_payloads([payloads[row] for row in good]), replaced)
        return replaced


_NOBODY = np.empty(0, dtype=np.int64)


def _variables(block: Block, changed: Mapping[int, str], result: BlockResult) -> pa.Array:
    kept = {position: text for position, text in changed.items() if position not in result.errors}
    base = block.column("_vars")
    return scatter(
        pa.array(list(kept.values()), pa.string()),
        np.array(list(kept), dtype=np.int64),
        base if base is not None else pa.nulls(len(block), pa.string()),
    )

"""Which records of a block a step takes: the policy first, then the expression; both must hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from batch_provider.domain.accept import AcceptPolicy
from batch_provider.domain.spec import JobSpec, StepSpec
from batch_provider.engine.calls.invoke import PER_RECORD, Calls, RecordError, UserFunction, no_cyclic_gc
from batch_provider.engine.columns.block import Block
from batch_provider.engine.steps.asking import Asking, variables_text


class Acceptance:
    """The acceptance rule of one step.

    Args:
        job: whose variables every record starts with.
        step: whose rule it is.
        constant: keywords a callable expression may name.
    """

    def __init__(self, job: JobSpec, step: StepSpec, constant: dict[str, Any]) -> None:
        self._policy = step.accept_policy
        self._initial = variables_text(job)
        self._sql: str | None = None
        self._call: UserFunction | None = None
        expression = step.accept_expression
        if isinstance(expression, str):
            self._sql = expression
            self._asking = Asking(job, step, [expression])
        elif expression is not None:
            self._call = UserFunction(step.name, expression, PER_RECORD, constant)

    def of(self, block: Block, candidates: np.ndarray) -> tuple[np.ndarray, dict[int, RecordError]]:
        """Which of the ``candidates`` (positions) are taken, and which failed in being asked.

        An expression that raises for a record fails that record, not the block.
        """
        admitted = candidates[self._admits(block.failed_before[candidates])]
        if self._sql is not None and len(admitted):
            return self._by_sql(self._sql, block, admitted)
        if self._call is not None and len(admitted):
            return self._by_call(self._call, block, admitted)
        return admitted, {}

    def _admits(self, failed: np.ndarray) -> np.ndarray:
        if self._policy is AcceptPolicy.ALL:
            return np.ones(len(failed), dtype=bool)
        return failed if self._policy is AcceptPolicy.ONLY_FAILURES else ~failed

    def _by_sql(self, sql: str, block: Block, positions: np.ndarray) -> tuple[np.ndarray, dict[int, RecordError]]:
        taken: list[np.ndarray] = []
        errors: dict[int, RecordError] = {}
        for asked in self._asking.about(block, positions):
            found, inside = asked.accepts(sql), asked.positions
            errors.update({int(inside[row]): RecordError(*error) for row, error in found.errors.items()})
            taken.append(inside[np.asarray(found.mask, dtype=bool)])
        return np.sort(np.concatenate(taken)), errors

    def _by_call(
        self, call: UserFunction, block: Block, positions: np.ndarray
    ) -> tuple[np.ndarray, dict[int, RecordError]]:
        taken: list[bool] = []
        errors: dict[int, RecordError] = {}
        for inside, calls in calls_for(call, block, positions, self._initial):
            taken += map(bool, calls.returned)
            errors.update({int(inside[row]): error for row, error in calls.errors.items()})
        return positions[np.array(taken, dtype=bool)], errors


def calls_for(
    function: UserFunction, block: Block, positions: np.ndarray, initial: str
) -> Iterator[tuple[np.ndarray, Calls]]:
    """Call a per-record function with what its signature asks for, a run of positions at a time.

    What a run returned is the caller's before the next one begins, so it need not stay a Python object.
    """
    if function.wants or not function.is_plain:
        yield positions, _call_with(function, block, positions, initial)
        return
    with no_cyclic_gc():
        for inside, records in block.record_slices(positions):
            yield inside, function.each(records)


def _call_with(function: UserFunction, block: Block, positions: np.ndarray, initial: str) -> Calls:
    extras: list[dict[str, Any]] = [{} for _ in range(len(positions))]
    if "record_id" in function.wants:
        for extra, position in zip(extras, positions.tolist(), strict=True):
            extra["record_id"] = block.span.first + position
    if "failures" in function.wants:
        for extra, failures in zip(extras, block.failures(positions), strict=True):
            extra["failures"] = failures
    variables = block.variables(positions, initial) if "variables" in function.wants else None
    return function.each_with(block.records(positions), extras, variables)

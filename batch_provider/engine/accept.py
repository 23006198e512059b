"""Which records of a block a step takes: the policy first, then the expression; both must hold."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from batch_provider.domain.accept import AcceptPolicy
from batch_provider.domain.errors import InvalidExpressionError
from batch_provider.domain.spec import JobSpec, StepSpec
from batch_provider.engine.block import Block
from batch_provider.engine.invoke import PER_RECORD, RecordError, UserFunction


class Acceptance:
    """The acceptance rule of one step.

    Args:
        step: whose rule it is.
        initial_variables: the job's, as JSON.
        constant: keywords a callable expression may name.
    """

    def __init__(self, step: StepSpec, initial_variables: str, constant: dict[str, Any]) -> None:
        self._policy = step.accept_policy
        self._initial = initial_variables
        self._sql: str | None = None
        self._call: UserFunction | None = None
        self.columns: frozenset[str] = frozenset()
        expression = step.accept_expression
        if isinstance(expression, str):
            from batch_provider.engine.expressions import ExpressionEvaluator, check_expression

            self._sql = expression
            self.columns = check_expression(expression) - {"variables", "failures"}
            self._evaluator = ExpressionEvaluator()
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
        known = {name.lower() for name in block.payload_columns}
        if missing := {name for name in self.columns if name.lower() not in known}:
            raise InvalidExpressionError(sql, _unknown(missing, block))
        taken: list[np.ndarray] = []
        errors: dict[int, RecordError] = {}
        for inside, payload in block.slices(positions):
            variables = [json.loads(text) for text in block.variables(inside, self._initial)]
            failures = block.failures(inside) if "failures" in sql else None
            found = self._evaluator.accepts(sql, payload, variables=variables, failures=failures)
            errors.update({int(inside[row]): RecordError(*error) for row, error in found.errors.items()})
            taken.append(inside[np.asarray(found.mask, dtype=bool)])
        return np.concatenate(taken), errors

    def _by_call(
        self, call: UserFunction, block: Block, positions: np.ndarray
    ) -> tuple[np.ndarray, dict[int, RecordError]]:
        calls = call_for(call, block, positions, self._initial)
        taken = [bool(value) for value in calls.returned]
        errors = {int(positions[row]): error for row, error in calls.errors.items()}
        return positions[np.array(taken, dtype=bool)], errors


def variables_text(job: JobSpec) -> str:
    """What every record's variables start with, as JSON."""
    return json.dumps(dict(job.variables), sort_keys=True)


def _unknown(missing: set[str], block: Block) -> str:
    return f"there is no column {min(missing)!r}; the record has {', '.join(block.payload_columns)}"


def call_for(function: UserFunction, block: Block, positions: np.ndarray, initial: str) -> Any:
    """Call a per-record function with what its signature asks for."""
    if not function.wants:
        return function.each(block.record_slices(positions))
    extras: list[dict[str, Any]] = [{} for _ in range(len(positions))]
    if "record_id" in function.wants:
        for extra, position in zip(extras, positions.tolist(), strict=True):
            extra["record_id"] = block.span.first + position
    if "failures" in function.wants:
        for extra, failures in zip(extras, block.failures(positions), strict=True):
            extra["failures"] = failures
    variables = block.variables(positions, initial) if "variables" in function.wants else None
    return function.each_with(block.records(positions), extras, variables)

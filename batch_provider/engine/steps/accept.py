"""Which records of a block a step takes: the policy first, then the expression; both must hold."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from batch_provider.domain.accept import AcceptPolicy
from batch_provider.domain.errors import InvalidExpressionError
from batch_provider.domain.spec import JobSpec, StepSpec
from batch_provider.engine.calls.invoke import PER_RECORD, Calls, RecordError, UserFunction, no_cyclic_gc
from batch_provider.engine.columns.block import SLICE_ROWS, Block

log = logging.getLogger(__name__)

PLAIN_ROWS = 4 * SLICE_ROWS
"""Records of which an expression over columns alone is asked at a time: nothing is made for each of them."""


class Acceptance:
    """The acceptance rule of one step.

    Args:
        job: whose variables every record starts with.
        step: whose rule it is.
        constant: keywords a callable expression may name.
    """

    def __init__(self, job: JobSpec, step: StepSpec, constant: dict[str, Any]) -> None:
        self._step = step
        self._policy = step.accept_policy
        self._initial = variables_text(job)
        self._is_first = not job.upstream_of(step.name)
        self._unheard_of: set[str] = set()
        self._sql: str | None = None
        self._call: UserFunction | None = None
        self.columns: frozenset[str] = frozenset()
        expression = step.accept_expression
        if isinstance(expression, str):
            from batch_provider.engine.expressions.evaluate import ExpressionEvaluator, check_expression

            self._sql = expression
            self.columns = check_expression(expression)
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
        from batch_provider.engine.expressions.evaluate import referenced_variables, uses_failures

        has_variables, has_failures = bool(referenced_variables(sql)), uses_failures(sql)
        taken: list[np.ndarray] = []
        errors: dict[int, RecordError] = {}
        at_a_time = SLICE_ROWS if has_variables or has_failures else PLAIN_ROWS
        for inside, rows in block.slices(positions, self.columns, at_a_time):
            payload = self._with_absent(sql, rows if rows.column_names else _blank(len(inside)), block)
            texts = block.variables(inside, self._initial) if has_variables else None
            found = self._evaluator.accepts(
                sql,
                payload,
                variables=[json.loads(text) for text in texts] if texts is not None else None,
                failures=block.failures(inside) if has_failures else None,
            )
            errors.update({int(inside[row]): RecordError(*error) for row, error in found.errors.items()})
            taken.append(inside[np.asarray(found.mask, dtype=bool)])
        return np.concatenate(taken), errors

    def _with_absent(self, sql: str, payload: pa.Table, block: Block) -> pa.Table:
        """``payload`` with a null column for each one that only records of other blocks have.

        Patches may add a column to some records only, so what is absent here may exist elsewhere; in the first
        step nothing can have been added, and an unknown name is an error.
        """
        known = {name.lower() for name in payload.column_names}
        for name in sorted(self.columns):
            if name.lower() in known:
                continue
            columns = ", ".join(block.payload_columns)
            if self._is_first:
                raise InvalidExpressionError(sql, f"there is no column {name!r}, only {columns}")
            if name not in self._unheard_of:
                self._unheard_of.add(name)
                log.warning(
                    "Step %s: no record of this block has %r, which its accept_expression reads; it counts as NULL. "
                    "The columns are %s",
                    self._step.name,
                    name,
                    columns,
                )
            payload = payload.append_column(name, pa.nulls(payload.num_rows))
        return payload

    def _by_call(
        self, call: UserFunction, block: Block, positions: np.ndarray
    ) -> tuple[np.ndarray, dict[int, RecordError]]:
        taken: list[bool] = []
        errors: dict[int, RecordError] = {}
        for inside, calls in calls_for(call, block, positions, self._initial):
            taken += map(bool, calls.returned)
            errors.update({int(inside[row]): error for row, error in calls.errors.items()})
        return positions[np.array(taken, dtype=bool)], errors


def _blank(count: int) -> pa.Table:
    """Rows for an expression that reads no column: a table without columns would have no rows either."""
    return pa.table({"": pa.nulls(count)})


def variables_text(job: JobSpec) -> str:
    """What every record's variables start with, as JSON."""
    return json.dumps(dict(job.variables), sort_keys=True)


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

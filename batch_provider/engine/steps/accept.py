"""Which records of a block a step takes: the policy first, then the expression; both must hold."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from batch_provider.domain.accept import AcceptPolicy
from batch_provider.domain.spec import JobSpec, StepSpec
from batch_provider.engine.calls.invoke import (
    PER_RECORD,
    Calls,
    RecordError,
    Run,
    UserFunction,
    fresh_variables,
    no_cyclic_gc,
)
from batch_provider.engine.columns.block import Block
from batch_provider.engine.columns.dicts import dict_maker
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
        with closing(calls_for(call, block, positions, self._initial)) as runs:
            for inside, calls in runs:
                taken += map(bool, calls.returned)
                errors.update({int(inside[row]): error for row, error in calls.errors.items()})
        return positions[np.array(taken, dtype=bool)], errors


def calls_for(
    function: UserFunction, block: Block, positions: np.ndarray, initial: str
) -> Generator[tuple[np.ndarray, Calls], None, None]:
    """Call a per-record function with what its signature asks for, a run of positions at a time.

    What a run returned is the caller's before the next one begins, so it need not stay a Python object.
    """
    if function.is_plain:
        with no_cyclic_gc():
            if not function.wants:
                for inside, records in block.record_slices(positions):
                    yield inside, function.each(records)
                return
            yield from _runs_of(function, block, positions, initial)
    else:
        yield from _runs_of(function, block, positions, initial)


def _runs_of(
    function: UserFunction, block: Block, positions: np.ndarray, initial: str
) -> Generator[tuple[np.ndarray, Calls], None, None]:
    """The same, of a function that asks for keywords, or whose calls are more than one try in turn."""
    asked: deque[np.ndarray] = deque()

    def runs() -> Iterator[Run]:
        for inside, records in block.record_slices(positions):
            asked.append(inside)
            variables = block.variables(inside, initial) if "variables" in function.wants else None
            keywords = _keywords(function, block, inside, variables)
            yield Run(list(zip(records, keywords, strict=True)), variables)

    with closing(function.runs(runs())) as ended:
        for calls in ended:
            yield asked.popleft(), calls


def _keywords(
    function: UserFunction, block: Block, positions: np.ndarray, variables: Sequence[str] | None
) -> Iterable[dict[str, Any]]:
    given: dict[str, Iterable[Any]] = {}
    if "record_id" in function.wants:
        given["record_id"] = (positions + block.span.first).tolist()
    if "failures" in function.wants:
        given["failures"] = block.failures(positions)
    if variables is not None:
        given["variables"] = map(fresh_variables, variables)
    if not given:
        return ({} for _ in range(len(positions)))
    return dict_maker(tuple(given))(zip(*given.values(), strict=True))

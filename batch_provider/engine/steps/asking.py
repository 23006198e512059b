"""What the SQL expressions of a step are asked about: columns, variables and failures of its records."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from batch_provider.domain.declare import placing
from batch_provider.domain.spec import JobSpec, StepSpec
from batch_provider.engine.columns.block import SLICE_ROWS, Block
from batch_provider.engine.expressions.check import refuse_shadowed
from batch_provider.engine.expressions.evaluate import (
    Acceptance,
    Evaluation,
    ExpressionEvaluator,
    check_expression,
    referenced_variables,
    uses_failures,
)
from batch_provider.engine.expressions.functions import fold

log = logging.getLogger(__name__)

PLAIN_ROWS = 4 * SLICE_ROWS
"""Records of which expressions over columns alone are asked at a time: nothing is made for each of them."""


@dataclass(frozen=True)
class Asked:
    """Records that expressions are asked about.

    Attributes:
        positions: of these records in their block.
        payload: the columns that the expressions name.
        variables: of each record; None: no expression names one.
        failures: likewise.
    """

    asking: Asking
    positions: np.ndarray
    payload: pa.Table
    variables: list[dict[str, Any]] | None
    failures: list[list[dict[str, Any]]] | None

    def evaluate(self, expression: str) -> Evaluation:
        """See :meth:`ExpressionEvaluator.evaluate`."""
        with placing(self.asking.place):
            return self.asking.evaluator.evaluate(expression, self.payload, **self._more)

    def accepts(self, expression: str) -> Acceptance:
        """See :meth:`ExpressionEvaluator.accepts`."""
        with placing(self.asking.place):
            return self.asking.evaluator.accepts(expression, self.payload, **self._more)

    @property
    def _more(self) -> dict[str, Any]:
        return {"variables": self.variables, "failures": self.failures}

    def but(self, bad: np.ndarray) -> Asked:
        """Those of the records that ``bad`` does not name."""
        rows = np.flatnonzero(~bad)
        return Asked(
            self.asking,
            self.positions[rows],
            self.payload.take(pa.array(rows)),
            None if self.variables is None else [self.variables[row] for row in rows.tolist()],
            None if self.failures is None else [self.failures[row] for row in rows.tolist()],
        )


class Asking:
    """Makes what the expressions of one step read; the same for accept expressions, checks and assignments.

    Args:
        job, step: what the author declared.
        expressions: of the step.
        evaluator: with limits of its own; None: the usual ones.
    """

    def __init__(
        self, job: JobSpec, step: StepSpec, expressions: Iterable[str], evaluator: ExpressionEvaluator | None = None
    ) -> None:
        self.place = f" in step {step.name!r} of job {job.name!r}"
        self.evaluator = evaluator or ExpressionEvaluator()
        self._expressions = tuple(expressions)
        self._step, self._initial = step.name, variables_text(job)
        self._unheard_of: set[str] = set()
        named = [(name, text) for text in self._expressions for name in check_expression(text)]
        self._named: Mapping[str, str] = dict(sorted(named))
        self._variables_named = sorted({name for text in self._expressions for name in referenced_variables(text)})
        self._with_failures = any(map(uses_failures, self._expressions))

    def about(self, block: Block, positions: np.ndarray) -> Iterator[Asked]:
        """The records at ``positions``, which ascend, a run at a time.

        A run's records have variables of the same kinds: what stands beside a number, a text for example, would
        otherwise decide what the number is to the expression.

        Raises:
            InvalidExpressionError: there is no such column, or one that hides what the expression means.
        """
        with placing(self.place):
            for text in self._expressions:
                refuse_shadowed(text, block.payload_columns)
        at_a_time = SLICE_ROWS if self._variables_named or self._with_failures else PLAIN_ROWS
        for inside, rows in block.slices(positions, self._named, at_a_time):
            payload = self._with_absent(rows if rows.column_names else _blank(len(inside)), block)
            failures = block.failures(inside) if self._with_failures else None
            if not self._variables_named:
                yield Asked(self, inside, payload, None, failures)
                continue
            texts = block.variables(inside, self._initial)
            parsed = {text: json.loads(text) for text in set(texts)}
            yield from self._by_kinds(Asked(self, inside, payload, [parsed[text] for text in texts], failures))

    def _by_kinds(self, asked: Asked) -> Iterator[Asked]:
        kinds = [tuple(_kind(own.get(name)) for name in self._variables_named) for own in asked.variables or ()]
        if len(different := dict.fromkeys(kinds)) == 1:
            yield asked
            return
        for kind in different:
            yield asked.but(np.array([other != kind for other in kinds]))

    def _with_absent(self, payload: pa.Table, block: Block) -> pa.Table:
        """``payload`` with a null column for each one that only records of other blocks have.

        Patches may add a column to some records only, and so may files of the input: what is absent here may exist
        elsewhere. A name that nobody can have is refused by the load, one that nobody has is told by on-complete.
        """
        known = {fold(name) for name in payload.column_names}
        for name, text in self._named.items():
            if fold(name) in known:
                continue
            columns = block.payload_columns
            if name not in self._unheard_of:
                self._unheard_of.add(name)
                log.warning(
                    "Step %s: no record of this block has %r, which its expression %r reads; it counts as NULL. "
                    "The columns are %s",
                    self._step,
                    name,
                    text,
                    ", ".join(columns) or "none",
                )
            known.add(fold(name))
            payload = payload.append_column(name, pa.nulls(payload.num_rows))
        return payload


def variables_text(job: JobSpec) -> str:
    """What every record's variables start with, as JSON."""
    return json.dumps(dict(job.variables), sort_keys=True)


def _kind(value: Any) -> str:
    """What JSON has of kinds, and whether a column of whole numbers can hold it."""
    is_large = isinstance(value, int) and not -(2**63) <= value < 2**63
    return "large" if is_large else type(value).__name__


def _blank(count: int) -> pa.Table:
    """Rows for an expression that reads no column: a table without columns would have no rows either."""
    return pa.table({"": pa.nulls(count)})

"""The SQL expressions of a step over a block's records: checks and assignments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa

from batch_provider.domain.declare import placing
from batch_provider.domain.errors import ExpressionLimitError, InvalidExpressionError
from batch_provider.domain.spec import JobSpec, SqlSpec, StepSpec
from batch_provider.engine.calls.invoke import RecordError
from batch_provider.engine.columns.block import Block
from batch_provider.engine.columns.rows import is_storable, one_chunk
from batch_provider.engine.steps.asking import Asked, Asking

Made = tuple[dict[str, pa.Array], dict[int, RecordError]]
"""Columns for the records that passed, and by position why the others did not."""


class SqlWork:
    """Checks first, then assignments over the records that passed them.

    All in one statement as long as no expression raises for any record, whether or not a check before it would have
    kept the record away; after that one statement for each, over the records that are left.

    Args:
        job, step: what the author declared.
        sql: the expressions of the step.
    """

    def __init__(self, job: JobSpec, step: StepSpec, sql: SqlSpec) -> None:
        self._sql = sql
        expressions = [*sql.checks.values(), *sql.assign.values()]
        self._asking = Asking(job, step, expressions)
        self._all = _struct({str(number): text for number, text in enumerate(expressions)})
        self._is_one_statement = True

    def __call__(self, block: Block, positions: np.ndarray) -> Iterator[tuple[np.ndarray, Made]]:
        """Runs of the records at ``positions``, and what became of them."""
        for asked in self._asking.about(block, positions):
            made = self._in_one(asked) if self._is_one_statement else None
            if made is None:
                self._is_one_statement = False
                made = self._in_turn(asked)
            self._check_types(made[0])
            yield asked.positions, made

    def _in_one(self, asked: Asked) -> Made | None:
        """One statement for everything; None: it raises for a record, or is not what it should be."""
        try:
            found = asked.evaluate(self._all)
        except (InvalidExpressionError, ExpressionLimitError):
            return None  # in turn, it will be clear which one
        values = one_chunk(found.values)
        checks = [values.field(number) for number in range(len(self._sql.checks))]
        if found.errors or not all(pa.types.is_boolean(check.type) for check in checks):
            return None
        errors: dict[int, RecordError] = {}
        good = np.ones(len(asked.positions), dtype=bool)
        for message, check in zip(self._sql.checks, checks, strict=True):
            passed = check.fill_null(False).to_numpy(zero_copy_only=False)
            failing = asked.positions[good & ~passed].tolist()
            errors.update(dict.fromkeys(failing, RecordError("CheckFailed", message)))
            good &= passed
        assigned = {name: values.field(len(checks) + at) for at, name in enumerate(self._sql.assign) if good.any()}
        kept = pa.array(good)
        return {name: column.filter(kept) if errors else column for name, column in assigned.items()}, errors

    def _in_turn(self, asked: Asked) -> Made:
        errors: dict[int, RecordError] = {}
        for message, expression in self._sql.checks.items():
            accepted = asked.accepts(expression)
            bad = ~np.asarray(accepted.mask, dtype=bool)
            for row in np.flatnonzero(bad).tolist():
                errors[int(asked.positions[row])] = RecordError(*accepted.errors.get(row, ("CheckFailed", message)))
            asked = asked.but(bad) if bad.any() else asked
        columns: dict[str, pa.Array] = {}
        for name, expression in self._sql.assign.items():
            if not len(asked.positions):
                return {}, errors
            found = asked.evaluate(expression)
            columns[name] = one_chunk(found.values)
            if found.errors:
                errors |= {int(asked.positions[row]): RecordError(*error) for row, error in found.errors.items()}
                bad = np.zeros(len(asked.positions), dtype=bool)
                bad[list(found.errors)] = True
                asked = asked.but(bad)
                columns = {made: column.filter(pa.array(~bad)) for made, column in columns.items()}
        return (columns if len(asked.positions) else {}), errors

    def _check_types(self, columns: Mapping[str, pa.Array]) -> None:
        """Refuse what no checkpoint could hold: it is the expression's type, whatever the records have."""
        for name, column in columns.items():
            if not is_storable(column.type):
                reason = f"its values are of type {column.type}, which Parquet cannot hold"
                advice = "Cast them to a type of text, numbers or times."
                with placing(self._asking.place):
                    raise InvalidExpressionError(self._sql.assign[name], reason, advice=advice)


def _struct(expressions: Mapping[str, str]) -> str:
    """One expression of several: a struct with a field for each."""
    return f"{{{', '.join(f'{_quoted(name)}: ({text})' for name, text in expressions.items())}}}"


def _quoted(name: str) -> str:
    escaped = name.replace("'", "''")
    return f"'{escaped}'"

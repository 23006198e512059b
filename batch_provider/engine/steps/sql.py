"""The SQL expressions of a step over a block's records: checks and assignments."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from batch_provider.domain.errors import InvalidExpressionError
from batch_provider.domain.spec import SqlSpec
from batch_provider.engine.calls.invoke import RecordError
from batch_provider.engine.columns.rows import one_chunk
from batch_provider.engine.expressions.evaluate import ExpressionEvaluator, check_expression


class SqlWork:
    """Checks first, then assignments over the records that passed them.

    All in one statement as long as no expression raises for any record, whether or not a check before it would have
    kept the record away; after that one statement for each, over the records that are left.
    """

    def __init__(self, sql: SqlSpec) -> None:
        self._sql = sql
        self._evaluator = ExpressionEvaluator()
        expressions = [*sql.checks.values(), *sql.assign.values()]
        self._assign_all = _struct(sql.assign)
        self._all = _struct({str(number): text for number, text in enumerate(expressions)})
        self._is_one_statement = True
        self.columns = frozenset(name for text in expressions for name in check_expression(text))

    def __call__(self, positions: np.ndarray, payload: pa.Table) -> tuple[dict[str, pa.Array], dict[int, RecordError]]:
        """Columns for the records that passed, and why the others did not."""
        found = self._in_one(positions, payload) if self._is_one_statement else None
        if found is None:
            self._is_one_statement = False
            found = self._in_turn(positions, payload)
        return found

    def _in_one(
        self, positions: np.ndarray, payload: pa.Table
    ) -> tuple[dict[str, pa.Array], dict[int, RecordError]] | None:
        """One statement for everything; None: it raises for a record, or is not what it should be."""
        try:
            found = self._evaluator.evaluate(self._all, payload)
        except InvalidExpressionError:
            return None  # in turn, it will be clear which one
        values = one_chunk(found.values)
        checks = [values.field(number) for number in range(len(self._sql.checks))]
        if found.errors or not all(pa.types.is_boolean(check.type) for check in checks):
            return None
        errors: dict[int, RecordError] = {}
        good = np.ones(len(positions), dtype=bool)
        for message, check in zip(self._sql.checks, checks, strict=True):
            passed = check.fill_null(False).to_numpy(zero_copy_only=False)
            failing = positions[good & ~passed].tolist()
            errors.update(dict.fromkeys(failing, RecordError("CheckFailed", message)))
            good &= passed
        assigned = {name: values.field(len(checks) + at) for at, name in enumerate(self._sql.assign) if good.any()}
        kept = pa.array(good)
        return {name: column.filter(kept) if errors else column for name, column in assigned.items()}, errors

    def _in_turn(self, positions: np.ndarray, payload: pa.Table) -> tuple[dict[str, pa.Array], dict[int, RecordError]]:
        errors: dict[int, RecordError] = {}
        rows = np.arange(len(positions))
        for message, expression in self._sql.checks.items():
            found = self._evaluator.accepts(expression, payload)
            bad = ~np.asarray(found.mask, dtype=bool)
            for row in np.flatnonzero(bad).tolist():
                kind, text = found.errors.get(row, ("CheckFailed", message))
                errors.setdefault(int(positions[rows[row]]), RecordError(kind, text))
            if bad.any():
                payload, rows = payload.filter(pa.array(~bad)), rows[~bad]
        if not self._sql.assign or len(rows) == 0:
            return {}, errors
        return self._assigned(positions, payload, rows, errors)

    def _assigned(
        self, positions: np.ndarray, payload: pa.Table, rows: np.ndarray, errors: dict[int, RecordError]
    ) -> tuple[dict[str, pa.Array], dict[int, RecordError]]:
        found = self._evaluator.evaluate(self._assign_all, payload)
        for row, error in found.errors.items():
            errors[int(positions[rows[row]])] = RecordError(*error)
        values = one_chunk(found.values)
        if found.errors:
            keep = np.setdiff1d(np.arange(len(rows)), np.fromiter(found.errors, np.int64, len(found.errors)))
            values = values.take(pa.array(keep))
        return {name: values.field(index) for index, name in enumerate(self._sql.assign)}, errors


def _struct(expressions: Mapping[str, str]) -> str:
    """One expression of several: a struct with a field for each."""
    return f"{{{', '.join(f'{_quoted(name)}: ({text})' for name, text in expressions.items())}}}"


def _quoted(name: str) -> str:
    escaped = name.replace("'", "''")
    return f"'{escaped}'"

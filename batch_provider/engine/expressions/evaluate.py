"""Scalar SQL expressions over a record's columns, evaluated a block at a time in the sandbox."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch_provider.domain.errors import ExpressionLimitError, InvalidExpressionError
from batch_provider.domain.text import count
from batch_provider.engine.expressions.check import (
    FAILURES,
    VARIABLES,
    check_expression,
    growth_of,
    referenced_variables,
    resolve_columns,
    uses_failures,
)
from batch_provider.engine.expressions.functions import fold
from batch_provider.engine.expressions.sandbox import DEFAULT_MEMORY, DEFAULT_TIMEOUT, Sandbox, shared

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, Statement

__all__ = [
    "EXACT_ERRORS",
    "Acceptance",
    "Evaluation",
    "ExpressionEvaluator",
    "check_expression",
    "referenced_variables",
    "resolve_columns",
    "uses_failures",
]

EXACT_ERRORS = 1_000
"""So many different failing rows of a block are evaluated alone, for a message of their own."""

Variables = Sequence[Mapping[str, Any] | None]
Failures = Sequence[Sequence[Mapping[str, Any]]]
Errors = dict[int, tuple[str, str]]

_FAILURE = pa.struct([("step", pa.string()), ("type", pa.string()), ("message", pa.string())])
_BLOCK, _FAILED = "__batch_block", "__batch_failed"  # relations: no column is written like this


@dataclass(frozen=True)
class Evaluation:
    """The values of one expression over one block.

    Attributes:
        values: one per row, in order; null where the row failed.
        errors: by row index, the type and message of what its evaluation raised.
    """

    values: pa.ChunkedArray
    errors: Errors


@dataclass(frozen=True)
class Acceptance:
    """Which rows of a block a boolean expression accepts.

    Attributes:
        mask: one bool per row; False for NULL and where the row failed.
        errors: as in :class:`Evaluation`.
    """

    mask: np.ndarray[Any, np.dtype[np.bool_]]
    errors: Errors


class ExpressionEvaluator:
    """Evaluates expressions over blocks, in a sandbox that is opened at first use, and again after a fork.

    Args:
        timeout: seconds that the evaluation over one block may take.
        memory_limit: as DuckDB's option.
    """

    def __init__(self, *, timeout: float = DEFAULT_TIMEOUT, memory_limit: str = DEFAULT_MEMORY) -> None:
        is_plain = (timeout, memory_limit) == (DEFAULT_TIMEOUT, DEFAULT_MEMORY)
        self._own = None if is_plain else Sandbox(timeout=timeout, memory_limit=memory_limit)

    @property
    def _sandbox(self) -> Sandbox:
        return self._own or shared()

    def evaluate(
        self,
        expression: str,
        block: pa.Table,
        *,
        variables: Variables | None = None,
        failures: Failures | None = None,
    ) -> Evaluation:
        """Evaluate ``expression`` for every row of ``block``.

        A row whose evaluation raises is an error of that row only. Both sides of AND and OR are evaluated for
        every row: only CASE, COALESCE, TRY and TRY_CAST guard. Times are in UTC. An interruption leaves as it is.

        Args:
            expression: as for :func:`check_expression`.
            block: every payload column; only those that are referred to are read.
            variables: per row; a name that a row does not have is NULL, one of mixed types is VARCHAR.
            failures: per row, each with ``step``, ``type`` and ``message``.

        Raises:
            InvalidExpressionError: it cannot be evaluated over these columns.
            ExpressionLimitError: not within the time or the memory that it may take.
        """
        import duckdb

        table, sandbox = _relation(expression, block, variables, failures), self._sandbox
        try:
            return sandbox.run(lambda conn: _in_portions(conn, expression, table, _bytes_of(sandbox.memory_limit)))
        except InvalidExpressionError as error:  # of what it stands in, as DuckDB was given it
            raise InvalidExpressionError(expression, error.reason, advice=error.advice) from None
        except TimeoutError as error:
            limit = str(error)
        except (MemoryError, duckdb.OutOfMemoryException):
            limit = f"more than {sandbox.memory_limit} of memory"
        raise ExpressionLimitError(expression, f"{limit} for {count(table.num_rows, 'record')}")

    def accepts(
        self,
        expression: str,
        block: pa.Table,
        *,
        variables: Variables | None = None,
        failures: Failures | None = None,
    ) -> Acceptance:
        """Say which rows ``expression`` accepts; the arguments are those of :meth:`evaluate`.

        Raises:
            InvalidExpressionError: as for :meth:`evaluate`, or its values are not boolean.
        """
        found = self.evaluate(expression, block, variables=variables, failures=failures)
        kind = found.values.type
        if not (pa.types.is_boolean(kind) or pa.types.is_null(kind)):
            reason = f"its values are of type {kind}, not true or false"
            raise InvalidExpressionError(expression, reason, advice="Compare them with something.")
        mask = pc.fill_null(found.values.cast(pa.bool_()), False)
        return Acceptance(np.asarray(mask.to_numpy(), dtype=np.bool_), found.errors)

    def close(self) -> None:
        """Release the sandbox; a later use opens another."""
        self._sandbox.close()


def _relation(expression: str, block: pa.Table, variables: Variables | None, failures: Failures | None) -> pa.Table:
    """What the expression reads of ``block``, under the names it uses; last, the number of each row."""
    rows, columns = block.num_rows, {}
    for written, column in resolve_columns(expression, block.schema.names).items():
        columns[fold(written)] = (written, block.column(column))
    if names := sorted(referenced_variables(expression)):
        if len({fold(name) for name in names}) < len(names):
            raise InvalidExpressionError(expression, f"variables {names} differ by the case of letters only")
        given = [one or {} for one in variables] if variables is not None else [{}] * rows
        arrays = [_typed([one.get(name) for one in given]) for name in names]
        columns[VARIABLES] = (VARIABLES, pa.StructArray.from_arrays(arrays, names))
    if uses_failures(expression):
        listed = pa.array(failures if failures is not None else [[]] * rows, pa.list_(_FAILURE))
        columns[FAILURES] = (FAILURES, listed)
    row = "__batch_row"
    while row in columns:
        row += "_"
    columns[row] = (row, pa.array(np.arange(rows, dtype=np.int64)))
    return pa.table([array for _, array in columns.values()], [name for name, _ in columns.values()])


def _typed(values: list[Any]) -> pa.Array:
    """The values in the type they share, else as text."""
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):
        texts = [v if v is None or isinstance(v, str) else json.dumps(v, default=str) for v in values]
        return pa.array(texts, pa.string())


def _in_portions(conn: DuckDBPyConnection, expression: str, table: pa.Table, limit: int) -> Evaluation:
    """As :func:`_evaluate`, of as many rows at a time as what the expression makes of them leaves room for.

    Raises:
        MemoryError: what it makes of all rows is more than the sandbox may use.
    """
    times = growth_of(expression)
    if times == 1 or table.nbytes * times <= limit // 4:
        return _evaluate(conn, expression, table)
    values: list[pa.ChunkedArray] = []
    errors: Errors = {}
    start = made = 0
    while start < table.num_rows:
        count_of = table.num_rows - start
        while count_of > 1 and table.slice(start, count_of).nbytes * times > limit // 4:
            count_of //= 2
        found = _evaluate(conn, expression, table.slice(start, count_of))
        errors.update(found.errors)
        values.append(found.values)
        start, made = start + count_of, made + found.values.nbytes
        if made > limit:
            raise MemoryError
    return Evaluation(_joined(values), errors)


def _bytes_of(memory_limit: str) -> int:
    """Of a limit as DuckDB writes it: 1GB."""
    return int(memory_limit[:-2]) * {"KB": 10**3, "MB": 10**6, "GB": 10**9}[memory_limit[-2:]]


def _evaluate(conn: DuckDBPyConnection, expression: str, table: pa.Table) -> Evaluation:
    """Evaluate a checked expression for every row.

    One statement when no row fails. Otherwise a second one, under ``TRY``, finds the rows that fail and the
    values of all others, and then each failing row is evaluated alone for its message.

    Raises:
        InvalidExpressionError: it cannot be bound to these columns, whatever the rows hold.
    """
    try:
        return Evaluation(_select(conn, f"({expression})", table), {})
    except _RaisedError:
        values = _guarded(conn, expression, table)
    failed = np.flatnonzero(pc.is_null(values).to_numpy())
    errors = _errors(conn, expression, table.take(failed)) if failed.size else {}
    kept = pc.struct_field(values, "value") if pa.types.is_struct(values.type) else values
    return Evaluation(kept, errors)


class _RaisedError(Exception):
    """An expression raised while rows ran through it."""


def _select(conn: DuckDBPyConnection, expression: str, table: pa.Table) -> pa.ChunkedArray:
    """Its values. What binding refuses, no row could satisfy; what running raises, a row has caused.

    Raises:
        InvalidExpressionError: it cannot be bound.
        _RaisedError: it can, and raised for some row. Which class DuckDB raises then says nothing: a time zone that
            does not exist is a NotImplementedException, an empty list to reduce a bare Error.
    """
    import duckdb

    conn.register(_BLOCK, table)
    try:
        try:
            bound = conn.sql(f'SELECT {expression} AS "value" FROM {_BLOCK}')
        except duckdb.Error as error:
            _pass_on(error)
            reason = _described(error)[1].partition("\n")[0].rstrip(".!")
            advice = "Make it fit the types of the columns, with CAST where they differ."
            raise InvalidExpressionError(expression, reason, advice=advice) from None
        try:
            return bound.to_arrow_table().column(0)
        except duckdb.Error as error:
            _pass_on(error)
            raise _RaisedError from error
    finally:
        with suppress(Exception):  # the error of the statement is the one to see
            conn.unregister(_BLOCK)


def _pass_on(error: Exception) -> None:
    """Raise an error that is no record's: memory, a bug or an interruption."""
    import duckdb

    others = duckdb.InternalError | duckdb.FatalException | duckdb.InterruptException
    if isinstance(error, duckdb.OperationalError | others):
        raise error


def _guarded(conn: DuckDBPyConnection, expression: str, table: pa.Table) -> pa.ChunkedArray:
    """A struct ``value`` for each row, null where the expression raises.

    ``TRY`` guards most of what DuckDB raises, not all: where it raises all the same, the rows are halved.
    """
    try:
        return _select(conn, f"TRY({{'value': ({expression})}})", table)
    except (_RaisedError, InvalidExpressionError):
        # error() may not stand under TRY; without it the expression can be bound, or this would not be asked
        if table.num_rows > 1:
            half = table.num_rows // 2
            parts = [_guarded(conn, expression, part) for part in (table.slice(0, half), table.slice(half))]
            return _joined(parts)
        return _alone(conn, expression, table)


def _alone(conn: DuckDBPyConnection, expression: str, row: pa.Table) -> pa.ChunkedArray:
    try:
        return _select(conn, f"{{'value': ({expression})}}", row)
    except _RaisedError:
        return pa.chunked_array([pa.nulls(1)])


def _joined(parts: list[pa.ChunkedArray]) -> pa.ChunkedArray:
    """One after the other; a part in which every row raises has no type of its own."""
    kinds = [part.type for part in parts if not pa.types.is_null(part.type)]
    kind = kinds[0] if kinds else pa.null()
    return pa.chunked_array([chunk.cast(kind) for part in parts for chunk in part.chunks], kind)


def _errors(conn: DuckDBPyConnection, expression: str, failed: pa.Table) -> Errors:
    """What each failing row raises: equal rows are evaluated once, those after EXACT_ERRORS together."""
    import duckdb

    number = failed.column_names[-1]
    conn.register(_BLOCK, failed)
    conn.execute(f"CREATE OR REPLACE TEMP TABLE {_FAILED} AS SELECT * FROM {_BLOCK}")
    conn.unregister(_BLOCK)
    one, others = (
        conn.extract_statements(f"SELECT ({expression}) FROM {_FAILED} WHERE {number} {condition} ?")[0]
        for condition in ("=", ">=")
    )

    def raised(statement: Statement, row: int) -> tuple[str, str]:
        try:
            conn.execute(statement, [row]).fetchall()
        except duckdb.Error as error:
            _pass_on(error)
            return _described(error)
        # not known to happen: the row is here because the expression raised for it
        return "ExpressionError", "the expression cannot be evaluated for this record"

    alike: dict[str, list[int]] = {}
    for record in failed.to_pylist():
        row = record.pop(number)
        alike.setdefault(repr(record), []).append(row)
    groups = list(alike.values())
    found: Errors = {}
    for group in groups[:EXACT_ERRORS]:
        found.update(dict.fromkeys(group, raised(one, group[0])))
    if rest := [row for group in groups[EXACT_ERRORS:] for row in group]:
        kind, message = raised(others, min(rest))
        note = f"{message} (the first of {len(rest):,} failed records that were not looked at one by one)"
        found.update(dict.fromkeys(rest, (kind, note)))
    conn.execute(f"DROP TABLE {_FAILED}")
    return dict(sorted(found.items()))


def _described(error: Exception) -> tuple[str, str]:
    """The type and the message, without DuckDB's prefix and its picture of the statement."""
    message = re.sub(r"^[A-Z][\w ]* Error: ", "", str(error).partition("\n\nLINE ")[0])
    return type(error).__name__, message

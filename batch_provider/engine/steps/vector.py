"""Vectorised steps: SQL expressions and Arrow functions over blocks, each record's failure its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa

from batch_provider.domain.layout import Span
from batch_provider.domain.names import RESERVED_COLUMNS
from batch_provider.domain.outcome import Outcome
from batch_provider.domain.spec import JobSpec, SqlSpec, StepSpec
from batch_provider.engine.calls.invoke import RecordError, UserFunction
from batch_provider.engine.columns.block import Block, BlockResult
from batch_provider.engine.columns.patches import forget_kept
from batch_provider.engine.columns.rows import one_chunk, scatter, spread, unify
from batch_provider.engine.ports.store import GenerationReader
from batch_provider.engine.steps.accept import Acceptance

PER_BLOCK = ("record_ids",)


@dataclass(frozen=True)
class Failed:
    """What :func:`failed` returns."""

    mask: Any
    message: Any
    block: pa.RecordBatch | pa.Table | None


def failed(mask: Any, message: Any, block: pa.RecordBatch | pa.Table | None = None) -> Failed:
    """Say which records of a block fail, and return the block with it.

    Args:
        mask: a boolean for each row, as an Arrow or numpy array or a list; null counts as False.
        message: one text for all of them, or one for each row.
        block: the block that the step returns for the others; None: their payload stays.
    """
    return Failed(mask, message, block)


Work = Callable[[np.ndarray, pa.Table], tuple[dict[str, pa.Array], dict[int, RecordError]]]
"""(positions, payload) → columns for those rows that are not in the errors, in order, and errors by position."""


class VectorStep:
    """Runs a SQL or Arrow step over blocks.

    Args:
        job, step: what the author declared.
        constant: keywords that the function may name: ``instance`` and Airflow's context.
    """

    def __init__(self, job: JobSpec, step: StepSpec, constant: dict[str, Any]) -> None:
        self.step = step
        self._accept = Acceptance(job, step, constant)
        self._reads = step.reads
        self._work: Work
        if isinstance(step.function, SqlSpec):
            from batch_provider.engine.steps.sql import SqlWork

            self.function = UserFunction(step.name, _nothing, PER_BLOCK, {})
            self._work = SqlWork(step.function)
            self._reads = tuple(sorted(self._work.columns)) if step.reads is None else step.reads
        else:
            self.function = UserFunction(step.name, step.call, PER_BLOCK, constant)
            self._work = _ArrowWork(self.function)

    @property
    def types(self) -> Mapping[str, pa.DataType]:
        """Nothing has to be remembered: what a function returns has its types already."""
        return {}

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
        return Block(upstream, span, self._reads)

    def run(self, block: Block, candidates: np.ndarray) -> BlockResult:
        """Process the records at ``candidates``."""
        result = BlockResult(outcome=np.zeros(len(block), dtype=np.uint8))
        result.outcome[candidates] = Outcome.SKIPPED
        accepted, result.errors = self._accept.of(block, candidates)
        parts: dict[str, list[tuple[np.ndarray, pa.Array]]] = {}
        started = perf_counter()
        for positions, payload in block.slices(accepted, rows=len(block)):
            columns, errors = self._work(positions, payload)
            result.errors.update(errors)
            good = np.setdiff1d(positions, np.fromiter(errors, np.int64, len(errors)), assume_unique=True)
            for name, column in columns.items():
                parts.setdefault(name, []).append((good, column))
        each = (perf_counter() - started) / max(len(accepted), 1)
        result.call_seconds = np.full(len(accepted), each)
        result.columns = {name: _assemble(block, name, pieces) for name, pieces in parts.items()}
        if block.kept:
            forget_kept(block, result.columns, {name: _positions(pieces) for name, pieces in parts.items()})
        result.outcome[accepted] = Outcome.SUCCEEDED
        result.outcome[list(result.errors)] = Outcome.FAILED
        return result


def _nothing(_: Any) -> None:
    """A SQL step calls no function of the author's."""


def _positions(pieces: list[tuple[np.ndarray, pa.Array]]) -> np.ndarray:
    return np.concatenate([at for at, _ in pieces])


def _assemble(block: Block, name: str, pieces: list[tuple[np.ndarray, pa.Array]]) -> pa.Array:
    """The column over the whole block: the pieces, elsewhere what the records came with."""
    positions = _positions(pieces)
    values = pa.concat_arrays([array for _, array in pieces])
    if len(positions) == len(block):
        return values
    base = block.column(name)
    if base is None:
        return spread(values, positions, len(block))
    target = unify(values.type, base.type)
    if target is not None:
        return scatter(values.cast(target), positions, base.cast(target))
    block.keep_aside(name, base, positions)
    return spread(values, positions, len(block))


class _ArrowWork:
    """Calls the author's function with a RecordBatch; one that raises is halved until the bad records stand alone."""

    def __init__(self, function: UserFunction) -> None:
        self._function = function

    def __call__(self, positions: np.ndarray, payload: pa.Table) -> tuple[dict[str, pa.Array], dict[int, RecordError]]:
        batch = _batch_of(payload)
        try:
            returned = self._function.once(batch, record_ids=positions)
            return _understand(returned, batch, positions)
        except Exception as error:  # noqa: BLE001  # this is where user code ends
            noted = self._function.note(error)
        if len(positions) == 1:
            return {}, {int(positions[0]): noted}
        half = len(positions) // 2
        first = self(positions[:half], payload.slice(0, half))
        second = self(positions[half:], payload.slice(half))
        return _join(first, second, positions, payload), {**first[1], **second[1]}


def _join(
    first: tuple[dict[str, pa.Array], dict[int, RecordError]],
    second: tuple[dict[str, pa.Array], dict[int, RecordError]],
    positions: np.ndarray,
    payload: pa.Table,
) -> dict[str, pa.Array]:
    """The columns of both halves; what one half did not touch is taken from the payload."""
    half = len(positions) // 2
    found: dict[str, pa.Array] = {}
    for name in dict.fromkeys([*first[0], *second[0]]):
        parts: list[pa.Array] = []
        kinds = [made[name].type for made, _ in (first, second) if name in made]
        for (made, errors), at, offset in ((first, positions[:half], 0), (second, positions[half:], half)):
            good = [row for row, position in enumerate(at.tolist()) if position not in errors]
            if name in made:
                parts.append(made[name])
            elif name in payload.column_names:
                parts.append(one_chunk(payload[name]).take(pa.array(np.array(good, np.int64) + offset)))
            else:
                parts.append(pa.nulls(len(good), kinds[0]))
        target = unify(parts[0].type, parts[1].type) or kinds[0]
        found[name] = pa.concat_arrays([part.cast(target) for part in parts])
    return found


def _batch_of(payload: pa.Table) -> pa.RecordBatch:
    combined = payload.combine_chunks().to_batches()
    return combined[0] if combined else pa.RecordBatch.from_pylist([], schema=payload.schema)


def _understand(
    returned: Any, batch: pa.RecordBatch, positions: np.ndarray
) -> tuple[dict[str, pa.Array], dict[int, RecordError]]:
    """Columns that are new or not the ones the function was given, and the records it failed."""
    errors: dict[int, RecordError] = {}
    keep: pa.Array | None = None
    if isinstance(returned, Failed):
        mask, messages = _mask(returned, len(batch))
        for row in np.flatnonzero(mask).tolist():
            errors[int(positions[row])] = RecordError("CheckFailed", str(messages[row]))
        keep, returned = (pa.array(~mask) if mask.any() else None), returned.block
    if returned is None:
        return {}, errors
    if not isinstance(returned, (pa.RecordBatch, pa.Table)):
        raise TypeError(f"the step returned {type(returned).__name__}; return a RecordBatch, failed(…) or None")
    if returned.num_rows != batch.num_rows:
        raise ValueError(f"the step returned {returned.num_rows} rows for {batch.num_rows}; return one for each")
    columns: dict[str, pa.Array] = {}
    for name in returned.schema.names:
        if name in RESERVED_COLUMNS:
            raise ValueError(f"the step returned the column {name!r}, which is reserved")
        column = returned.column(name)
        array = one_chunk(column) if isinstance(column, pa.ChunkedArray) else column
        if name not in batch.schema.names or not array.equals(batch.column(name)):
            columns[name] = array if keep is None else array.filter(keep)
    return columns, errors


def _mask(returned: Failed, rows: int) -> tuple[np.ndarray, list[Any]]:
    mask = returned.mask
    if isinstance(mask, (pa.Array, pa.ChunkedArray)):
        mask = mask.fill_null(False).to_numpy(zero_copy_only=False)
    flags = np.asarray(mask, dtype=bool)
    if len(flags) != rows:
        raise ValueError(f"failed() was given {len(flags)} flags for {rows} rows")
    message = returned.message
    if isinstance(message, (pa.Array, pa.ChunkedArray)):
        message = message.to_pylist()
    messages: list[Any] = [message] * rows if isinstance(message, str) else list(message)
    if len(messages) != rows:
        raise ValueError(f"failed() was given {len(messages)} messages for {rows} rows")
    return flags, messages

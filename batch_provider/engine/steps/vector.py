"""Vectorised steps: SQL expressions and Arrow functions over blocks, each record's failure its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa

from batch_provider.domain.errors import InvalidReturnError
from batch_provider.domain.layout import Span
from batch_provider.domain.names import RESERVED_COLUMNS
from batch_provider.domain.outcome import Outcome
from batch_provider.domain.spec import JobSpec, SqlSpec, StepSpec
from batch_provider.domain.text import count
from batch_provider.engine.calls.invoke import RecordError, UserFunction
from batch_provider.engine.columns.block import Block, BlockResult
from batch_provider.engine.columns.joining import concat_by_name
from batch_provider.engine.columns.kept import Kept, kept_values
from batch_provider.engine.columns.patches import forget_kept
from batch_provider.engine.columns.rows import is_storable, one_chunk, scatter, spread, unify
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


Made = tuple[dict[str, pa.Array], dict[int, RecordError]]
"""Columns for those rows that are not in the errors, in order, and errors by position."""
Work = Callable[[Block, np.ndarray], Iterator[tuple[np.ndarray, Made]]]
"""Runs of the records at some positions of a block, and what became of them."""


class VectorStep:
    """Runs a SQL or Arrow step over blocks.

    Args:
        job, step: what the author declared.
        constant: keywords that the function may name: ``instance`` and Airflow's context.
    """

    def __init__(self, job: JobSpec, step: StepSpec, constant: dict[str, Any]) -> None:
        self.step = step
        self._accept = Acceptance(job, step, constant)
        self._work: Work
        if isinstance(step.function, SqlSpec):
            from batch_provider.engine.steps.sql import SqlWork

            self.function = UserFunction(step.name, _nothing, PER_BLOCK, {})
            self._work = SqlWork(job, step, step.function)
        else:
            self.function = UserFunction(step.name, step.call, PER_BLOCK, constant)
            self._work = _ArrowWork(step, self.function)

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
        return Block(upstream, span, self.step.reads)

    def run(self, block: Block, candidates: np.ndarray) -> BlockResult:
        """Process the records at ``candidates``."""
        result = BlockResult(outcome=np.zeros(len(block), dtype=np.uint8))
        result.outcome[candidates] = Outcome.SKIPPED
        accepted, result.errors = self._accept.of(block, candidates)
        parts: dict[str, list[tuple[np.ndarray, pa.Array]]] = {}
        started = perf_counter()
        for positions, (columns, errors) in self._work(block, accepted):
            result.errors.update(errors)
            good = np.setdiff1d(positions, np.fromiter(errors, np.int64, len(errors)), assume_unique=True)
            for name, column in columns.items():
                parts.setdefault(name, []).append((good, column))
        each = (perf_counter() - started) / max(len(accepted), 1)
        result.call_seconds = np.full(len(accepted), each)
        aside: Kept = {}
        result.columns = {name: _assemble(block, name, pieces, aside) for name, pieces in parts.items()}
        if block.kept or aside:
            forget_kept(block, result.columns, {name: _positions(pieces) for name, pieces in parts.items()}, aside)
        result.outcome[accepted] = Outcome.SUCCEEDED
        result.outcome[list(result.errors)] = Outcome.FAILED
        return result


def _nothing(_: Any) -> None:
    """A SQL step calls no function of the author's."""


def _positions(pieces: list[tuple[np.ndarray, pa.Array]]) -> np.ndarray:
    return np.concatenate([at for at, _ in pieces])


def _assemble(block: Block, name: str, pieces: list[tuple[np.ndarray, pa.Array]], aside: Kept) -> pa.Array:
    """The column over the whole block: the pieces, elsewhere what the records came with.

    Pieces may be of several types, as what they were made of was; what cannot stand in the column goes ``aside``.
    """
    positions = _positions(pieces)
    joined = concat_by_name([pa.table({name: array}) for _, array in pieces])
    values = one_chunk(joined[name])
    for row, kept in kept_values(joined["_kept"]).items() if "_kept" in joined.column_names else ():
        aside.setdefault(int(positions[row]), {}).update(kept)
    if len(positions) == len(block):
        return values if len(pieces) == 1 else values.take(pa.array(np.argsort(positions)))
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

    def __init__(self, step: StepSpec, function: UserFunction) -> None:
        self._step, self._function = step, function

    def __call__(self, block: Block, positions: np.ndarray) -> Iterator[tuple[np.ndarray, Made]]:
        for inside, payload in block.slices(positions, rows=len(block)):
            yield inside, self._call(inside, payload)

    def _call(self, positions: np.ndarray, payload: pa.Table) -> Made:
        batch = _batch_of(payload)
        try:
            returned = self._function.once(batch, record_ids=positions)
        except Exception as error:  # noqa: BLE001  # this is where user code ends
            noted = self._function.note(error)
        else:
            return _Returned(self._step, batch, positions).understood(returned)
        if len(positions) == 1:
            return {}, {int(positions[0]): noted}
        half = len(positions) // 2
        first = self._call(positions[:half], payload.slice(0, half))
        second = self._call(positions[half:], payload.slice(half))
        return _join(first, second, positions, payload), {**first[1], **second[1]}


def _join(
    first: Made,
    second: Made,
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


class _Returned:
    """What an Arrow step returned for a batch.

    What it cannot be, no record has caused: the step's code is wrong, and the task ends. Halves of the batch would be
    called in vain, and a record that stands alone might be taken for a good one.
    """

    def __init__(self, step: StepSpec, batch: pa.RecordBatch, positions: np.ndarray) -> None:
        self._step, self._writes, self._batch, self._positions = step.name, step.writes, batch, positions

    def _wrong(self, came: str, wanted: str) -> InvalidReturnError:
        return InvalidReturnError(self._step, f"{came} for {count(len(self._batch), 'record')}", wanted)

    def understood(self, returned: Any) -> Made:
        """Columns that are new or not the ones the function was given, and the records it failed."""
        errors: dict[int, RecordError] = {}
        keep: pa.Array | None = None
        if isinstance(returned, Failed):
            mask, messages = self._mask(returned.mask), self._messages(returned.message)
            for row in np.flatnonzero(mask).tolist():
                errors[int(self._positions[row])] = RecordError("CheckFailed", str(messages[row]))
            keep, returned = (pa.array(~mask) if mask.any() else None), returned.block
        if returned is None:
            return {}, errors
        return self._columns(returned, keep), errors

    def _columns(self, returned: Any, keep: pa.Array | None) -> dict[str, pa.Array]:
        batch = self._batch
        if not isinstance(returned, (pa.RecordBatch, pa.Table)):
            raise self._wrong(f"a {type(returned).__name__}", "a RecordBatch, failed(…) or None")
        if returned.num_rows != batch.num_rows:
            raise self._wrong(count(returned.num_rows, "row"), "one row for each")
        columns: dict[str, pa.Array] = {}
        names = returned.schema.names
        for field, column in zip(returned.schema, returned.columns, strict=True):
            name = field.name
            if not name or name in RESERVED_COLUMNS or names.count(name) > 1:
                raise self._wrong(f"the column {name!r}", "columns with names of their own that are not reserved")
            if not is_storable(field.type):
                raise self._wrong(f"the column {name!r} of type {field.type}", "types that Parquet can hold")
            array = one_chunk(column) if isinstance(column, pa.ChunkedArray) else column
            if name not in batch.schema.names or not array.equals(batch.column(name)):
                if self._writes is not None and name not in self._writes:
                    raise self._wrong(f"the column {name!r}", f"columns of its writes=: {', '.join(self._writes)}")
                columns[name] = array if keep is None else array.filter(keep)
        return columns

    def _mask(self, mask: Any) -> np.ndarray:
        try:
            flags = pa.array(mask, pa.bool_()) if isinstance(mask, (list, tuple)) else _as_arrow(mask)
            flags = flags.cast(pa.bool_()) if pa.types.is_null(flags.type) else flags
        except (pa.ArrowException, TypeError, ValueError):
            flags = None
        if flags is None or not pa.types.is_boolean(flags.type):
            raise self._wrong(f"a failed(…) whose mask is {_kind(mask)}", "a boolean for each record")
        if len(flags) != len(self._batch):
            raise self._wrong(f"a failed(…) with {count(len(flags), 'flag')}", "one for each")
        found: np.ndarray = flags.fill_null(False).to_numpy(zero_copy_only=False)
        return found

    def _messages(self, message: Any) -> list[Any]:
        if isinstance(message, str):
            return [message] * len(self._batch)
        if isinstance(message, (pa.Array, pa.ChunkedArray)):
            message = message.to_pylist()
        if not isinstance(message, Collection) or isinstance(message, (bytes, Mapping)):
            raise self._wrong(f"a failed(…) whose message is {_kind(message)}", "one text, or one for each record")
        if len(message) != len(self._batch):
            raise self._wrong(f"a failed(…) with {count(len(message), 'message')}", "one text, or one for each record")
        return list(message)


def _as_arrow(mask: Any) -> pa.Array:
    return one_chunk(mask) if isinstance(mask, pa.ChunkedArray) else pa.array(mask)


def _kind(value: Any) -> str:
    kind = getattr(value, "type", None) or getattr(value, "dtype", None)
    return type(value).__name__ + (f" of {kind}" if kind is not None else "")

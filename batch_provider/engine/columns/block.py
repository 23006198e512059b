"""A block: consecutive records as they come from upstream, and what a step made of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, compress
from typing import Any

import numpy as np
import pyarrow as pa

from batch_provider.domain.layout import Span
from batch_provider.domain.names import SIDE_COLUMNS
from batch_provider.domain.outcome import FAILED_BEFORE, Outcome
from batch_provider.engine.calls.invoke import RecordError
from batch_provider.engine.columns.dicts import dict_maker
from batch_provider.engine.columns.kept import Kept, kept_values
from batch_provider.engine.columns.rows import one_chunk, picked, to_python
from batch_provider.engine.ports.store import GenerationReader

OUTCOME_BITS = FAILED_BEFORE - 1

SLICE_ROWS = 16_384
"""Rows that are read at a time."""
OBJECT_ROWS = 2_048
"""Rows that are Python objects at a time: they stay in the processor's cache, and bound a task's memory whatever the
size of a block (measured: a patch of seven keys made and taken apart costs 1.6 µs, in slices of 200,000 rows 2.1)."""


def has_failed(status: np.ndarray) -> np.ndarray:
    """Whether each record failed in that step or before it."""
    failed: np.ndarray = ((status & OUTCOME_BITS) == Outcome.FAILED) | ((status & FAILED_BEFORE) != 0)
    return failed


class Block:
    """Records ``span`` of a shard, before the step. Status is read at once, payload when it is asked for.

    Args:
        upstream: where they are read.
        span: their ids.
        columns: the payload columns that functions and expressions see; None: all.

    Attributes:
        upstream: where they are read.
        kept: row → values that could not stay in their column; ``stored_kept``: those that upstream wrote down.
    """

    def __init__(self, upstream: GenerationReader, span: Span, columns: Sequence[str] | None = None) -> None:
        self.span = span
        self.upstream = upstream
        self.owners = upstream.owners(span)
        self._columns = None if columns is None else self._known(columns)
        self.table = upstream.read(span, [])
        self.stored_kept = kept_values(self.table["_kept"]) if "_kept" in self.table.column_names else {}
        self.kept: Kept = {row: dict(values) for row, values in self.stored_kept.items()}
        self.failed_before = has_failed(self.table["_status"].to_numpy())
        self.bytes_read = self.table.nbytes
        self._failures_from, self._failures = -1, dict[int, list[dict[str, Any]]]()

    def __len__(self) -> int:
        """How many records."""
        return len(self.span)

    def _known(self, columns: Iterable[str]) -> list[str]:
        """The columns of these names; an expression may write a name in other letters, as SQL allows."""
        lowered = {name.lower() for name in columns}
        return [name for name in self.owners if name.lower() in lowered]

    @property
    def payload_columns(self) -> list[str]:
        """Every payload column there is."""
        return [name for name in self.owners if name not in SIDE_COLUMNS]

    def column(self, name: str) -> pa.Array | None:
        """One column over the whole block; None if there is none of that name.

        What cannot stand in it (files of the block may disagree on its type) moves to :attr:`kept`.
        """
        if name in self.table.column_names:
            return one_chunk(self.table[name])
        if name not in self.owners:
            return None
        rows = self.upstream.read(self.span, [name])
        if "_kept" in rows.column_names:
            for row, values in kept_values(rows["_kept"]).items():
                self.kept[row] = {**values, **self.kept.get(row, {})}
        return one_chunk(rows[name])

    def slices(
        self, positions: np.ndarray, columns: Iterable[str] | None = None, rows: int = SLICE_ROWS
    ) -> Iterator[tuple[np.ndarray, pa.Table]]:
        """The payload at ``positions``, in runs of at most ``rows`` records of the block.

        Args:
            positions: ascending.
            columns: only these; None: those that the step reads.
            rows: how many at a time.
        """
        wanted = self._columns if columns is None else self._known(columns)
        for inside, table in self._row_slices(positions, wanted, rows):
            yield inside, _payload_of(table)

    def _row_slices(
        self, positions: np.ndarray, wanted: Sequence[str] | None, size: int = SLICE_ROWS
    ) -> Iterator[tuple[np.ndarray, pa.Table]]:
        for start, inside, rows in self._windows(positions, wanted, size):
            yield inside, picked(rows, inside - start)

    def _windows(
        self, positions: np.ndarray, wanted: Sequence[str] | None, size: int
    ) -> Iterator[tuple[int, np.ndarray, pa.Table]]:
        """Runs of rows that hold some of ``positions``: where each begins, those positions, and all its rows."""
        first = self.span.first
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            low, high = np.searchsorted(positions, (start, stop))
            if low == high:
                continue
            rows = self.upstream.read(Span(first + start, first + stop - 1), wanted)
            self.bytes_read += rows.nbytes
            yield start, positions[low:high], rows

    def record_slices(self, positions: np.ndarray) -> Iterator[tuple[np.ndarray, Iterator[dict[str, Any]]]]:
        """The payloads at ``positions`` as fresh dicts, made one at a time, a run of positions at a time."""
        for start, inside, rows in self._windows(positions, self._columns, SLICE_ROWS):
            is_sparse = 2 * len(inside) < rows.num_rows
            table = picked(rows, inside - start) if is_sparse else rows
            at = np.arange(len(inside)) if is_sparse else inside - start
            kept = kept_values(table["_kept"]) if "_kept" in table.column_names else {}
            for run, records in _dicts(_payload_of(table), at):
                yield inside[run], self._with_kept(kept, at[run].tolist(), records) if kept else records

    def payload(self, positions: np.ndarray) -> tuple[pa.Table, Kept]:
        """The payload at ``positions`` (ascending), and by row the values that cannot stand in their column."""
        first, last = int(positions[0]), int(positions[-1])
        rows = self.upstream.read(Span(self.span.first + first, self.span.first + last), self._columns)
        self.bytes_read += rows.nbytes
        rows = picked(rows, positions - first)
        kept = kept_values(rows["_kept"]) if "_kept" in rows.column_names else {}
        wanted = self._columns
        if wanted is not None:
            kept = {row: {n: v for n, v in values.items() if n in wanted} for row, values in kept.items()}
        return _payload_of(rows), {row: values for row, values in kept.items() if values}

    def records(self, positions: np.ndarray) -> list[dict[str, Any]]:
        """The payloads at ``positions`` as fresh dicts."""
        return list(chain.from_iterable(records for _, records in self.record_slices(positions)))

    def _with_kept(self, kept: Kept, rows: list[int], plain: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for row, record in zip(rows, plain, strict=True):
            own = kept.get(row, {})
            yield record | {name: own[name] for name in own if self._columns is None or name in self._columns}

    def keep_aside(self, name: str, column: pa.Array, replaced: np.ndarray) -> None:
        """Move the values of a column, but those at ``replaced``, to :attr:`kept`: the column gets another type."""
        rest = np.setdiff1d(np.arange(len(self)), replaced)
        for position, value in zip(rest.tolist(), to_python(column.take(pa.array(rest))), strict=True):
            if value is not None:
                self.kept.setdefault(position, {})[name] = value

    @cached_property
    def _own_variables(self) -> pa.Array | None:
        return self.column("_vars") if "_vars" in self.owners else None

    def variables(self, positions: np.ndarray, initial: str) -> list[str]:
        """The variables of the records at ``positions``, as JSON."""
        if self._own_variables is None:
            return [initial] * len(positions)
        return [text or initial for text in to_python(self._own_variables.take(pa.array(positions)))]

    def failures(self, positions: np.ndarray) -> list[list[dict[str, Any]]]:
        """What each record at ``positions``, which ascend, failed of in earlier steps, in order of steps."""
        return [[dict(failure) for failure in self._failures_of(position)] for position in positions.tolist()]

    def _failures_of(self, position: int) -> list[dict[str, Any]]:
        """Read for as many records as are read at a time, and kept until others are asked for."""
        if (start := position - position % SLICE_ROWS) != self._failures_from:
            first = self.span.first
            window = Span(first + start, min(first + start + SLICE_ROWS - 1, self.span.last))
            self._failures_from, self._failures = start, {}
            for failure in self.upstream.failures(window):
                self._failures.setdefault(failure.pop("_id") - first, []).append(failure)
        return self._failures.get(position, [])


_OWN = frozenset({"_id", "_status", "_out", *SIDE_COLUMNS})


def _payload_of(rows: pa.Table) -> pa.Table:
    return rows.select([name for name in rows.column_names if name not in _OWN])


def _dicts(payload: pa.Table, at: np.ndarray) -> Iterator[tuple[slice, Iterator[dict[str, Any]]]]:
    """Runs of the rows ``at``: which of them, and as dicts. Rows between them are left out without copying any."""
    make = dict_maker(tuple(payload.column_names))
    for start in range(0, payload.num_rows, OBJECT_ROWS):
        low, high = np.searchsorted(at, (start, start + OBJECT_ROWS)).tolist()
        if low == high:
            continue
        count = min(OBJECT_ROWS, payload.num_rows - start)
        columns = [to_python(column) for column in payload.slice(start, count).columns]
        values: Iterable[Any] = zip(*columns, strict=True) if columns else [()] * count
        if high - low < count:
            chosen = np.zeros(count, dtype=bool)
            chosen[at[low:high] - start] = True
            values = compress(values, chosen.tolist())
        yield slice(low, high), make(values)


@dataclass
class BlockResult:
    """What a step made of a block.

    Attributes:
        outcome: Outcome of each record.
        errors: position → why it failed here.
        columns: payload columns that are new or changed, and side columns: a value for every record.
        dropped: payload columns that no record has any more.
        call_seconds: how long each call of the author's function took.
        outcomes: of fused steps, packed (see :mod:`batch_provider.engine.steps.fused_outcomes`).
        types: fused step → the types it has given to columns so far.
    """

    outcome: np.ndarray
    errors: dict[int, RecordError] = field(default_factory=dict)
    columns: dict[str, pa.Array] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
    call_seconds: np.ndarray = field(default_factory=lambda: np.empty(0))
    outcomes: np.ndarray | None = None
    types: dict[str, pa.Schema] = field(default_factory=dict)

"""What fused steps have made of a block so far, laid over what came from upstream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import pyarrow as pa

from batch_provider.domain.layout import Span
from batch_provider.domain.names import RESERVED_COLUMNS
from batch_provider.domain.outcome import FAILED_BEFORE
from batch_provider.engine.calls.invoke import RecordError
from batch_provider.engine.columns.block import Block, BlockResult
from batch_provider.engine.columns.joining import concat_by_name
from batch_provider.engine.columns.kept import kept_column
from batch_provider.engine.columns.rows import one_chunk, spread
from batch_provider.engine.ports.store import GenerationReader


@dataclass
class Overlay:
    """Reads records ``span`` as the steps before have left them in memory (a GenerationReader).

    Attributes:
        base: what came from upstream.
        span: the records.
        owner: the name of the fused steps.
        status: as it would stand in the last step's checkpoint.
        outcomes: what each step so far did with every record.
        errors: position → the error of a record that failed.
        changed: columns as they are now, where that is not as they came.
        dropped: columns that no record has any more.
    """

    base: GenerationReader
    span: Span
    owner: str
    status: np.ndarray
    outcomes: list[np.ndarray] = field(default_factory=list)
    errors: dict[int, RecordError] = field(default_factory=dict)
    changed: dict[str, pa.Array | pa.ChunkedArray] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()

    @classmethod
    def of(cls, base: GenerationReader, span: Span, owner: str) -> Self:
        """Records as they came."""
        return cls(base, span, owner, base.read(span, [])["_status"].to_numpy())

    @cached_property
    def _came(self) -> Mapping[str, str | None]:
        return self.base.owners(self.span)

    def apply(self, block: Block, result: BlockResult) -> None:
        """Lay what one more step made of the block over what is there."""
        before = np.where(block.failed_before, FAILED_BEFORE, 0)
        self.status = (result.outcome | before).astype(np.uint8)
        self.outcomes.append(result.outcome)
        self.errors.update(result.errors)
        self.changed.update(result.columns)
        # Every runner that moves a value aside writes _kept by itself; should one not, nothing is lost.
        if "_kept" not in result.columns and block.kept != block.stored_kept:
            self.changed["_kept"] = kept_column(block.kept, len(block))
        for name in result.dropped:
            self.changed.pop(name, None)
        self.dropped = (self.dropped - result.columns.keys()) | result.dropped

    # --- reading ----------------------------------------------------------------------------------------------

    def owners(self, span: Span) -> Mapping[str, str | None]:  # noqa: ARG002  # the same over all of it
        """Columns that these steps have changed are their own."""
        names = dict.fromkeys([*self._came, *self.changed])
        return {
            name: self.owner if name in self.changed else self._came[name] for name in names if name not in self.dropped
        }

    def read(self, span: Span, columns: Sequence[str] | None = None) -> pa.Table:
        """See :class:`batch_provider.engine.ports.store.GenerationReader`."""
        wanted = [name for name in self.owners(span) if columns is None or name in columns]
        below = self.base.read(span, [name for name in wanted if name not in self.changed])
        at = span.first - self.span.first
        found = {name: below[name] for name in below.column_names}
        side = [name for name in self.changed if name in RESERVED_COLUMNS]
        found |= {name: self.changed[name].slice(at, len(span)) for name in [*wanted, *side] if name in self.changed}
        found["_status"] = pa.array(self.status[at : at + len(span)])
        payload = [name for name in wanted if name not in RESERVED_COLUMNS]
        return pa.table({name: found[name] for name in dict.fromkeys([*payload, *found])})

    def failures(self, span: Span) -> list[dict[str, Any]]:
        """Those of steps before: a record that fails in one of these is taken by none after it."""
        return self.base.failures(span)

    # --- cutting and joining ----------------------------------------------------------------------------------

    def cut(self, first: int, last: int) -> Overlay:
        """The part that holds the records ``first`` to ``last``."""
        start, stop = first - self.span.first, last - self.span.first + 1
        return Overlay(
            self.base,
            Span(first, last),
            self.owner,
            self.status[start:stop],
            [outcome[start:stop] for outcome in self.outcomes],
            {at - start: error for at, error in self.errors.items() if start <= at < stop},
            {name: column.slice(start, stop - start) for name, column in self.changed.items()},
            self.dropped,
        )

    def only(self, positions: np.ndarray) -> Overlay:
        """What the steps made of these records, and nothing else: it can only be spread again."""
        at = pa.array(positions)
        changed = {name: column.take(at) for name, column in self.columns().items()}
        outcomes = [outcome[positions] for outcome in self.outcomes]
        return replace(self, status=self.status[positions], outcomes=outcomes, changed=changed)

    def spread(self, positions: np.ndarray) -> Overlay:
        """What :meth:`only` kept of these records, over the whole span; the steps have not seen the others."""
        status = self.base.read(self.span, [])["_status"].to_numpy().copy()
        status[positions] = self.status
        outcomes = [np.zeros(len(self.span), dtype=np.uint8) for _ in self.outcomes]
        for whole, outcome in zip(outcomes, self.outcomes, strict=True):
            whole[positions] = outcome
        changed = {name: spread(column, positions, len(self.span)) for name, column in self.columns().items()}
        return replace(self, status=status, outcomes=outcomes, changed=changed)

    def then(self, after: Overlay) -> Overlay:
        """This one and the one that follows it, as one."""
        names = list(dict.fromkeys([*self.changed, *after.changed, *(self.dropped ^ after.dropped)]))
        table = concat_by_name([part._columns(names) for part in (self, after)])
        return Overlay(
            self.base,
            Span(self.span.first, after.span.last),
            self.owner,
            np.concatenate([self.status, after.status]),
            [np.concatenate(pair) for pair in zip(self.outcomes, after.outcomes, strict=True)],
            self.errors | {at + len(self.span): error for at, error in after.errors.items()},
            {name: table[name] for name in table.column_names if name != "_id"},
            self.dropped & after.dropped,
        )

    def _columns(self, names: Sequence[str]) -> pa.Table:
        """These columns as they are now, and ``_kept``, as other values may have to move there."""
        below = self.base.read(self.span, [n for n in names if n not in self.changed and n not in self.dropped])
        found: dict[str, Any] = {"_id": below["_id"]}
        for name in dict.fromkeys([*names, "_kept"]):
            if name in self.changed:
                found[name] = self.changed[name]
            elif name not in self.dropped and name in below.column_names:
                found[name] = below[name]
        return pa.table(found)

    def columns(self) -> dict[str, pa.Array]:
        """The changed ones, each in one piece."""
        return {
            name: one_chunk(column) if isinstance(column, pa.ChunkedArray) else column
            for name, column in self.changed.items()
        }

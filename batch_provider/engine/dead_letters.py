"""Dead letters: every failed record as it came to the step where it failed, with its error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa

from batch_provider.domain.instance import Close
from batch_provider.domain.layout import ClaimId, ShardRef, Span
from batch_provider.domain.names import INPUT_PHASE
from batch_provider.domain.outcome import FAILED_BEFORE, Outcome
from batch_provider.engine.account import Closes
from batch_provider.engine.block import OUTCOME_BITS
from batch_provider.engine.joining import concat_by_name
from batch_provider.engine.outcomes import failed_in
from batch_provider.engine.ports import GenerationReader, GenerationStore
from batch_provider.engine.rows import picked

PART_ROWS = 50_000
READ_ROWS = 16_384

_ERROR_COLUMNS = frozenset({"_step", "_error_type", "_error_message", "_attempt", "_failed_at"})

Late = Mapping[tuple[str, str], np.ndarray]
"""(step, shard id) → rows that do not count (see :class:`batch_provider.engine.account.Account`)."""


def write_dead_letters(store: GenerationStore, closes: Closes, late: Late, claim: ClaimId) -> tuple[str, ...]:
    """Write the failed records of every (step, shard) that has some.

    A record stands in one place: the first phase or step it failed in. The files are made from the checkpoints,
    so they hold exactly the records that the result counts as failed, whatever crashed on the way.
    """
    written: list[str] = []
    steps = [INPUT_PHASE, *(str(step["name"]) for step in store.manifest.steps)]
    for step in steps:
        for shard in store.manifest.shards:
            close = None if step == INPUT_PHASE else closes[step, shard.id]
            for number, table in enumerate(_parts(_failed_rows(store, step, shard, close, late))):
                written.append(store.put_dead_letters(f"{step}-{shard.id}-{number:04d}", claim, table))
    return tuple(written)


def _parts(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    pending: list[pa.Table] = []
    for table in tables:
        pending.append(table)
        if sum(part.num_rows for part in pending) >= PART_ROWS:
            yield concat_by_name(pending)
            pending = []
    if pending:
        yield concat_by_name(pending)


def _failed_rows(
    store: GenerationStore, step: str, shard: ShardRef, close: Close | None, late: Late
) -> Iterator[pa.Table]:
    steps = store.manifest.fused(step)
    # in fused steps a record may have come to the one where it failed with what those before it made of it
    fused = close is not None and len(steps) > 1
    reader = store.output_reader(close) if close is not None and fused else store.upstream_reader(close, shard.id)
    not_yet = late.get((step, shard.id), np.zeros(len(shard.span), dtype=bool))
    for span in store.spans(step, shard.id, close, failed=True):
        rows = store.rows(step, shard.id, close, span, ["_status", "_outcomes", "_error", "_line", "_raw"])
        status = rows["_status"].to_numpy()
        here = ((status & OUTCOME_BITS) == Outcome.FAILED) & ((status & FAILED_BEFORE) == 0)
        here &= ~not_yet[span.first - shard.span.first : span.last - shard.span.first + 1]
        at = pa.array(np.flatnonzero(here))
        if len(at) == 0:
            continue
        failed, came = rows.take(at), _taken(reader, span, at.to_numpy())
        error = failed["_error"].combine_chunks()
        columns = {_free(name): came[name] for name in came.column_names if name not in ("_status", "_out")}
        columns |= {
            "_step": pa.array(failed_in(steps, failed)),
            "_error_type": error.field("type"),
            "_error_message": error.field("message"),
            "_attempt": error.field("c"),
            "_failed_at": error.field("at"),
        }
        columns |= {name: failed[name] for name in ("_line", "_raw") if name in failed.column_names}
        yield pa.table(columns)


def _taken(reader: GenerationReader, span: Span, at: np.ndarray) -> pa.Table:
    """The rows at these positions of a block, which is read a run at a time: it is large, and they are few."""
    parts: list[pa.Table] = []
    for start in range(0, len(span), READ_ROWS):
        low, high = np.searchsorted(at, (start, start + READ_ROWS))
        if low < high:
            rows = reader.read(Span(span.first + start, min(span.last, span.first + start + READ_ROWS - 1)))
            parts.append(picked(rows, at[low:high] - start))
    pa.default_memory_pool().release_unused()
    return concat_by_name(parts)


def _free(name: str) -> str:
    """A payload column's name, with ``_`` after it where a column of the error has that name."""
    return f"{name}_" if name.rstrip("_") in _ERROR_COLUMNS else name

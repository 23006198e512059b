"""Dead letters: every failed record as it came to the step where it failed, with its error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from batch_provider.domain.instance import Close
from batch_provider.domain.layout import ClaimId, ShardRef
from batch_provider.domain.names import INPUT_PHASE
from batch_provider.domain.outcome import FAILED_BEFORE, Outcome
from batch_provider.engine.columns.block import OUTCOME_BITS
from batch_provider.engine.columns.joining import concat_by_name
from batch_provider.engine.complete.account import Closes
from batch_provider.engine.ports.completion import GenerationStore, StoredReader
from batch_provider.engine.steps.fused_outcomes import failed_in

PART_ROWS = 50_000
THREADS = 2
"""Files that are read at a time: decoding them is most of the work."""

_ERROR_COLUMNS = frozenset({"_step", "_error_type", "_error_message", "_attempt", "_failed_at"})

Late = Mapping[tuple[str, str], np.ndarray]
"""(step, shard id) → rows that do not count (see :class:`batch_provider.engine.complete.account.Account`)."""


def write_dead_letters(store: GenerationStore, closes: Closes, late: Late, claim: ClaimId) -> tuple[str, ...]:
    """Write the failed records of every (step, shard) that has some.

    A record stands in one place: the first phase or step it failed in. The files are made from the checkpoints,
    so they hold exactly the records that the result counts as failed, whatever crashed on the way.
    """
    written: list[str] = []
    steps = [INPUT_PHASE, *(str(step["name"]) for step in store.manifest.steps)]
    with ThreadPoolExecutor(THREADS, thread_name_prefix="dead-letters") as threads:
        for step in steps:
            for shard in store.manifest.shards:
                close = None if step == INPUT_PHASE else closes[step, shard.id]
                for number, failed in enumerate(_parts(_failed_rows(store, step, shard, close, late))):
                    came = _reader(store, step, shard, close).pick(failed["_id"].to_numpy(), threads.map)
                    table = _letters(store.manifest.fused(step), failed, came)
                    written.append(store.put_dead_letters(f"{step}-{shard.id}-{number:04d}", claim, table))
                    pa.default_memory_pool().release_unused()
    return tuple(written)


def _reader(store: GenerationStore, step: str, shard: ShardRef, close: Close | None) -> StoredReader:
    """In fused steps a record may have come to the one where it failed with what those before it made of it."""
    is_fused = close is not None and len(store.manifest.fused(step)) > 1
    return store.output_reader(close) if close is not None and is_fused else store.upstream_reader(close, shard.id)


def _parts(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    pending: list[pa.Table] = []
    rows = 0
    for table in tables:
        pending.append(table)
        rows += table.num_rows
        if rows >= PART_ROWS:
            yield concat_by_name(pending)
            pending, rows = [], 0
    if pending:
        yield concat_by_name(pending)


def _failed_rows(
    store: GenerationStore, step: str, shard: ShardRef, close: Close | None, late: Late
) -> Iterator[pa.Table]:
    """Block by block the rows of the records that failed in ``step``, and not before."""
    not_yet = late.get((step, shard.id), np.zeros(len(shard.span), dtype=bool))
    for span in store.spans(step, shard.id, close, failed=True):
        rows = store.rows(step, shard.id, close, span, ["_status", "_outcomes", "_error", "_line", "_raw"])
        status = rows["_status"].to_numpy()
        here = ((status & OUTCOME_BITS) == Outcome.FAILED) & ((status & FAILED_BEFORE) == 0)
        here &= ~not_yet[span.first - shard.span.first : span.last - shard.span.first + 1]
        if here.any():
            yield rows.filter(pa.array(here))


def _letters(steps: Sequence[str], failed: pa.Table, came: pa.Table) -> pa.Table:
    """Records as they came, with the errors of ``failed``, whose rows are of the same records."""
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
    return pa.table(columns)


def _free(name: str) -> str:
    """A payload column's name, with ``_`` after it where a column of the error has that name."""
    return f"{name}_" if name.rstrip("_") in _ERROR_COLUMNS else name

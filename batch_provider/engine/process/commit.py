"""From what a step made of a block to the rows of its checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from batch_provider.domain.outcome import FAILED_BEFORE, Outcome
from batch_provider.domain.tally import Tally
from batch_provider.engine.columns.block import OUTCOME_BITS, Block, BlockResult
from batch_provider.engine.columns.kept import Kept, kept_column, kept_values
from batch_provider.engine.columns.rows import ERROR_TYPE, one_chunk, scatter, to_python, unify
from batch_provider.engine.ports.store import ShardWork


class Previous:
    """The rows a step wrote for a block before this redrive, and which of them are to be done again."""

    def __init__(self, rows: pa.Table, owners: Mapping[str, str]) -> None:
        self.rows, self.owners = rows, owners

    def stale(self, block: Block, work: ShardWork, max_redrives: int | None = None) -> np.ndarray:
        """Positions to process again: failed before this redrive, never run, changed upstream, or of older code.

        A record that failed in ``max_redrives`` redrives already is given up, until one of the other reasons holds.
        """
        outcome, out = self._outcome(), self.rows["_out"].to_numpy()
        failed = (outcome == Outcome.FAILED) & (out < work.claim.since)
        if max_redrives is not None:
            failed &= self.redrives() < max_redrives
        return np.flatnonzero(failed | (outcome == Outcome.NOT_RUN) | self._replaced(block, work))

    def _replaced(self, block: Block, work: ShardWork) -> np.ndarray:
        """Rows whose input is another one now, or whose code is to be replaced."""
        changed: np.ndarray = self.rows["_in"].to_numpy() != block.table["_out"].to_numpy()
        return changed | np.isin(self.rows["_out"].to_numpy(), list(work.older))

    def _outcome(self) -> np.ndarray:
        outcome: np.ndarray = self.rows["_status"].to_numpy() & OUTCOME_BITS
        return outcome

    def redrives(self) -> np.ndarray:
        """In how many redrives each record has failed here."""
        if "_redrives" not in self.rows.column_names:
            return np.zeros(len(self.rows), np.int32)
        found: np.ndarray = self.rows["_redrives"].to_numpy().copy()
        return found

    def redrives_if_failed(self, block: Block, work: ShardWork) -> np.ndarray:
        """The same, if each record fails now; a call that is repeated within one redrive counts once."""
        kept = (self._outcome() == Outcome.FAILED) & ~self._replaced(block, work)
        again = self.redrives() + (self.rows["_out"].to_numpy() < work.claim.since)
        return np.where(kept, again, 0).astype(np.int32)

    def made_since(self, epoch: int) -> np.ndarray:
        """Positions of rows that this claim's round has made already."""
        return np.flatnonzero(self.rows["_out"].to_numpy() >= epoch)


def commit_block(
    work: ShardWork,
    block: Block,
    result: BlockResult,
    worked: np.ndarray,
    previous: Previous | None,
    now: datetime,
    seconds: float,
) -> Tally:
    """Write the checkpoint of a block and return its tally.

    Args:
        work: the claim to write under.
        block: what came.
        result: what the step made of it.
        worked: positions the step looked at; the others keep what ``previous`` has.
        previous: the rows of a redriven block.
        now: time of the failures.
        seconds: how long the step took.
    """
    rows = _Rows(work, block, result, worked, previous, now)
    table, owners = rows.table()
    tally = rows.tally(seconds)
    work.checkpoint(table, block.span, owners, tally, result.types)
    return tally


class _Rows:
    """The columns of one checkpoint, new rows laid over previous ones."""

    def __init__(
        self,
        work: ShardWork,
        block: Block,
        result: BlockResult,
        worked: np.ndarray,
        previous: Previous | None,
        now: datetime,
    ) -> None:
        self.work, self.claim, self.block, self.result = work, work.claim, block, result
        self.worked, self.previous, self.now = worked, previous, now
        self.aside: dict[str, dict[int, Any]] = {}
        self.copied: dict[str, np.ndarray] = {}  # column → rows of it that are written here as they came
        self.outcome, self.out = self._outcomes()
        before = np.where(block.failed_before, FAILED_BEFORE, 0)
        self.status = (self.outcome | before).astype(np.uint8)
        self.errors = self._errors()

    def _outcomes(self) -> tuple[np.ndarray, np.ndarray]:
        if self.previous is None:
            out = np.full(len(self.block), self.claim.id.epoch, dtype=np.int32)
            return self.result.outcome, out
        outcome = (self.previous.rows["_status"].to_numpy() & OUTCOME_BITS).copy()
        out = self.previous.rows["_out"].to_numpy().copy()
        outcome[self.worked] = self.result.outcome[self.worked]
        out[self.worked] = self.claim.id.epoch
        return outcome, out

    def _fused_outcomes(self, new: np.ndarray) -> np.ndarray:
        if self.previous is None:
            return new
        packed: np.ndarray = self.previous.rows["_outcomes"].to_numpy().copy()
        packed[self.worked] = new[self.worked]
        return packed

    def _errors(self) -> pa.Array:
        own = [
            {"type": error.type, "message": error.message, "c": str(self.claim.id), "at": self.now}
            for error in self.result.errors.values()
        ]
        at = np.array(list(self.result.errors), dtype=np.int64)
        base = pa.nulls(len(self.block), ERROR_TYPE)
        if self.previous is not None and "_error" in self.previous.rows.column_names:
            cleared = pa.nulls(len(self.worked), ERROR_TYPE)
            base = scatter(cleared, self.worked, one_chunk(self.previous.rows["_error"]))
        return scatter(pa.array(own, ERROR_TYPE), at, base) if own else base

    def table(self) -> tuple[pa.Table, dict[str, str]]:
        """The rows, and for every payload column the step that owns it from now on."""
        first, last = self.block.span.first, self.block.span.last
        columns: dict[str, pa.Array] = {
            "_id": pa.array(np.arange(first, last + 1, dtype=np.int64)),
            "_status": pa.array(self.status),
            "_out": pa.array(self.out),
            "_in": self.block.table["_out"],
        }
        if self.result.outcomes is not None:
            columns["_outcomes"] = pa.array(self._fused_outcomes(self.result.outcomes))
        if self.errors.null_count < len(self.errors):
            columns["_error"] = self.errors
        if (redrives := self._redrives()).any():
            columns["_redrives"] = pa.array(redrives)
        owners: dict[str, str] = {}
        for name in self._names():
            own = self._own_column(name)
            if own is not None:
                columns[name], owners[name] = own, self.claim.step
            else:  # it stays with its one owner: a column of several is written here
                owners[name] = str(self.block.owners[name])
        if (kept := self._kept(columns)) is not None:
            columns["_kept"], owners["_kept"] = kept_column(kept, len(self.block)), self.claim.step
        return pa.table(columns), owners

    def _redrives(self) -> np.ndarray:
        """In how many redrives each record has failed."""
        if self.previous is None:
            return np.zeros(len(self.block), np.int32)
        counts, failed = self.previous.redrives(), self.outcome[self.worked] == Outcome.FAILED
        counts[self.worked] = np.where(failed, self.previous.redrives_if_failed(self.block, self.work)[self.worked], 0)
        return counts

    def _kept(self, columns: Mapping[str, pa.Array]) -> Kept | None:
        """The side column as it must be written, or None if it is right as it is.

        A value beside a column that is written here is written here too: whoever kept it may have had the column in
        another type, and then nothing but the reading of this block has put the value aside.
        """
        written = columns.get("_kept")
        kept = kept_values(written) if written is not None else dict(self.block.kept)
        beside = {name: self._beside(name, rows) for name, rows in self.copied.items()}
        for name, values in [*beside.items(), *self.aside.items()]:
            for row, value in values.items():
                kept[row] = {**kept.get(row, {}), name: value}
        has_owner = self.block.owners.get("_kept", "") is not None
        is_right = has_owner and kept == self.block.stored_kept and not any(beside.values())
        return None if is_right or (written is not None and not beside and not self.aside) else kept

    def _beside(self, name: str, rows: np.ndarray) -> dict[int, Any]:
        """The values of some rows that could not stand in the column when this block was read."""
        kept = self.block.kept
        return {row: kept[row][name] for row in rows.tolist() if name in kept.get(row, {})} if kept else {}

    def _names(self) -> list[str]:
        """Every column that exists after the step."""
        names = [*self.block.owners, *self.result.columns]
        if self.previous is not None:
            names += [n for n, owner in self.previous.owners.items() if owner == self.claim.step]
        dropped = self.result.dropped if len(self.worked) == len(self.block) else frozenset()
        return [name for name in dict.fromkeys(names) if name not in dropped]

    def _own_column(self, name: str) -> pa.Array | None:
        """The column as this step must write it, or None if it stays with its owner."""
        new = self.result.columns.get(name)
        old = self._previous_column(name)
        if old is None:
            # its owner changes within the block; what is kept aside comes last, when all columns have been read
            if new is None and name != "_kept" and self.block.owners.get(name, "") is None:
                self.copied[name] = np.arange(len(self.block))
                return self.block.column(name)
            return new
        if new is None:
            base = self.block.column(name)
            self.copied[name] = self.worked
            new = base if base is not None else pa.nulls(len(self.block), old.type)
        target = unify(old.type, new.type)
        fresh = new.take(pa.array(self.worked))
        if target is not None:
            return scatter(fresh.cast(target), self.worked, old.cast(target))
        if (
            name in self._previous_names()
        ):  # a record that failed again has its text, the others have the step's numbers
            self.aside[name] = _values(fresh, self.worked)
            return scatter(pa.nulls(len(fresh), old.type), self.worked, old)
        rest = np.setdiff1d(np.arange(len(self.block)), self.worked)  # the first that succeed in it give it its type
        self.aside[name] = _values(old.take(pa.array(rest)), rest)
        return scatter(fresh, self.worked, pa.nulls(len(self.block), new.type))

    def _previous_names(self) -> list[str]:
        return self.previous.rows.column_names if self.previous is not None else []

    def _previous_column(self, name: str) -> pa.Array | None:
        if self.previous is None:
            return None
        if name in self.previous.rows.column_names:
            return one_chunk(self.previous.rows[name])
        if name in self.result.columns:  # changed for the first time: the kept rows have upstream's value
            return self._upstream_of_kept(name, self.result.columns[name].type)
        if name not in self.previous.owners and name in self.block.owners:  # dropped then, and not now
            return self._upstream_of_kept(name, pa.null())
        return None

    def _upstream_of_kept(self, name: str, kind: pa.DataType) -> pa.Array:
        """What the kept rows have of a column that this step did not write; null if they had none of it."""
        had = self.previous is not None and name in self.previous.owners
        base = self.block.column(name) if had else None
        return base if base is not None else pa.nulls(len(self.block), kind)

    def tally(self, seconds: float) -> Tally:
        """Outcomes of all rows; calls and seconds of this attempt alone."""
        counts = np.bincount(self.outcome, minlength=4)
        failed = self.outcome == Outcome.FAILED
        newly = failed & ~self.block.failed_before & (self.out >= self.claim.since)
        calls = self.result.call_seconds
        kinds = self.errors.field("type").filter(self.errors.is_valid()).to_pylist()
        return Tally(
            succeeded=int(counts[Outcome.SUCCEEDED]),
            failed=int(counts[Outcome.FAILED]),
            skipped=int(counts[Outcome.SKIPPED]),
            newly_failed=int(newly.sum()),
            processed=len(calls),
            blocks=1,
            errors=dict(Counter(kinds)),
            seconds=seconds,
            call_seconds=float(calls.sum()),
            call_squares=float((calls * calls).sum()),
            slowest_call=float(calls.max(initial=0.0)),
        )


def _values(column: pa.Array, positions: np.ndarray) -> dict[int, Any]:
    """The values at ``positions`` that are not null."""
    rows = zip(positions.tolist(), to_python(column), strict=True)
    return {row: value for row, value in rows if value is not None}

"""What became of every record in every step, by the files that count: for the ledger and for the views."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from batch_provider.domain.layout import Span
from batch_provider.domain.names import INPUT_PHASE
from batch_provider.domain.outcome import Outcome
from batch_provider.engine.columns.block import OUTCOME_BITS, has_failed
from batch_provider.storage.reading.chain import OpenFile


@dataclass(frozen=True)
class StepStatus:
    """One step over a run of records, an element for each.

    Attributes:
        outcome: NOT_RUN also where the row is of before the step above processed the record again.
        out: the epoch in which the step last processed the record.
        failed: whether the record has failed here or before.
        unread: rows that are in a file and do not count.
        outcomes: of fused steps, packed (see :mod:`batch_provider.engine.steps.fused_outcomes`); zeros else.
        failures: ``_id``, ``_error`` and of fused steps ``_outcomes`` of the failed rows that count.
    """

    outcome: np.ndarray
    out: np.ndarray
    failed: np.ndarray
    unread: np.ndarray
    outcomes: np.ndarray
    failures: tuple[pa.Table, ...]


class StatusReader:
    """Takes the files of a step over a shard one by one.

    Args:
        step: ``input`` for the input, whose files say nothing of good records.
        span: the ids.
    """

    def __init__(self, step: str, span: Span) -> None:
        count = len(span)
        self._span = span
        self._is_input = step == INPUT_PHASE
        self._status = np.full(count, Outcome.SUCCEEDED if self._is_input else Outcome.NOT_RUN, np.uint8)
        self._out, self._in = np.zeros(count, np.int32), np.zeros(count, np.int32)
        self._outcomes = np.zeros(count, np.uint64)
        self._present = np.zeros(count, bool)
        self._failures: list[pa.Table] = []

    def take(self, file: Span, opened: OpenFile) -> None:
        """Note the rows of a file that are among them.

        Args:
            file: the ids that the file holds.
            opened: the file.
        """
        part = file.overlap(self._span)
        if part is None:
            return
        failed = ["_error"] if opened.footer.tally.failed else []
        rows = opened.read(["_id", "_status", "_out", "_in", "_outcomes", *failed]).slice(
            part.first - file.first, len(part)
        )
        at = slice(part.first - self._span.first, part.last - self._span.first + 1)
        targets: dict[str, np.ndarray] = {
            "_status": self._status,
            "_out": self._out,
            "_in": self._in,
            "_outcomes": self._outcomes,
        }
        for name, target in targets.items():
            if name in rows.column_names:
                target[at] = rows[name].to_numpy()
        self._present[at] = True
        if failed:
            kept = [name for name in ("_id", "_error", "_outcomes") if name in rows.column_names]
            self._failures.append(rows.select(kept).filter(rows["_error"].is_valid()))

    def finish(self, before: StepStatus | None) -> StepStatus:
        """What came of it.

        Args:
            before: the step above; None: this is the input.
        """
        outcome = self._status & OUTCOME_BITS
        failed = has_failed(self._status)
        failures = self._failures
        if before is not None:  # what a step has not made again yet, after the step before has, it has not run
            late = (self._in != before.out) | (before.outcome == Outcome.NOT_RUN)
            outcome[late] = self._outcomes[late] = Outcome.NOT_RUN
            failed = np.where(outcome == Outcome.NOT_RUN, before.failed, failed)
            failures = [rows.filter(pa.array(~late[rows["_id"].to_numpy() - self._span.first])) for rows in failures]
        unread = self._present & (outcome == Outcome.NOT_RUN)
        return StepStatus(outcome, self._out, failed, unread, self._outcomes, tuple(failures))


def runs(values: np.ndarray) -> list[tuple[int, int]]:
    """First and last position of every run of equal values."""
    if not len(values):
        return []
    starts = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist()]
    return list(zip(starts, [start - 1 for start in starts[1:]] + [len(values) - 1], strict=True))

"""The account of an instance: one final outcome for every record, checked against every step's rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch_provider.domain.errors import DataLossError
from batch_provider.domain.instance import Close, Manifest
from batch_provider.domain.layout import WINDOW_ROWS, ShardRef, Span, tiles
from batch_provider.domain.names import INPUT_PHASE
from batch_provider.domain.outcome import FAILED_BEFORE, CloseOutcome, Outcome
from batch_provider.domain.result import TOLD_APART
from batch_provider.engine.columns.block import OUTCOME_BITS, has_failed
from batch_provider.engine.columns.rows import one_chunk
from batch_provider.engine.ports.completion import GenerationStore
from batch_provider.engine.steps.fused_outcomes import failed_in, unpack

MOST_CHECKS = 100
"""Different messages of checks and constraints that are told apart, of one exception in one step."""

ErrorKind = tuple[str, str, str]
"""Step, exception type, and for checks and constraints which one."""

Closes = Mapping[tuple[str, str], Close]
"""(step, shard id) → the close that counts."""


@dataclass
class Account:
    """Counts over every record of an instance.

    Attributes:
        successful, failed, not_run: records by final outcome.
        outcomes: step → number of records by :class:`Outcome`; fused steps each by itself.
        errors: (step, exception type, check or constraint) → failed rows; ``samples``: the message of one of them.
        late: (step, shard id) → rows of an earlier round that the step has not made again yet, although the step
            before has: a redrive was cut short. Their records count as not run.
        codes: step → fingerprint of the code → records that it did.
        given_up: step → records that failed in as many redrives as the job allows.
    """

    successful: int = 0
    failed: int = 0
    not_run: int = 0
    outcomes: dict[str, np.ndarray] = field(default_factory=dict)
    errors: Counter[ErrorKind] = field(default_factory=Counter)
    samples: dict[ErrorKind, str] = field(default_factory=dict)
    late: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    codes: dict[str, Counter[str]] = field(default_factory=dict)
    given_up: Counter[str] = field(default_factory=Counter)
    _checks: Counter[tuple[str, str]] = field(default_factory=Counter)

    def note_late(self, step: str, shard: ShardRef, window: Span, late: np.ndarray) -> None:
        """Add which rows of a window of a shard are late."""
        of_shard = self.late.setdefault((step, shard.id), np.zeros(len(shard.span), dtype=bool))
        of_shard[window.first - shard.span.first : window.last - shard.span.first + 1] = late

    def take(self, final: np.ndarray) -> None:
        """Add final outcomes."""
        counts = np.bincount(final, minlength=4)
        self.successful += int(counts[Outcome.SUCCEEDED])
        self.failed += int(counts[Outcome.FAILED])
        self.not_run += int(counts[Outcome.NOT_RUN])

    def take_errors(self, steps: Sequence[str], tables: Iterable[pa.Table]) -> None:
        """Add the failed rows of a step, or of several that are fused."""
        for rows in tables:
            error = one_chunk(rows["_error"])
            found = pa.table(
                {
                    "step": pa.array(failed_in(steps, rows), pa.string()),
                    "type": error.field("type"),
                    "message": error.field("message"),
                    "check": _checks(error),
                }
            )
            # one thread: with more of them "first" is any
            kinds = found.group_by(["step", "type", "check"], use_threads=False).aggregate(
                [("message", "first"), ([], "count_all")]
            )
            for kind in kinds.to_pylist():
                self._take_kind((kind["step"], kind["type"], kind["check"]), kind["count_all"], kind["message_first"])

    def _take_kind(self, kind: ErrorKind, count: int, sample: str) -> None:
        """Add errors of one kind; messages that are all different become one row."""
        step, error_type, check = kind
        if kind not in self.samples and check:
            self._checks[step, error_type] += 1
            if self._checks[step, error_type] > MOST_CHECKS:
                kind = (step, error_type, "")
        self.errors[kind] += count
        self.samples.setdefault(kind, sample)

    def take_outcomes(self, steps: Sequence[str], outcome: np.ndarray, packed: np.ndarray) -> None:
        """Add what a step, or each of several that are fused, did with the records of one shard."""
        for number, step in enumerate(steps):
            own = unpack(packed, number) if len(steps) > 1 else outcome
            self.outcomes[step] += np.bincount(own, minlength=4)

    def take_given_up(self, steps: Sequence[str], given_up: np.ndarray, packed: np.ndarray) -> None:
        """Add the records at ``given_up`` to the step where each of them failed."""
        for number, step in enumerate(steps):
            failed = unpack(packed, number) == Outcome.FAILED if len(steps) > 1 else True
            self.given_up[step] += int((given_up & failed).sum())

    def take_codes(self, step: str, codes: Mapping[int, str], epochs: np.ndarray) -> None:
        """Add records by the code that made their rows."""
        found = self.codes[step]
        for epoch, count in zip(*np.unique(epochs, return_counts=True), strict=True):
            found[codes[int(epoch)]] += int(count)


def _checks(error: pa.StructArray) -> pa.Array:
    """For each error the check or constraint that it is of: its message, without what a database adds; else ''."""
    types, messages = error.field("type"), error.field("message")
    apart = [kind for kind in types.unique().to_pylist() if re.fullmatch(TOLD_APART, kind)]
    if not apart:
        return pa.repeat("", len(error))
    first_lines = pc.replace_substring_regex(messages, r"(?s)\n.*", "")
    return pc.if_else(pc.is_in(types, pa.array(apart)), first_lines, "")


@dataclass
class _StepRows:
    """Status, ``_out``, ``_in``, ``_outcomes`` and ``_redrives`` of a step over a window; zeros without a row.

    ``errors``: the rows with an error, a table for each file that has some.
    """

    status: np.ndarray
    out: np.ndarray
    consumed: np.ndarray
    outcomes: np.ndarray
    redrives: np.ndarray
    errors: list[pa.Table] = field(default_factory=list)


def reconcile(
    store: GenerationStore, closes: Closes, max_redrives: int | None = None, window_rows: int = WINDOW_ROWS
) -> Account:
    """Count every record's final outcome, and check that nothing was lost or counted twice.

    Args:
        store: the generation.
        closes: the attempts that count.
        max_redrives: a record that failed in so many is given up; None: none is.
        window_rows: records to look at at a time.

    Raises:
        DataLossError: a finished step does not tile its shard, a row was made from another upstream row than the
            one that counts, or the outcomes do not add up to the records loaded.
    """
    manifest = store.manifest
    account = Account(
        outcomes={name: np.zeros(4, np.int64) for name in manifest.step_names},
        codes={str(step["name"]): Counter() for step in manifest.steps},
    )
    _check_shards(manifest)
    for shard in manifest.shards:
        for window in shard.span.windows(window_rows):
            account.take(_account_window(store, shard, window, closes, account, max_redrives))
    total = account.successful + account.failed + account.not_run
    if total != manifest.total:
        raise DataLossError(manifest.instance.id, f"{manifest.total} records were loaded, {total} are accounted for")
    return account


def _check_shards(manifest: Manifest) -> None:
    if not manifest.total:
        return
    whole = Span(0, manifest.total - 1)
    for what, spans in (
        ("shards", [shard.span for shard in manifest.shards]),
        ("input files", manifest.input_spans),
    ):
        if not tiles(whole, spans):
            raise DataLossError(manifest.instance.id, f"its {what} do not cover {manifest.total} records")


def _account_window(  # what reconcile has, and the part of it to look at
    store: GenerationStore,
    shard: ShardRef,
    window: Span,
    closes: Closes,
    account: Account,
    max_redrives: int | None,
) -> np.ndarray:
    """The final outcome of each record of ``window``, which is part of a shard."""
    instance = store.manifest.instance.id
    before = _rows_of(store, INPUT_PHASE, shard, window, None)
    failed = has_failed(before.status)
    missing = np.zeros(len(window), dtype=bool)
    account.take_errors([INPUT_PHASE], before.errors)
    behind, above = False, None
    for entry in store.manifest.steps:
        step = str(entry["name"])
        close = closes[step, shard.id]
        rows = _rows_of(store, step, shard, window, close)
        behind = behind or close.outcome is not CloseOutcome.DONE or store.pinned(close) != above
        if behind:
            late = _late(before, rows)
            rows.status[late] = rows.outcomes[late] = Outcome.NOT_RUN
            account.note_late(step, shard, window, late)
        above = close.claim
        _check_step(instance, step, shard, window, close, before, rows, failed)
        outcome = rows.status & OUTCOME_BITS
        steps = store.manifest.fused(step)
        account.take_outcomes(steps, outcome, rows.outcomes)
        account.take_errors(steps, _counting(rows.errors, account.late.get((step, shard.id)), shard))
        account.take_codes(step, store.codes(step, shard.id), rows.out[outcome != Outcome.NOT_RUN])
        if max_redrives is not None:
            given_up = (outcome == Outcome.FAILED) & (rows.redrives >= max_redrives)
            account.take_given_up(steps, given_up, rows.outcomes)
        failed = failed | (outcome == Outcome.FAILED)
        missing = missing | (outcome == Outcome.NOT_RUN)
        before = rows
    final = np.full(len(window), Outcome.SUCCEEDED, dtype=np.uint8)
    final[missing] = Outcome.NOT_RUN
    final[failed] = Outcome.FAILED
    return final


def _rows_of(store: GenerationStore, step: str, shard: ShardRef, window: Span, close: Close | None) -> _StepRows:
    count, first = len(window), window.first
    zeros = partial(np.zeros, count, np.int32)
    default = Outcome.SUCCEEDED if close is None else Outcome.NOT_RUN  # the input says nothing of good records
    rows = _StepRows(np.full(count, default, np.uint8), zeros(), zeros(), np.zeros(count, np.uint64), zeros())
    targets: dict[str, np.ndarray] = {
        "_status": rows.status,
        "_out": rows.out,
        "_in": rows.consumed,
        "_outcomes": rows.outcomes,
        "_redrives": rows.redrives,
    }
    for span in store.spans(step, shard.id, close, within=window):
        table = store.rows(step, shard.id, close, span, [*targets, "_error"])
        at = slice(span.first - first, span.last - first + 1)
        if not np.array_equal(table["_id"].to_numpy(), np.arange(span.first, span.last + 1)):
            raise DataLossError(store.manifest.instance.id, f"a file of step {step!r} does not hold its ids")
        for name, target in targets.items():
            if name in table.column_names:
                target[at] = table[name].to_numpy()
        if "_error" in table.column_names:
            rows.errors.append(table.filter(table["_error"].is_valid()))
    return rows


def _late(before: _StepRows, rows: _StepRows) -> np.ndarray:
    """Rows that were made from what the step before has made again since, or is about to."""
    ran = (rows.status & OUTCOME_BITS) != Outcome.NOT_RUN
    late: np.ndarray = ran & ((rows.consumed != before.out) | ((before.status & OUTCOME_BITS) == Outcome.NOT_RUN))
    return late


def _check_step(
    instance: str,
    step: str,
    shard: ShardRef,
    window: Span,
    close: Close,
    before: _StepRows,
    rows: _StepRows,
    failed: np.ndarray,
) -> None:
    is_first = window.first == shard.span.first  # all files of the shard are looked at once, not for each window
    if is_first and close.outcome is CloseOutcome.DONE and not tiles(shard.span, [file.span for file in close.files]):
        raise DataLossError(instance, f"step {step!r} of shard {shard.id} says it is done, but records are missing")
    ran = (rows.status & OUTCOME_BITS) != Outcome.NOT_RUN
    orphaned = ran & ((before.status & OUTCOME_BITS) == Outcome.NOT_RUN)
    stale = ran & (rows.consumed != before.out)
    unlike = ran & (((rows.status & FAILED_BEFORE) != 0) != failed)
    for wrong, what in (
        (orphaned, "has rows that the step before never ran"),
        (stale, "was made from an earlier output of the step before"),
        (unlike, "does not agree with the step before on which records have failed"),
    ):
        if wrong.any():
            raise DataLossError(
                instance,
                f"step {step!r} of shard {shard.id} {what}",
                (np.flatnonzero(wrong) + window.first).tolist(),
            )


def _counting(errors: Sequence[pa.Table], late: np.ndarray | None, shard: ShardRef) -> list[pa.Table]:
    """Those rows of ``errors`` that count."""
    if late is None:
        return list(errors)
    return [rows.filter(pa.array(~late[rows["_id"].to_numpy() - shard.span.first])) for rows in errors]

"""Streaming aggregators: one call with every record of the step, over all shards; a barrier.

The checkpoints of all shards are written after the call and before the first close, so the first close is the
commit point: a crash before it repeats the call from its first record, a crash after it only closes the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

from batch_provider.domain.layout import FileRef, Span, gaps
from batch_provider.domain.outcome import CloseOutcome, Outcome
from batch_provider.domain.spec import JobSpec, StepSpec
from batch_provider.domain.tally import Tally
from batch_provider.engine.calls.invoke import RecordError, UserFunction
from batch_provider.engine.columns.block import Block, BlockResult
from batch_provider.engine.isolation.child import Outside
from batch_provider.engine.isolation.stream import Called, StreamWork, call_in_child
from batch_provider.engine.ports.store import Clock, ShardWork
from batch_provider.engine.process.commit import Previous, commit_block
from batch_provider.engine.process.ending import ending
from batch_provider.engine.process.fingerprint import fingerprint
from batch_provider.engine.process.guard import Guard
from batch_provider.engine.steps.accept import Acceptance

BLOCK_ROWS = 65_536

PER_STREAM = ("idempotency_key",)


@dataclass(frozen=True)
class StreamTask:
    """What it takes to run a streaming aggregator.

    Attributes:
        job: what the author declared.
        step: the aggregator.
        works: the held claims, one for each shard.
        clock: for intervals and times of failures.
        constant: keywords the author's function may name.
        cancelled: whether the task was told to end.
        on_late: told once for each round that the SLA has passed.
        outside: what a child process must not speak to.
        interruptions: exceptions that end the task without being an Exception: its time limit.
    """

    job: JobSpec
    step: StepSpec
    works: Sequence[ShardWork]
    clock: Clock
    constant: Mapping[str, Any] = field(default_factory=dict)
    cancelled: Callable[[], bool] = lambda: False
    on_late: Callable[[str], None] | None = None
    outside: Outside | None = None
    interruptions: tuple[type[BaseException], ...] = ()


@dataclass
class _Piece:
    """A block of the stream, and which of its records the call was given."""

    work: ShardWork
    span: Span
    file: FileRef | None
    chosen: np.ndarray | None
    """Positions to look at; None: all of them, which takes no memory."""
    taken: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=bool))
    errors: dict[int, RecordError] = field(default_factory=dict)

    @property
    def candidates(self) -> np.ndarray:
        """The positions to look at."""
        return np.arange(len(self.span)) if self.chosen is None else self.chosen


class Records:
    """What a streaming aggregator gets: every record once, forward only, never all in memory."""

    def __init__(self, make: Callable[[], Iterator[dict[str, Any]]]) -> None:
        self._make: Callable[[], Iterator[dict[str, Any]]] | None = make

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The records; a second pass is an error, not an empty loop."""
        if self._make is None:
            raise RuntimeError("a streaming aggregator's records can be read once only; keep what you need again")
        make, self._make = self._make, None
        return make()


def process_stream(task: StreamTask) -> None:
    """Call the aggregator once with what is left for it, then commit every shard.

    Raises:
        StopProcessingError: a limit, a stop or a successor ended it before the commit; nothing counts then.
        BatchError: the job or the store ended it.
    """
    run = _StreamRun(task)
    with ending(run.close, task.interruptions):
        run.run()


class _StreamRun:
    def __init__(self, task: StreamTask) -> None:
        self.task, self.step = task, task.step
        self.own: dict[str, Tally] = {}
        self.open = list(task.works)
        self.function: UserFunction | None = None

    def run(self) -> None:
        """The whole of it."""
        task = self.task
        self.accept = Acceptance(task.job, task.step, dict(task.constant))
        self.function = UserFunction(task.step.name, task.step.call, PER_STREAM, dict(task.constant))
        self.guards = [Guard(work, task.job, task.clock, task.cancelled, task.on_late) for work in task.works]
        pieces = self._pieces(committed=any(work.settled for work in task.works))
        error, seconds = self._asked_and_called(self.function, pieces)
        self._look()
        self._commit(pieces, error, seconds)
        self.close(CloseOutcome.DONE, "")
        for guard in self.guards:
            guard.check_limit()

    def _asked_and_called(self, function: UserFunction, pieces: list[_Piece]) -> tuple[RecordError | None, float]:
        """Which records are taken, and the one call for them; in a child process if too many attempts died here."""

        def call() -> Called:  # pragma: no cover  # in the child, where no coverage is measured
            return Called(*self._call(function, pieces), dict(function.stacks))

        if max((work.deaths for work in self.task.works), default=0) < self.task.job.max_process_deaths:
            for piece in pieces:
                self._accept(piece)
            return self._call(function, pieces)
        work = StreamWork(self.step.name, pieces, self._accept, self._admit, call)
        called = call_in_child(work, self._look, self.task.outside)
        function.stacks.update(called.stacks)
        return called.error, called.seconds

    def _look(self) -> None:
        for guard in self.guards:
            guard.before_block()

    def _pieces(self, *, committed: bool) -> list[_Piece]:
        pieces = [piece for work in self.task.works for piece in self._pieces_of(work, committed)]
        aggregator = self.step.aggregator
        if aggregator is not None and aggregator.on_redrive == "all" and any(len(p.candidates) for p in pieces):
            for piece in pieces:
                piece.chosen = None
        return pieces

    def _pieces_of(self, work: ShardWork, committed: bool) -> Iterator[_Piece]:
        covered = [file.span for file in work.files]
        if not committed:  # rows of before this redrive may stay; the call of a crashed attempt is repeated whole
            rewrites = set(work.rewrites)
            for file in work.files:
                if file not in rewrites and file.claim.epoch < work.claim.since:
                    yield _Piece(work, file.span, file, np.empty(0, dtype=np.int64))
                    continue
                previous = Previous(work.previous(file), work.footer_owners(file))
                stale = previous.stale(Block(work.upstream, file.span, ()), work, self.task.job.max_redrives)
                yield _Piece(work, file.span, file, np.union1d(stale, previous.made_since(work.claim.since)))
        for hole in gaps(work.shard.span, covered):
            for first in range(hole.first, hole.last + 1, BLOCK_ROWS):
                span = Span(first, min(first + BLOCK_ROWS - 1, hole.last))
                yield _Piece(work, span, None, None)

    def _call(self, function: UserFunction, pieces: list[_Piece]) -> tuple[RecordError | None, float]:
        """One call over all pieces, if it has records at all; what it raises fails every one of them."""
        if not any(piece.taken.any() for piece in pieces):
            return None, 0.0
        started = perf_counter()
        instance = getattr(self.task.constant.get("instance"), "id", "local")
        epochs = "-".join(str(work.claim.since) for work in self.task.works)
        key = f"{instance}/{self.step.name}/{epochs}"
        try:
            function.once(Records(lambda: self._records(pieces)), idempotency_key=key)
        except Exception as raised:  # noqa: BLE001  # this is where user code ends
            return function.note(raised), perf_counter() - started
        return None, perf_counter() - started

    def _records(self, pieces: list[_Piece]) -> Iterator[dict[str, Any]]:
        for piece in pieces:
            self._look()
            for _, records in self._block(piece).record_slices(np.flatnonzero(piece.taken)):
                yield from records

    def _block(self, piece: _Piece) -> Block:
        return Block(piece.work.upstream, piece.span, self.step.reads)

    def _admit(self, piece: _Piece) -> None:
        positions, piece.errors = piece.candidates, {}
        admitted = positions[self.accept._admits(self._block(piece).failed_before[positions])]
        piece.taken = np.isin(np.arange(len(piece.span)), admitted)

    def _accept(self, piece: _Piece) -> None:
        self._look()
        positions, piece.errors = self.accept.of(self._block(piece), piece.candidates)
        piece.taken = np.zeros(len(piece.span), dtype=bool)
        piece.taken[positions] = True

    def _commit(self, pieces: list[_Piece], error: RecordError | None, seconds: float) -> None:
        total = sum(int(piece.taken.sum()) for piece in pieces) or 1
        for piece in pieces:
            if len(piece.candidates) == 0:
                continue
            result = self._result(piece, error, seconds / total)
            previous = None
            if piece.file is not None:
                previous = Previous(piece.work.previous(piece.file), piece.work.footer_owners(piece.file))
            block = Block(piece.work.upstream, piece.span, ())
            now = self.task.clock.now()
            share = seconds * len(result.call_seconds) / total
            tally = commit_block(piece.work, block, result, piece.candidates, previous, now, share)
            shard = piece.work.shard.id
            self.own[shard] = self.own.get(shard, Tally()) + tally

    def _result(self, piece: _Piece, error: RecordError | None, each: float) -> BlockResult:
        positions = np.flatnonzero(piece.taken)
        result = BlockResult(outcome=np.zeros(len(piece.span), dtype=np.uint8), errors=dict(piece.errors))
        result.outcome[piece.candidates] = Outcome.SKIPPED
        result.outcome[positions] = Outcome.SUCCEEDED if error is None else Outcome.FAILED
        if error is not None:
            result.errors.update(dict.fromkeys(positions.tolist(), error))
        result.outcome[list(piece.errors)] = Outcome.FAILED
        result.call_seconds = np.full(len(positions), each)
        return result

    def close(self, outcome: CloseOutcome, reason: str) -> None:
        """End the attempt in every shard in which it has not ended."""
        mark, stacks = fingerprint(self.step), self.function.stacks if self.function else {}
        while self.open:
            work = self.open[0]
            own = self.own.get(work.shard.id, Tally())
            tally = work.tally.with_work(own, own.seconds)
            work.close(outcome, tally, fingerprint=mark, reason=reason, stacks=stacks)
            del self.open[0]

"""Fused steps: each runs as it would alone, over what the one before left in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter

import numpy as np
import pyarrow as pa

from batch_provider.domain.fused import FusedStep
from batch_provider.domain.layout import Span
from batch_provider.domain.tally import Tally
from batch_provider.engine.columns.block import Block, BlockResult
from batch_provider.engine.ports.store import GenerationReader
from batch_provider.engine.steps.aggregate import AggregatorStep
from batch_provider.engine.steps.fused_outcomes import over_all, pack
from batch_provider.engine.steps.overlay import Overlay
from batch_provider.engine.steps.record import RecordStep
from batch_provider.engine.steps.vector import VectorStep

Runner = RecordStep | VectorStep | AggregatorStep


class FusedRunner:
    """Runs fused steps over blocks; only the last of them may be an aggregator.

    Args:
        fused: what was declared.
        runners: of its steps, in order.
    """

    def __init__(self, fused: FusedStep, runners: Sequence[Runner]) -> None:
        self.step = fused
        last = runners[-1]
        self._aggregator = last if isinstance(last, AggregatorStep) else None
        self._runners = list(runners)
        self._ready: Overlay | None = None
        self.work: dict[str, Tally] = {step.name: Tally() for step in fused.steps}

    @property
    def stacks(self) -> Mapping[str, str]:
        """Exception type → stack of the first of its kind."""
        found: dict[str, str] = {}
        for runner in reversed(self._runners):
            found.update(runner.stacks)
        return found

    def close(self) -> None:
        """Let go what the steps hold open."""
        for runner in self._runners:
            runner.close()

    def block(self, upstream: GenerationReader, span: Span) -> Block:
        """Status only: each step reads for itself what it needs."""
        return Block(upstream, span, ())

    def cut(self, upstream: GenerationReader, rest: Span, wanted: int) -> Span:
        """The next block of ``rest``, of about ``wanted`` records; it ends where a group of the aggregator ends.

        To know where that is, the steps before the aggregator are run. What they made of records behind the block's
        end is kept for the next one, so that no function is called twice for a record.
        """
        span = rest.head(wanted)
        if self._aggregator is None:
            return span
        groups = max(1, len(span) // self._aggregator.size)
        while True:
            ready = self._advance(upstream, span)
            if span == rest:
                return rest
            if end := self._aggregator.group_end(self._aggregator.block(ready, ready.span), groups):
                return rest.head(end)
            span = rest.head(len(span) + max(len(span), self._aggregator.size))

    def _advance(self, upstream: GenerationReader, span: Span) -> Overlay:
        """Have the steps before the aggregator done up to the end of ``span``."""
        if self._ready is None or self._ready.span.first != span.first:
            self._ready = self._front(upstream, span, np.arange(len(span)))
        elif self._ready.span.last < span.last:
            more = Span(self._ready.span.last + 1, span.last)
            self._ready = self._ready.then(self._front(upstream, more, np.arange(len(more))))
        return self._ready

    def _front(self, upstream: GenerationReader, span: Span, candidates: np.ndarray) -> Overlay:
        overlay = Overlay.of(upstream, span, self.step.name)
        for runner in self._runners if self._aggregator is None else self._runners[:-1]:
            self._run(runner, overlay, candidates)
        return overlay

    def _run(self, runner: Runner, overlay: Overlay, candidates: np.ndarray) -> None:
        began = perf_counter()
        block = runner.block(overlay, overlay.span)
        result = runner.run(block, candidates)
        overlay.apply(block, result)
        calls = result.call_seconds
        self.work[runner.step.name] += Tally(
            processed=len(calls),
            blocks=1,
            seconds=perf_counter() - began,
            call_seconds=float(calls.sum()),
            call_squares=float((calls * calls).sum()),
            slowest_call=float(calls.max(initial=0.0)),
        )

    def run(self, block: Block, candidates: np.ndarray) -> BlockResult:
        """Pass the records at ``candidates`` through all the steps."""
        began = perf_counter()
        overlay = self._taken(block, candidates)
        if self._aggregator is not None:
            self._run(self._aggregator, overlay, candidates)
        outcome = over_all(overlay.outcomes)
        each = (perf_counter() - began) / max(len(candidates), 1)
        return BlockResult(
            outcome=outcome,
            errors=overlay.errors,
            columns=overlay.columns(),
            dropped=overlay.dropped,
            call_seconds=np.full(len(candidates), each),
            outcomes=pack(overlay.outcomes),
            types={runner.step.name: pa.schema(list(runner.types.items())) for runner in self._runners},
        )

    def _taken(self, block: Block, candidates: np.ndarray) -> Overlay:
        """What the steps before the aggregator made of the block: done already when its end was looked for."""
        ready, span = self._ready, block.span
        if ready is None or ready.span.first != span.first or len(candidates) < len(block):
            return self._front(block.upstream, span, candidates)
        self._ready = ready.cut(span.last + 1, ready.span.last) if span.last < ready.span.last else None
        return ready.cut(span.first, span.last)

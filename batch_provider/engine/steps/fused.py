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
from batch_provider.engine.steps.groups import Group, GroupedBlock
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
        self.lay(runner, overlay, block, result, began)

    def lay(self, runner: Runner, overlay: Overlay, block: Block, result: BlockResult, began: float) -> None:
        """Lay what one step made of the block over what is there, and note its work."""
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
        if self._aggregator is not None:
            grouping = self.grouping(block, candidates)
            self._aggregator.call_all(grouping.grouped)
            return grouping.result(block, candidates)
        began = perf_counter()
        overlay = self._front(block.upstream, block.span, candidates)
        return self.made(overlay, len(candidates), perf_counter() - began)

    def made(self, overlay: Overlay, records: int, seconds: float) -> BlockResult:
        """What all the steps together made of a block."""
        return BlockResult(
            outcome=over_all(overlay.outcomes),
            errors=overlay.errors,
            columns=overlay.columns(),
            dropped=overlay.dropped,
            call_seconds=np.full(records, seconds / max(records, 1)),
            outcomes=pack(overlay.outcomes),
            types={runner.step.name: pa.schema(list(runner.types.items())) for runner in self._runners},
        )

    # --- groups -------------------------------------------------------------------------------------------------

    @property
    def regroups(self) -> bool:
        """Whether groups are made across the blocks of a redrive: there is an aggregator."""
        return self._aggregator is not None

    @property
    def aggregator(self) -> AggregatorStep:
        """The last of the steps."""
        assert self._aggregator is not None, "it is asked for only where there is one"
        return self._aggregator

    @property
    def size(self) -> int:
        """Records in a group."""
        return self.aggregator.size

    def grouping(self, block: Block, candidates: np.ndarray) -> FusedGrouping:
        """Have the steps before the aggregator done, and ask which records it accepts."""
        began = perf_counter()
        overlay = self._taken(block, candidates)
        inner = self.aggregator.block(overlay, overlay.span)
        grouped = self.aggregator.grouping(inner, candidates)
        return FusedGrouping(self, overlay, inner, grouped, candidates, perf_counter() - began)

    def call_for(self, group: Group) -> None:
        """Have a group done."""
        self.aggregator.call_for(group)

    def _taken(self, block: Block, candidates: np.ndarray) -> Overlay:
        """What the steps before the aggregator made of the block: done already when its end was looked for."""
        ready, span = self._ready, block.span
        if ready is None or ready.span.first != span.first or len(candidates) < len(block):
            return self._front(block.upstream, span, candidates)
        self._ready = ready.cut(span.last + 1, ready.span.last) if span.last < ready.span.last else None
        return ready.cut(span.first, span.last)


class FusedGrouping:
    """A block that has passed the steps before the aggregator (a Grouping)."""

    def __init__(  # what the runner has of the block
        self,
        runner: FusedRunner,
        overlay: Overlay,
        inner: Block,
        grouped: GroupedBlock,
        candidates: np.ndarray,
        seconds: float,
    ) -> None:
        self._runner, self._overlay, self._grouped = runner, overlay, grouped
        self._inner: Block | None = inner
        self._candidates, self._seconds = candidates, seconds

    @property
    def grouped(self) -> GroupedBlock:
        """As the aggregator sees it."""
        return self._grouped

    def let_go(self) -> None:
        """Keep the rows that wait, and what the steps before have made of the records that they were given."""
        self._grouped.let_go()
        self._overlay, self._inner = self._overlay.only(self._candidates), None

    def result(self, block: Block, candidates: np.ndarray) -> BlockResult:  # noqa: ARG002  # read through the overlay
        """What all the steps made of the records at ``candidates``."""
        began = perf_counter()
        aggregator, overlay, inner = self._runner.aggregator, self._overlay, self._inner
        if inner is None:
            overlay = overlay.spread(candidates)
            inner = aggregator.block(overlay, overlay.span)
        result = self._grouped.result(inner, candidates)
        calls = float(result.call_seconds.sum())
        self._runner.lay(aggregator, overlay, inner, result, began - calls)
        return self._runner.made(overlay, len(candidates), self._seconds + calls + perf_counter() - began)

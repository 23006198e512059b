"""The groups of a redrive: made of what is to be done again, across the blocks that have some of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from batch_provider.domain.layout import FileRef, Span
from batch_provider.engine.columns.block import Block, BlockResult
from batch_provider.engine.ports.store import ShardWork
from batch_provider.engine.process.commit import Previous
from batch_provider.engine.steps.aggregate import AggregatorStep
from batch_provider.engine.steps.fused import FusedRunner
from batch_provider.engine.steps.groups import Group, GroupedBlock, Grouping

OPEN_BLOCKS = 2
"""Blocks that are kept in memory whole, as their last group most often ends with the next block; of others that wait
for a group only the accepted rows are."""


@dataclass(frozen=True)
class Opened:
    """A block that is worked on.

    Attributes:
        block: what came.
        candidates: positions to process.
        previous: the rows that it had before this redrive, if it was done before.
    """

    block: Block
    candidates: np.ndarray
    previous: Previous | None


OpenBlock = Callable[[Span, FileRef | None], Opened]


class _Entry:
    """A block some of whose accepted records wait for their group."""

    def __init__(self, file: FileRef | None, opened: Opened, grouping: Grouping) -> None:
        self.span, self.file, self.grouping = opened.block.span, file, grouping
        self.opened: Opened | None = opened
        self.seconds = 0.0

    def let_go(self) -> None:
        """Keep no more than the rows that wait; nothing changes if that was said before."""
        if self.opened is not None:
            self.grouping.let_go()
            self.opened = None


class Regrouping:
    """Collects the accepted records of blocks into groups; a block is done when all its groups are.

    Args:
        runner: whose groups they are.
        open_block: opens a block that was let go again.
    """

    def __init__(self, runner: AggregatorStep | FusedRunner, open_block: OpenBlock) -> None:
        self._runner, self._open_block = runner, open_block
        self._entries: deque[_Entry] = deque()
        self._ready: list[_Entry] = []
        self._waiting: deque[tuple[GroupedBlock, np.ndarray]] = deque()
        self._count = 0

    def add(self, file: FileRef | None, opened: Opened) -> None:
        """Take a block, and call for each group that is whole."""
        began = perf_counter()
        entry = _Entry(file, opened, self._runner.grouping(opened.block, opened.candidates))
        grouped = entry.grouping.grouped
        if grouped.waiting:
            self._entries.append(entry)
            self._waiting.append((grouped, grouped.accepted))
            self._count += grouped.waiting
        else:  # nothing of it is accepted
            self._ready.append(entry)
        while self._count >= self._runner.size:
            self._runner.call_for(self._cut(self._runner.size))
        entry.seconds = perf_counter() - began

    def finish(self) -> None:
        """Call for what is left: the last group may be smaller."""
        if self._count:
            self._runner.call_for(self._cut(self._count))

    def done(self) -> Iterator[tuple[Opened, BlockResult, float]]:
        """The blocks that are done now: what came, what became of it, and the seconds it took."""
        while self._entries and not self._entries[0].grouping.grouped.waiting:
            self._ready.append(self._entries.popleft())
        while self._ready:
            entry = self._ready.pop()
            began = perf_counter()
            opened = entry.opened or self._open_block(entry.span, entry.file)
            result = entry.grouping.result(opened.block, opened.candidates)
            yield opened, result, entry.seconds + perf_counter() - began
        if len(self._entries) > OPEN_BLOCKS:
            self._entries[-OPEN_BLOCKS - 1].let_go()  # those before it have gone

    def _cut(self, count: int) -> Group:
        """The first ``count`` records that wait."""
        self._count -= count
        parts: list[tuple[GroupedBlock, np.ndarray]] = []
        while count:
            block, at = self._waiting.popleft()
            if len(at) > count:
                self._waiting.appendleft((block, at[count:]))
            parts.append((block, at[:count]))
            count -= min(count, len(at))
        return Group(tuple(parts))


def regrouping_of(runner: Any, work: ShardWork, open_block: OpenBlock) -> Regrouping | None:
    """How the groups of a redrive are made; None for steps without groups, and where there is nothing to redrive."""
    if work.rewrites and isinstance(runner, (AggregatorStep, FusedRunner)) and runner.regroups:
        return Regrouping(runner, open_block)
    return None

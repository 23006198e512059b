"""The block loop of one (step, shard): read, run, commit, until the shard's ids are tiled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from batch_provider.domain.errors import FencedError, StopProcessingError
from batch_provider.domain.fused import CheckpointStep
from batch_provider.domain.layout import FileRef, Span, gaps
from batch_provider.domain.outcome import CloseOutcome
from batch_provider.domain.spec import JobSpec
from batch_provider.domain.tally import Tally
from batch_provider.engine.columns.block import BlockResult
from batch_provider.engine.isolation.child import Outside
from batch_provider.engine.isolation.runner import IsolatedRunner, isolated_if_deadly
from batch_provider.engine.ports.store import Clock, ShardWork
from batch_provider.engine.ports.writing import Targets
from batch_provider.engine.process.commit import Previous, commit_block
from batch_provider.engine.process.ending import ending
from batch_provider.engine.process.fingerprint import fingerprint
from batch_provider.engine.process.guard import Guard
from batch_provider.engine.process.regroup import Opened, Regrouping, regrouping_of
from batch_provider.engine.process.sizing import BlockSizer
from batch_provider.engine.steps.fused import FusedRunner, Runner
from batch_provider.engine.steps.runners import make_runner

log = logging.getLogger(__name__)

AnyRunner = Runner | FusedRunner | IsolatedRunner


def _never() -> bool:
    return False


@dataclass(frozen=True)
class ShardTask:
    """What it takes to process one (step, shard).

    Attributes:
        job, step: what the author declared; ``step`` may be several that are fused.
        work: the held claim.
        clock: for intervals and times of failures.
        constant: keywords the author's functions may name: ``instance`` and Airflow's context.
        cancelled: whether the task was told to end.
        on_late: told once for each round that the SLA has passed.
        targets: how writers and transactions reach their databases.
        outside: what a child process must not speak to.
        interruptions: exceptions that end the task without being an Exception: its time limit.
    """

    job: JobSpec
    step: CheckpointStep
    work: ShardWork
    clock: Clock
    constant: Mapping[str, Any] = field(default_factory=dict)
    cancelled: Callable[[], bool] = _never
    on_late: Callable[[str], None] | None = None
    targets: Targets | None = None
    outside: Outside | None = None
    interruptions: tuple[type[BaseException], ...] = ()


def process_shard(task: ShardTask) -> Tally:
    """Process what is left of a shard: the gaps, and in a redrive what failed or changed upstream.

    Returns:
        Outcomes over the whole shard, with this attempt's own work.

    Raises:
        StopProcessingError: a limit, a stop or a successor ended it; what is done stays done.
        BatchError: the job, the store or a target ended it.
    """
    run = _ShardRun(task)
    with ending(run.close, task.interruptions):
        return run.work_through()


class _ShardRun:
    """One attempt at work."""

    def __init__(self, task: ShardTask) -> None:
        self.task, self.work = task, task.work
        self.sizer = BlockSizer(task.job.block_size)
        self.own = Tally()
        self.is_closed = False
        self.cutting = 0.0
        self.began = task.clock.monotonic()
        self.runner: AnyRunner | None = None
        self.regrouping: Regrouping | None = None

    def work_through(self) -> Tally:
        """The block loop."""
        task = self.task
        self.guard = Guard(task.work, task.job, task.clock, task.cancelled, task.on_late)
        make = partial(make_runner, task.job, task.step, dict(task.constant), task.work, task.targets)
        chosen = isolated_if_deadly(task.job, task.step, task.work, make, self.guard.before_block, task.outside)
        with closing(chosen) as runner:
            self.runner = runner
            self.regrouping = regrouping_of(runner, task.work, partial(self.open, runner))
            for span, previous in self.pending(runner):
                self.process(runner, span, previous)
            self.finish_groups()
            tally = self.close(CloseOutcome.DONE, "")
            self.guard.check_limit()  # the last block may have tripped it: all is done, and the task fails
        return tally

    def pending(self, runner: AnyRunner) -> Iterator[tuple[Span, FileRef | None]]:
        """What there is to do: blocks cut out of the gaps, and rewrites of adopted files, as long as one may start.

        That is asked before a block is cut: fused steps call functions to find where a group ends.
        """
        rewrites = self.work.rewrites
        if self.work.files and self.work.claim.since == self.work.claim.id.epoch:
            self.before_block()  # a redrive is held although nothing may be left to do
        for hole in gaps(self.work.shard.span, [file.span for file in self.work.files]):
            at = hole.first
            while at <= hole.last:
                self.before_block()
                began = self.task.clock.monotonic()
                span = runner.cut(self.work.upstream, Span(at, hole.last), self.sizer.size)
                self.cutting = self.task.clock.monotonic() - began
                yield span, None
                at = span.last + 1
        for file in rewrites:
            self.before_block()
            yield file.span, file

    def before_block(self) -> None:
        """Ask whether the next block may start; those in flight finish before a stop."""
        try:
            self.guard.before_block()
        except FencedError:
            raise
        except StopProcessingError:
            self.finish_groups()
            raise

    def finish_groups(self) -> None:
        """Have the last group of a redrive done, and commit the blocks that it has records of."""
        if self.regrouping is not None:
            self.regrouping.finish()
            self.commit_grouped(self.regrouping)

    def commit_grouped(self, regrouping: Regrouping) -> None:
        """Commit the blocks all of whose groups are done."""
        for opened, result, seconds in regrouping.done():
            self.commit(opened, result, self.task.clock.monotonic() - seconds)

    def open(self, runner: AnyRunner, span: Span, file: FileRef | None) -> Opened:
        """Read what came in a block, and which of its records are to be processed."""
        block = runner.block(self.work.upstream, span)
        if file is None:
            return Opened(block, np.arange(len(block)), None)
        previous = Previous(self.work.previous(file), self.work.footer_owners(file))
        return Opened(block, previous.stale(block, self.work, self.task.job.max_redrives), previous)

    def process(self, runner: AnyRunner, span: Span, file: FileRef | None) -> None:
        """Run the step over one block and commit it; a block with nothing to do is left as it is.

        In a redrive an aggregator's groups go on in the next block, and the block is committed when they are done.
        """
        clock = self.task.clock
        started, self.cutting = clock.monotonic() - self.cutting, 0.0  # fused steps work in looking for a group's end
        opened = self.open(runner, span, file)
        if len(opened.candidates) == 0:
            return
        if self.regrouping is not None:
            self.regrouping.add(file, opened)
            self.commit_grouped(self.regrouping)
            return
        self.commit(opened, runner.run(opened.block, opened.candidates), started)

    def commit(self, opened: Opened, result: BlockResult, started: float) -> None:
        """Write the checkpoint of a block that was begun at ``started``."""
        clock, block = self.task.clock, opened.block
        seconds = clock.monotonic() - started
        tally = commit_block(self.work, block, result, opened.candidates, opened.previous, clock.now(), seconds)
        self.own += tally
        written = sum(column.nbytes for column in result.columns.values())
        self.sizer.learn(len(block), clock.monotonic() - started, block.bytes_read + written)
        pa.default_memory_pool().release_unused()  # or a large block's memory stays for good (measured: 60 MB)
        self.guard.after_block(self.tally(), self.fused())

    def tally(self) -> Tally:
        """Outcomes over all files; calls, blocks and seconds of this attempt alone."""
        return self.work.tally.with_work(self.own, self.task.clock.monotonic() - self.began)

    def fused(self) -> Mapping[str, Tally]:
        """This attempt's own work in each of several fused steps."""
        return self.runner.work if isinstance(self.runner, FusedRunner | IsolatedRunner) else {}

    def close(self, outcome: CloseOutcome, reason: str) -> Tally:
        """End the attempt and say what it did, unless it has been ended."""
        tally = self.tally()
        if self.is_closed:
            return tally
        self.work.close(
            outcome,
            tally,
            fingerprint=fingerprint(self.task.step),
            reason=reason,
            stacks=self.runner.stacks if self.runner else {},
            fused=self.fused(),
        )
        self.is_closed = True
        log.info(
            "Step %s, shard %s %s: %s successful, %s failed, %s skipped; %s processed by this attempt in %.1f s",
            self.task.step.name,
            self.work.shard.id,
            outcome,
            f"{tally.succeeded:,}",
            f"{tally.failed:,}",
            f"{tally.skipped:,}",
            f"{tally.processed:,}",
            tally.seconds,
        )
        return tally

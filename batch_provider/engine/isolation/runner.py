"""The runner of an isolating attempt: in the place of a step's own, which a child makes and may die of."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from batch_provider.domain.errors import ProcessDiedError
from batch_provider.domain.fused import CheckpointStep, FusedStep
from batch_provider.domain.layout import Span
from batch_provider.domain.spec import JobSpec, StepSpec
from batch_provider.domain.tally import Tally
from batch_provider.engine.calls.invoke import RecordError
from batch_provider.engine.columns.block import Block, BlockResult
from batch_provider.engine.isolation.child import Outside, serve_runner
from batch_provider.engine.isolation.index import CallIndex
from batch_provider.engine.isolation.messages import Blame, CutRequest, RunRequest, Types, from_ipc
from batch_provider.engine.isolation.process import Child, ChildDiedError
from batch_provider.engine.isolation.search import ALONE, Search
from batch_provider.engine.ports.store import GenerationReader, ShardWork
from batch_provider.engine.steps.fused import FusedRunner, Runner

log = logging.getLogger(__name__)


def isolated_if_deadly(
    job: JobSpec,
    step: CheckpointStep,
    work: ShardWork,
    make: Callable[[], Runner | FusedRunner],
    look: Callable[[], None],
    outside: Outside | None,
) -> Runner | FusedRunner | IsolatedRunner:
    """The step's own runner, or one in a child process if too many attempts died where this one begins."""
    if work.deaths < job.max_process_deaths:
        return make()
    return IsolatedRunner(step, work, make, look, outside)


class IsolatedRunner:
    """Runs a step in a child process, and finds what kills it (ADR 0019).

    The parent makes no runner, opens no database and calls no function of the author's: it asks a child, and commits
    what comes back. A new child is forked for one that died.

    Args:
        step: what writes the checkpoints.
        work: the attempt.
        make: makes the step's own runner, in the child.
        look: raises if nothing more may be done: nobody is blamed for a death while somebody asks for an end.
        outside: what the child must not speak to.
    """

    def __init__(
        self,
        step: CheckpointStep,
        work: ShardWork,
        make: Callable[[], Runner | FusedRunner],
        look: Callable[[], None],
        outside: Outside | None = None,
    ) -> None:
        self.step, self._work, self._make, self._look, self._outside = step, work, make, look, outside
        self._steps = step.steps if isinstance(step, FusedStep) else (step,)
        self._index = CallIndex()
        self._child: Child | None = None
        self._search = Search(halves_groups=not any(map(fails_groups, self._steps)))
        self._condemned: dict[str, dict[int, Blame]] = {each.name: {} for each in self._steps}
        self._ready: tuple[Span, BlockResult] | None = None
        self._types: dict[str, Types] = {}
        self._in_child: Mapping[str, Tally] = {}
        self._before: dict[str, Tally] = {}
        self.stacks: dict[str, str] = {}
        self._writes_parts = any(each.place is not None for each in self._steps)
        log.log(
            logging.WARNING if work.deaths else logging.INFO,
            "Step %s, shard %s: %s attempts before this one died at the same place; it works in a child process: "
            "a record that kills that fails alone",
            step.name,
            work.shard.id,
            work.deaths,
        )

    @property
    def work(self) -> dict[str, Tally]:
        """The work in each fused step, of all children."""
        names = [each.name for each in self._steps] if isinstance(self.step, FusedStep) else []
        nothing = Tally()
        return {name: self._before.get(name, nothing) + self._in_child.get(name, nothing) for name in names}

    def close(self) -> None:
        """Let the child go."""
        if self._child is not None:
            self._child.close()

    def block(self, upstream: GenerationReader, span: Span) -> Block:
        """Status only: the child reads for itself what it needs."""
        return Block(upstream, span, ())

    def cut(self, upstream: GenerationReader, rest: Span, wanted: int) -> Span:  # noqa: ARG002  # the child has it
        """The next block of ``rest``: the longest that a child has run and lived. It ends where the child cut it."""
        while True:
            part, size = self._search.next(rest, wanted)
            try:
                span, result = self._ask(CutRequest(part, size, self._condemned))
            except ChildDiedError as death:
                if (guilty := self._search.died(part, size, death.trace)) is not None:
                    self._condemn(guilty, death)
                continue
            self._search.survived(span)
            self._ready = span, result
            return span

    def run(self, block: Block, candidates: np.ndarray) -> BlockResult:
        """What the child made of the block when it was cut; of a block that is redriven, what it makes of it now."""
        ready, self._ready = self._ready, None
        if ready is not None and ready[0] == block.span and len(candidates) == len(block):
            return ready[1]
        return self._again(block.span, candidates)

    # --- a block that was cut before --------------------------------------------------------------------------

    def _again(self, span: Span, candidates: np.ndarray) -> BlockResult:
        """Run these records of a block as one; whoever is found to kill its process is left out of the next try."""
        for _ in range(ALONE):
            while True:
                try:
                    return self._ask(RunRequest(span, candidates, self._condemned))[1]
                except ChildDiedError as death:
                    last = death
                    # a part holds a whole block: one of some of its records would be taken for it
                    if self._writes_parts or not self._found_one(span, candidates, death):
                        break
        raise ProcessDiedError(self.step.name, last.how, f"the records {span.first:,} to {span.last:,}", is_alone=False)

    def _found_one(self, span: Span, positions: np.ndarray, death: ChildDiedError) -> bool:
        """Look for one to blame among the records at ``positions``, which died together."""
        inside = death.trace.inside
        ids = positions + span.first
        called = (ids >= inside.first) & (ids <= inside.last) if inside is not None else np.zeros(len(ids), dtype=bool)
        if called.any() and not called.all():
            rest = positions[~called]
            return self._dies(span, positions[called]) or (len(rest) > 1 and self._found_in_halves(span, rest))
        if len(positions) > 1 and (not called.any() or self._search.halves_groups):
            return self._found_in_halves(span, positions)
        try:
            self._ask(RunRequest(span, positions, self._condemned))
        except ChildDiedError as second:
            self._condemn(Span(int(ids[0]), int(ids[-1])), second)
            return True
        return False

    def _found_in_halves(self, span: Span, positions: np.ndarray) -> bool:
        half = len(positions) // 2
        return self._dies(span, positions[:half]) or self._dies(span, positions[half:])

    def _dies(self, span: Span, positions: np.ndarray) -> bool:
        """Run some of a block's records alone, only to see whether there is one to blame."""
        try:
            self._ask(RunRequest(span, positions, self._condemned))
        except ChildDiedError as death:
            return self._found_one(span, positions, death)
        return False

    # --- children ---------------------------------------------------------------------------------------------

    def _ask(self, request: CutRequest | RunRequest) -> tuple[Span, BlockResult]:
        """Have the child do it.

        Raises:
            ChildDiedError: it died, while its parent lived and nobody had asked for an end.
        """
        child = self._child = self._child or self._born()
        try:
            finished = child.ask(request)
            try:
                result = finished.result
                result.columns = from_ipc(child.columns())
            except (pa.ArrowInvalid, pa.ArrowSerializationError) as error:
                child.end()
                raise ChildDiedError(f"an unsound answer ({error})", self._index.read()) from None
        except ChildDiedError as death:
            self._bury(death)
            raise
        self._types = finished.types
        self._in_child = finished.work
        self.stacks = {**finished.stacks, **self.stacks}
        return finished.span, result

    def _born(self) -> Child:
        """A child that has made its runner; the maker of one that dies at that is nobody's bad record."""
        for _ in range(ALONE):
            child = Child(self._live, self._index, self._outside)
            try:
                child.answer()
                return child
            except ChildDiedError as death:
                how = death.how
                self._bury(death)
        raise ProcessDiedError(self.step.name, how, "no record yet", is_alone=False)

    def _live(
        self, pipe: Any
    ) -> None:  # pragma: no cover  # in the child, see live(); serve_runner is tested by itself
        """Serve with the types that the dead have given to columns."""
        work = self._work
        if isinstance(self.step, FusedStep):
            work.fused_types = {**work.fused_types, **self._types}
        else:
            work.types = {**work.types, **self._types.get(self.step.name, {})}
        serve_runner(pipe, self._index, work.upstream, self._make)

    def _bury(self, death: ChildDiedError) -> None:
        self._child = None
        self._before, self._in_child = self.work, {}
        log.warning(
            "Step %s, shard %s: the child process ended by %s at %s",
            self.step.name,
            self._work.shard.id,
            death.how,
            death.trace,
        )
        self._look()

    def _condemn(self, guilty: Span, death: ChildDiedError) -> None:
        """These records fail from now on without a call; if they die all the same, without their expression asked.

        Raises:
            ProcessDiedError: they die although nothing of the author's is called for them.
        """
        step = self._steps[death.trace.step or 0]
        what = (
            f"record {guilty.first:,}"
            if len(guilty) == 1
            else f"the group of records {guilty.first:,} to {guilty.last:,}"
        )
        error = ProcessDiedError(step.name, death.how, what)
        known = self._condemned[step.name].get(guilty.first)
        if known is not None and not known.is_asked:
            raise error
        log.error("%s", error)
        blame = Blame(RecordError.of(error), is_asked=known is None)
        self._condemned[step.name].update(dict.fromkeys(range(guilty.first, guilty.last + 1), blame))


def fails_groups(step: StepSpec) -> bool:
    """Whether a group of the step fails as a whole."""
    return step.aggregator is not None and step.aggregator.on_error == "fail_group"

"""How a job goes: DESIGN.md section 3, docs/concepts.md, docs/limits.md, docs/reruns.md."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

from tests.properties.model.account import Account
from tests.properties.model.functions import act_on_stream
from tests.properties.model.plan import Job, Killed, Step
from tests.properties.model.rows import GROUPED, Held, Layer, Row, runs_of, stages

Claimed = tuple[Layer, Layer, bool, list[list[int]]]
"""What is there, what it is made from, whether this round has ended it already, and the blocks to look at again."""


class Model(Account):
    """What must come of a job.

    Args:
        job: what is drawn.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.world.on_stop = self._stop
        self.limit, self.is_stopped = -1, False
        self.ahead: dict[int, Row] = {}

    def _stop(self) -> None:
        self.is_stopped = True

    # --- process ----------------------------------------------------------------------------------------------

    def process_all(self) -> None:
        """Shards pass the steps of a stage one after the other; one that is held holds the next stage."""
        for stage in stages(self.job.steps):
            held = False
            for shard in range(len(self.shards)):
                try:
                    for run in runs_of(stage, self.job.fuse):
                        if run[0].kind != "stream":
                            self.attempt(run, shard)
                except Held:
                    held = True
            if held or not self.shards:
                return
            if stage[-1].kind == "stream":
                try:
                    self.stream(stage[-1])
                except Held:
                    return

    def above(self, run: Sequence[Step], shard: int) -> Layer:
        """What a run reads."""
        position = [each[0].name for each in self.runs].index(run[0].name)
        return self.layers[self.runs[position - 1][0].name, shard] if position else Layer(self.input)

    def claim(self, run: Sequence[Step], shard: int) -> Claimed:
        """A retry resumes, a clear redrives: what failed before ``since`` is tried again."""
        layer, up = self.layers[run[0].name, shard], self.above(run, shard)
        code = tuple(self.world.version(step) for step in run)
        changed = layer.code != code and any(step.reprocess for step in run)
        settled = layer.end == "DONE" and layer.round == self.world.round and not changed
        resumes = settled or layer.end == "OPEN"
        layer.epoch += 1
        layer.since = layer.since if resumes else layer.epoch
        anew = not resumes or changed or layer.pin != up.epoch
        again = [ids for ids, made in layer.blocks if anew or made < layer.since]
        layer.end, layer.round, layer.pin, layer.code = "OPEN", self.world.round, up.epoch, code
        return layer, up, settled, again

    def attempt(self, run: Sequence[Step], shard: int) -> None:
        """Blocks that were never done, then those in which something is to be done again."""
        layer, up, _, again = self.claim(run, shard)
        self.ahead.clear()
        try:
            rest = [number for number in self.shards[shard] if number not in layer.rows]
            while rest:
                self.look()
                block = self.cut(run, layer, up, rest)
                self.work(run, shard, layer, up, block, block)
                rest = rest[len(block) :]
            for block in again:
                self.look()
                if stale := [number for number in block if self.is_stale(run, layer, up, number)]:
                    self.work(run, shard, layer, up, block, stale)
        except Held as held:
            layer.end = str(held)
            raise
        layer.end = "DONE"
        self.look(at_the_end=True)

    def look(self, *, at_the_end: bool = False) -> None:
        """Before a block: a stop that was requested, and the failures of the input and of this round."""
        if self.is_stopped and not at_the_end:
            raise Held("STOPPED")
        layers = [layer for layer in self.layers.values() if layer.round == self.world.round]
        made = [row for layer in layers for row in layer.rows.values() if row.made >= layer.since]
        new = sum(row.failed_here and not row.was_failed for row in made)
        if self.too_many(self.limit, new, self.finished(), final=False):
            raise Held("LIMITED")

    def is_stale(self, run: Sequence[Step], layer: Layer, up: Layer, number: int) -> bool:
        """Whether a record is to be done again: it failed before, or came anew, or by code that is to be replaced."""
        row = layer.rows[number]
        given_up = self.job.max_redrives is not None and row.redrives >= self.job.max_redrives
        failed = row.failed_here and row.made < layer.since and not given_up
        return failed or row.consumed != up.rows[number].made or self.is_replaced(run, layer, row)

    def is_replaced(self, run: Sequence[Step], layer: Layer, row: Row) -> bool:
        """Whether other code made it, and the step says that this is to be done again."""
        return any(step.reprocess for step in run) and row.code != layer.code

    def cut(self, run: Sequence[Step], layer: Layer, up: Layer, rest: list[int]) -> list[int]:
        """A block ends where a group ends: as many whole groups as there are in a block's length, at least one."""
        last, wanted = run[-1], self.job.block
        if last.kind not in GROUPED or wanted >= len(rest):
            return rest[:wanted]
        length = wanted if len(run) > 1 else max(wanted, last.size)
        while True:
            ahead = [(number, deepcopy(self.front(run, layer, up, number))) for number in rest[:length]]
            taken = [position for position, pair in enumerate(ahead) if self.takes(last, *pair)]
            groups = min(len(taken) // last.size, max(1, wanted // last.size))
            if groups or length >= len(rest):
                return rest[: taken[groups * last.size - 1] + 1] if groups else rest
            length += length if len(run) == 1 else max(length, last.size)

    def front(self, run: Sequence[Step], layer: Layer, up: Layer, number: int) -> Row:
        """A record before the last step of a run: to know where groups end, the steps before are run ahead, once."""
        if number not in self.ahead:
            self.ahead[number] = self.begun(layer, up, number)
            for step in run[:-1]:
                self.step(step, [(number, self.ahead[number])])
        return self.ahead[number]

    def work(
        self, run: Sequence[Step], shard: int, layer: Layer, up: Layer, block: list[int], stale: list[int]
    ) -> None:
        """The steps of a run over the records of a block; then its checkpoint, whole or not at all."""
        rows = [(number, self.front(run, layer, up, number)) for number in stale]
        self.step(run[-1], rows)
        for number in block:
            self.ahead.pop(number, None)
        self.world.reach("put", run[0].name, shard)
        self.commit(run, layer, up, rows)
        layer.blocks = [(ids, made) for ids, made in layer.blocks if ids != block] + [(block, layer.epoch)]
        layer.blocks.sort()
        self.world.reach("put", run[0].name, shard, "after")

    def begun(self, layer: Layer, up: Layer, number: int) -> Row:
        """A record as the step before left it."""
        row = deepcopy(up.rows[number])
        made = replace(row, outcomes={}, consumed=row.made, made=layer.epoch, redrives=0, code=layer.code)
        made.was_failed = bool(row.failures)
        return made

    def commit(self, run: Sequence[Step], layer: Layer, up: Layer, rows: Sequence[tuple[int, Row]]) -> None:
        """Lay the new rows over the old ones; count in how many redrives a record has failed."""
        for number, row in rows:
            old = layer.rows.get(number)
            fails_again = old and old.failed_here and row.failed_here and old.consumed == row.consumed
            if old and fails_again and not self.is_replaced(run, layer, old):
                row.redrives = old.redrives + (old.made < layer.since)
            layer.rows[number] = row

    def stream(self, step: Step) -> None:
        """One call with all that is new, over all shards; nothing of it counts before it has returned."""
        claims = [self.claim([step], shard) for shard in range(len(self.shards))]
        settled = any(is_settled for _, _, is_settled, _ in claims)
        chosen: list[list[int]] = []
        for shard, (layer, up, _, _) in enumerate(claims):
            there = [number for number in self.shards[shard] if number in layer.rows and not settled]
            stale = [n for n in there if self.is_stale([step], layer, up, n) or layer.rows[n].made >= layer.since]
            chosen.append(sorted([*stale, *(n for n in self.shards[shard] if n not in layer.rows)]))
        if step.on_redrive == "all" and any(chosen):
            chosen = self.shards
        try:
            made = [[(n, self.begun(x, up, n)) for n in ids] for ids, (x, up, *_) in zip(chosen, claims, strict=True)]
            if any(self.shards):
                self.look()
            rows = [pair for part in made for pair in part]
            taken = [pair for pair in rows if self.takes(step, *pair)]
            if taken:
                records = iter([self.seen(step, row) for _, row in taken])
                self.settle(step, taken, lambda: act_on_stream(step, self.world, records))
            self.look()
        except Held as held:
            if not all(len(x.rows) == len(ids) for (x, _, _, _), ids in zip(claims, self.shards, strict=True)):
                for layer, *_ in claims:
                    layer.end = str(held)
            raise
        self.world.reach("put", step.name, 0)
        for shard, ((layer, up, _, _), part) in enumerate(zip(claims, made, strict=True)):
            self.commit([step], layer, up, part)
            layer.blocks = [(self.shards[shard], layer.epoch)]
            layer.end = "DONE"
        self.look(at_the_end=True)

    def round(self, number: int) -> dict[str, Any]:
        """Process, with its deaths and retries, and complete; returns what must be seen."""
        plan = self.job.rounds[number]
        self.world.round, self.world.stop, self.limit = number, plan.stop, plan.limit
        for crash in (*plan.crashes, None):
            self.world.begin(crash)
            try:
                self.process_all()
                break
            except Killed:
                self.world.life += 1
        seen = self.result(plan.limit)
        for layer in self.layers.values():
            layer.end = "ABANDONED" if layer.end in ("", "OPEN") else layer.end
        self.is_stopped = False
        return seen

"""Sized aggregators: groups of N records across the blocks of a shard."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa

from batch_provider.domain.layout import Span
from batch_provider.domain.outcome import Outcome
from batch_provider.domain.spec import AggregatorSpec, JobSpec, StepSpec
from batch_provider.engine.calls.invoke import PER_GROUP, RecordError, UserFunction
from batch_provider.engine.columns.block import Block, BlockResult
from batch_provider.engine.columns.group_patches import GroupPatches
from batch_provider.engine.columns.patches import PatchWriter
from batch_provider.engine.ports.store import GenerationReader
from batch_provider.engine.ports.writing import TransactionEndedError
from batch_provider.engine.steps.accept import Acceptance
from batch_provider.engine.steps.groups import (
    Group,
    GroupedBlock,
    WrongReturnError,
    check_shape,
    errors_of_all,
    take_nothing,
)


class AskedOnce:
    """An acceptance rule that is asked once for each record, although two places ask.

    Where a block is to end depends on which records are accepted, so they are asked about before the block is made.
    """

    def __init__(self, rule: Acceptance) -> None:
        self._rule = rule
        self._first = 0
        self._taken = np.empty(0, dtype=bool)
        self._errors: dict[int, RecordError] = {}

    def of(self, block: Block, candidates: np.ndarray) -> tuple[np.ndarray, dict[int, RecordError]]:
        """As :meth:`Acceptance.of`, for records that nobody asked about yet and for those that are known."""
        at = candidates + (block.span.first - self._first)
        known = (at >= 0) & (at < len(self._taken))
        if not known.any():
            return self._rule.of(block, candidates)
        taken, errors = self._rule.of(block, candidates[~known])
        if self._errors:
            asked, shift = set(at[known].tolist()), self._first - block.span.first
            errors |= {position + shift: error for position, error in self._errors.items() if position in asked}
        return np.sort(np.concatenate([taken, candidates[known][self._taken[at[known]]]])), errors

    def ahead(self, block: Block) -> np.ndarray:
        """Which records of a block will be taken; the answers are kept for :meth:`of`."""
        accepted, self._errors = self.of(block, np.arange(len(block)))
        self._first, self._taken = block.span.first, np.zeros(len(block), dtype=bool)
        self._taken[accepted] = True
        return accepted


class AggregatorStep:
    """Runs a sized aggregator over blocks whose ends are the ends of groups.

    Args:
        job, step: what the author declared; ``step.aggregator`` has a size.
        constant: keywords that the function may name: ``instance`` and Airflow's context.
    """

    regroups = True
    """In a redrive its groups are made across blocks."""

    def __init__(
        self,
        job: JobSpec,
        step: StepSpec,
        spec: AggregatorSpec,
        constant: dict[str, Any],
        types: Mapping[str, pa.DataType] | None = None,
    ) -> None:
        self.step = step
        self._size = spec.size or 1
        self._isolate = spec.on_error == "isolate"
        self._accept = AskedOnce(Acceptance(job, step, constant))
        self._instance = constant.get("instance")
        self.function = self.make_function(constant)
        self._patches = PatchWriter(step, types or {})

    def make_function(self, constant: dict[str, Any]) -> UserFunction:
        """What is called for each group."""
        return UserFunction(self.step.name, self.step.call, PER_GROUP, constant)

    @property
    def types(self) -> Mapping[str, pa.DataType]:
        """The columns that it has written, with the types it gave them."""
        return self._patches.types

    @property
    def stacks(self) -> Mapping[str, str]:
        """Exception type → stack of the first of its kind."""
        return self.function.stacks

    def close(self) -> None:
        """Nothing is held open."""

    def block(self, upstream: GenerationReader, span: Span) -> Block:
        """Read what the step needs of a block."""
        return Block(upstream, span, self.step.reads)

    def cut(self, upstream: GenerationReader, rest: Span, wanted: int) -> Span:
        """The next block of ``rest``, of about ``wanted`` records; it ends where a group ends."""
        if wanted >= len(rest):
            return rest
        size = max(wanted, self._size)
        while True:
            look = rest.head(size)
            end = self.group_end(self.block(upstream, look), max(1, wanted // self._size))
            if look == rest and end == 0:
                return rest
            if end:
                return rest.head(end)
            size *= 2

    def group_end(self, block: Block, wanted: int) -> int:
        """The position after the last whole group of a block, of at most ``wanted`` groups; 0: it has none.

        A block must not end inside a group: a group is committed whole or called again.
        """
        accepted = self._accept.ahead(block)
        groups = min(len(accepted) // self._size, wanted)
        return int(accepted[groups * self._size - 1]) + 1 if groups else 0

    @property
    def size(self) -> int:
        """Records in a group."""
        return self._size

    def begin(self, block: Block, candidates: np.ndarray) -> tuple[BlockResult, np.ndarray]:
        """A result in which nothing is done yet, and the positions of the records that are accepted."""
        result = BlockResult(outcome=np.zeros(len(block), dtype=np.uint8))
        result.outcome[candidates] = Outcome.SKIPPED
        accepted, result.errors = self._accept.of(block, candidates)
        return result, accepted

    def run(self, block: Block, candidates: np.ndarray) -> BlockResult:
        """Aggregate the accepted records of a block in groups."""
        grouped = self.grouping(block, candidates)
        self.call_all(grouped)
        return grouped.result(block, candidates)

    def grouping(self, block: Block, candidates: np.ndarray) -> GroupedBlock:
        """Ask which of the records at ``candidates`` are accepted."""
        accepted, errors = self._accept.of(block, candidates)
        with_failures = "failures" in self.function.wants
        return GroupedBlock(block, accepted, errors, GroupPatches(self._patches), with_failures=with_failures)

    def call_all(self, grouped: GroupedBlock) -> None:
        """Have the groups of one block done."""
        for start in range(0, len(grouped.accepted), self._size):
            self.call_for(Group(((grouped, grouped.accepted[start : start + self._size]),)))

    def call_for(self, group: Group) -> None:
        """Have a group done."""
        began = perf_counter()
        self._call(group)
        group.called(perf_counter() - began)

    def _call(self, group: Group) -> None:
        """One call for a group; one that raises fails its group, or is halved until the bad records stand alone."""
        try:
            keep = self.call(group)
        except WrongReturnError as wrong:
            is_halved, errors = wrong.is_of_records, errors_of_all(wrong.errors, group.ids)
        except Exception as error:  # noqa: BLE001  # this is where user code ends
            is_halved = not isinstance(error, TransactionEndedError)  # what is committed would be repeated by its half
            errors = [self.function.note(error)] * len(group)
        else:
            keep()
            return
        if is_halved and self._isolate and len(group) > 1:
            for half in group.halves():
                self._call(half)
        else:
            group.fail(errors)

    def call(self, group: Group) -> Callable[[], None]:
        """One call for a group; the result takes what it returned.

        Raises:
            WrongReturnError: that has not the shape of patches for the group.
        """
        returned = self.function.once(group.records(), **self.keywords(group))
        if returned is None:
            return take_nothing
        check_shape(returned, len(group))
        return partial(group.take, returned)

    def keywords(self, group: Group) -> dict[str, Any]:
        """What the function may ask for."""
        wants, ids = self.function.wants, group.ids
        instance = getattr(self._instance, "id", "local")
        return {
            "failures": group.failures() if "failures" in wants else None,
            "record_ids": ids if "record_ids" in wants else None,
            "idempotency_key": f"{instance}/{self.step.name}/{_named(ids)}",
        }


def _named(ids: Sequence[int]) -> str:
    """A name for a group: the first and the last id, and of ids with gaps a digest, as others end alike."""
    name = f"{ids[0]}-{ids[-1]}"
    if ids[-1] - ids[0] + 1 == len(ids):
        return name
    return f"{name}.{hashlib.blake2b(repr(ids).encode(), digest_size=4).hexdigest()}"

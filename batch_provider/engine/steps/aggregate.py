"""Sized aggregators: groups of N records across the blocks of a shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa

from batch_provider.domain.layout import Span
from batch_provider.domain.outcome import Outcome
from batch_provider.domain.spec import AggregatorSpec, JobSpec, StepSpec
from batch_provider.engine.calls.invoke import PER_GROUP, RecordError, UserFunction
from batch_provider.engine.columns.block import Block, BlockResult
from batch_provider.engine.columns.patches import Patch, PatchWriter
from batch_provider.engine.ports.store import GenerationReader
from batch_provider.engine.steps.accept import Acceptance


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

    def call(self, records: Sequence[dict[str, Any]], keywords: dict[str, Any]) -> Any:
        """One call for a group."""
        return self.function.once(records, **keywords)

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
        result, accepted = self.begin(block, candidates)
        patches: dict[int, Patch] = {}
        seconds: list[float] = []
        for start in range(0, len(accepted), self._size):
            group = accepted[start : start + self._size]
            began = perf_counter()
            self._call(block, group, result, patches)
            seconds += [(perf_counter() - began) / len(group)] * len(group)
        result.call_seconds = np.array(seconds)
        if patches:
            good = np.array([p for p in accepted.tolist() if p in patches and p not in result.errors], dtype=np.int64)
            result.columns, bad = self._patches.columns(block, [patches[p] for p in good.tolist()], good)
            result.errors.update(bad)
        result.outcome[accepted] = Outcome.SUCCEEDED
        result.outcome[list(result.errors)] = Outcome.FAILED
        return result

    def _call(self, block: Block, group: np.ndarray, result: BlockResult, patches: dict[int, Patch]) -> None:
        """One call for a group; one that raises fails its group, or is halved until the bad records stand alone."""
        try:
            returned = self.call(block.records(group), self._keywords(block, group))
            found = self._check(returned, group, result)
        except Exception as error:  # noqa: BLE001  # this is where user code ends
            noted = self.function.note(error)
            if self._isolate and len(group) > 1:
                half = len(group) // 2
                self._call(block, group[:half], result, patches)
                self._call(block, group[half:], result, patches)
            else:
                result.errors.update(dict.fromkeys(group.tolist(), noted))
            return
        patches.update(found)

    def _keywords(self, block: Block, group: np.ndarray) -> dict[str, Any]:
        wants = self.function.wants
        ids = group + block.span.first
        instance = getattr(self._instance, "id", "local")
        return {
            "failures": block.failures(group) if "failures" in wants else None,
            "record_ids": ids.tolist() if "record_ids" in wants else None,
            "idempotency_key": f"{instance}/{self.step.name}/{ids[0]}-{ids[-1]}",
        }

    def _check(self, returned: Any, group: np.ndarray, result: BlockResult) -> dict[int, Patch]:
        if returned is None:
            return {}
        if isinstance(returned, (str, bytes)) or not isinstance(returned, Sequence) or len(returned) != len(group):
            what = f"{len(returned)} patches" if isinstance(returned, Sequence) else type(returned).__name__
            raise TypeError(f"the aggregator returned {what} for {len(group)} records; return one for each, or None")
        patches, errors = self._patches.check(returned, group)
        result.errors.update(errors)
        return dict(zip(group.tolist(), patches, strict=True))

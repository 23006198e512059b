"""Writers and transactional aggregators: what goes to a database is committed with its group, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa

from batch_provider.domain.errors import StorageError
from batch_provider.domain.layout import Span
from batch_provider.domain.outcome import Outcome
from batch_provider.domain.spec import AggregatorSpec, JobSpec, StepSpec
from batch_provider.engine.calls.invoke import PER_GROUP, UserFunction
from batch_provider.engine.columns.block import OUTCOME_BITS, Block, BlockResult
from batch_provider.engine.ports.store import ShardWork
from batch_provider.engine.ports.writing import BlockSession, GroupTransaction, Rows, WriterSession
from batch_provider.engine.steps.aggregate import AggregatorStep
from batch_provider.engine.steps.groups import Group, check_shape, take_nothing

PER_TRANSACTION = (*PER_GROUP, "connection")


class _WriterStep(AggregatorStep):
    """What steps that write through a built-in writer share: one session with the target, and no function."""

    regroups = False
    _session: WriterSession | BlockSession | None = None

    def make_function(self, constant: dict[str, Any]) -> UserFunction:  # noqa: ARG002  # a writer needs none
        """A writer calls no function of the author's."""
        return UserFunction(self.step.name, _no_function, PER_GROUP, {})

    def close(self) -> None:
        """Let the target go."""
        if self._session is not None:
            self._session.close()


class WriteStep(_WriterStep):
    """Writes the accepted records of blocks in groups through a built-in writer.

    Args:
        job, step, spec, constant, types: as of :class:`AggregatorStep`.
        open_session: called before the first write: it raises the fence in the target.
    """

    def __init__(
        self,
        job: JobSpec,
        step: StepSpec,
        spec: AggregatorSpec,
        constant: dict[str, Any],
        types: Mapping[str, pa.DataType] | None,
        open_session: Callable[[], WriterSession],
    ) -> None:
        super().__init__(job, step, spec, constant, types)
        self._open_session = open_session
        self._session: WriterSession | None = None

    def run(self, block: Block, candidates: np.ndarray) -> BlockResult:
        """Write what is not written yet; a record whose row is committed already is left out."""
        session = self._session = self._session or self._open_session()
        result, accepted = self.begin(block, candidates)
        consumed = block.table["_out"].to_numpy()
        first = block.span.first
        pending = accepted[[not session.has(first + at, int(consumed[at])) for at in accepted.tolist()]]
        seconds: list[float] = []
        for start in range(0, len(pending), self.size):
            group = pending[start : start + self.size]
            began = perf_counter()
            table, kept = block.payload(group)
            errors = session.write(Rows((group + first).tolist(), consumed[group].tolist(), table, kept))
            result.errors.update({int(group[row]): error for row, error in errors.items()})
            seconds += [(perf_counter() - began) / len(group)] * len(group)
        result.call_seconds = np.array(seconds)
        return _ended(result, accepted)


class BlockWriteStep(_WriterStep):
    """Writes all rows of a block as one part, which counts if the block's checkpoint does.

    A block that is redriven gets a new part: the rows that stand as they are go into it beside the new ones, so a row
    that was made again is nowhere twice.

    Args:
        job, step, spec, constant, types: as of :class:`AggregatorStep`.
        work: the attempt: it knows what a block had before.
        open_session: called before the first write.
    """

    def __init__(  # what AggregatorStep has, the attempt and the target
        self,
        job: JobSpec,
        step: StepSpec,
        spec: AggregatorSpec,
        constant: dict[str, Any],
        types: Mapping[str, pa.DataType] | None,
        work: ShardWork,
        open_session: Callable[[], BlockSession],
    ) -> None:
        super().__init__(job, step, spec, constant, types)
        self._work, self._open_session = work, open_session
        self._session: BlockSession | None = None

    def run(self, block: Block, candidates: np.ndarray) -> BlockResult:
        """Write what is accepted now and what stands from before."""
        result, accepted = self.begin(block, candidates)
        standing = self._succeeded_before(block.span)
        if len(standing):
            standing = np.setdiff1d(standing, candidates)
        began = perf_counter()
        self._write(block, accepted, standing, result)
        result.call_seconds = np.full(len(accepted), (perf_counter() - began) / max(1, len(accepted)))
        return _ended(result, accepted)

    def _write(self, block: Block, accepted: np.ndarray, standing: np.ndarray, result: BlockResult) -> None:
        positions = np.union1d(accepted, standing) if len(standing) else accepted
        if not len(positions):
            return
        session = self._session = self._session or self._open_session()
        table, kept = block.payload(positions)
        consumed = block.table["_out"].to_numpy()[positions]
        ids = positions + block.span.first
        errors = session.write(block.span, Rows(ids.tolist(), consumed.tolist(), table, kept))
        refused = {int(positions[row]): error for row, error in errors.items()}
        if lost := refused.keys() & set(standing.tolist()):
            error = refused[min(lost)]
            raise StorageError("write", f"record {block.span.first + min(lost)} again", error.message)
        result.errors.update(refused)

    def _succeeded_before(self, span: Span) -> np.ndarray:
        """Positions whose rows an earlier attempt has written, if this block was done before."""
        file = self._work.over(span)
        if file is None:
            return np.empty(0, dtype=np.int64)
        outcome = self._work.previous(file)["_status"].to_numpy() & OUTCOME_BITS
        return np.flatnonzero(outcome == Outcome.SUCCEEDED)


class TransactionalStep(AggregatorStep):
    """A sized aggregator that is given a connection: its transaction is committed if the whole group succeeds.

    Args:
        job, step, spec, constant, types: as of :class:`AggregatorStep`.
        transaction: of the connection that the step names.
    """

    def __init__(
        self,
        job: JobSpec,
        step: StepSpec,
        spec: AggregatorSpec,
        constant: dict[str, Any],
        types: Mapping[str, pa.DataType] | None,
        transaction: GroupTransaction,
    ) -> None:
        super().__init__(job, step, spec, constant, types)
        self._transaction = transaction

    def make_function(self, constant: dict[str, Any]) -> UserFunction:
        """The author's, which may name ``connection``."""
        return UserFunction(self.step.name, self.step.call, PER_TRANSACTION, constant)

    def close(self) -> None:
        """Let the database go."""
        self._transaction.close()

    def call(self, group: Group) -> Callable[[], None]:
        """One call in one transaction, which is committed if all of what the call returned can be taken."""
        types = dict(self._patches.types)
        try:
            with self._transaction as connection:
                returned = self.function.once(group.records(), **self.keywords(group), connection=connection)
                if returned is None:
                    return take_nothing
                check_shape(returned, len(group))
                keep = group.tried(returned)
        except BaseException:
            self._patches.types = types  # what is rolled back decides on no later record
            raise
        return keep


def _ended(result: BlockResult, accepted: np.ndarray) -> BlockResult:
    """What was accepted and is in no error has succeeded: a writer changes no column."""
    result.outcome[accepted] = Outcome.SUCCEEDED
    result.outcome[list(result.errors)] = Outcome.FAILED
    return result


def _no_function(_: Any) -> None:
    """Writers call no function of the author's."""

"""Groups of a sized aggregator: what one call is given, and the blocks that its records are of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from batch_provider.domain.outcome import Outcome
from batch_provider.engine.calls.invoke import RecordError
from batch_provider.engine.columns.block import Block, BlockResult
from batch_provider.engine.columns.group_patches import GroupPatches, Tried
from batch_provider.engine.ports.writing import Rows

T = TypeVar("T")


class WrongReturnError(Exception):
    """A call returned what cannot be taken; raised where its transaction is still to be rolled back.

    Attributes:
        errors: of each record of the group; None: what was returned for it is fine.
        is_of_records: some of them may be fine without the others; else the return value as such is wrong.
    """

    def __init__(self, errors: Sequence[RecordError | None], *, is_of_records: bool) -> None:
        super().__init__(next(error.message for error in errors if error is not None))
        self.errors, self.is_of_records = errors, is_of_records


class HeldRows:
    """Accepted rows of a block that wait for their group, and no others.

    Args:
        block: whose rows they are.
        positions: which of them.
        with_failures: a function asks for their failures.
    """

    def __init__(self, block: Block, positions: np.ndarray, *, with_failures: bool) -> None:
        self.span, self._positions = block.span, positions
        table, kept = block.payload(positions)
        copied = table.take(pa.array(np.arange(len(positions))))  # a slice would hold on to all rows of the block
        self._rows = Rows(positions.tolist(), (), copied, kept)
        self._failures = block.failures(positions) if with_failures else []

    def _indexes(self, positions: np.ndarray) -> list[int]:
        return np.searchsorted(self._positions, positions).tolist()  # type: ignore[no-any-return]

    def records(self, positions: np.ndarray) -> list[dict[str, Any]]:
        """As of :class:`Block`."""
        return self._rows.records(self._indexes(positions))

    def failures(self, positions: np.ndarray) -> list[list[dict[str, Any]]]:
        """As of :class:`Block`."""
        return [self._failures[index] for index in self._indexes(positions)]


class Grouping(Protocol):
    """A block on its way through an aggregator, which may have other steps fused before it."""

    @property
    def grouped(self) -> GroupedBlock:
        """As the aggregator sees it."""
        ...

    def let_go(self) -> None:
        """Keep no more in memory than the rows that wait."""
        ...

    def result(self, block: Block, candidates: np.ndarray) -> BlockResult:
        """What became of the records at ``candidates``, once none is waiting."""
        ...


class GroupedBlock:
    """A block whose accepted records pass through calls in groups: it is done when all of them have (a Grouping).

    Args:
        block: where the records are read.
        with_failures: a function asks for their failures.

    Attributes:
        accepted: their positions.
        errors: position → why it failed here: in the acceptance, or in its group.
        patches: what the calls returned.
        waiting: accepted records whose call is still to come.
    """

    def __init__(
        self,
        block: Block,
        accepted: np.ndarray,
        errors: dict[int, RecordError],
        patches: GroupPatches,
        *,
        with_failures: bool,
    ) -> None:
        self.rows: Block | HeldRows = block
        self.accepted, self.errors, self.patches = accepted, errors, patches
        self._with_failures = with_failures
        self.waiting = len(accepted)
        self._seconds: list[np.ndarray] = []

    @property
    def grouped(self) -> GroupedBlock:
        """Itself."""
        return self

    def let_go(self) -> None:
        """Keep no more in memory than the rows that wait: some do."""
        assert isinstance(self.rows, Block), "it is told so once"
        self.rows = HeldRows(self.rows, self.accepted[-self.waiting :], with_failures=self._with_failures)

    def called(self, records: int, each: float) -> None:
        """Note that calls for so many records have ended, and how long they took for each."""
        self.waiting -= records
        self._seconds.append(np.full(records, each))

    def result(self, block: Block, candidates: np.ndarray) -> BlockResult:
        """What became of the records at ``candidates``, once none is waiting."""
        result = BlockResult(outcome=np.zeros(len(block), dtype=np.uint8))
        result.outcome[candidates] = Outcome.SKIPPED
        result.columns = self.patches.over(block)
        result.errors = self.errors | self.patches.errors
        result.outcome[self.accepted] = Outcome.SUCCEEDED
        result.outcome[list(result.errors)] = Outcome.FAILED
        result.call_seconds = np.concatenate(self._seconds) if self._seconds else result.call_seconds
        return result


@dataclass(frozen=True)
class Group:
    """Records that one call is given: positions in a block, or in several that follow each other."""

    parts: tuple[tuple[GroupedBlock, np.ndarray], ...]

    def __len__(self) -> int:
        """How many records."""
        return sum(len(at) for _, at in self.parts)

    @property
    def ids(self) -> list[int]:
        """Of the records."""
        return np.concatenate([at + block.rows.span.first for block, at in self.parts]).tolist()  # type: ignore[no-any-return]

    def records(self) -> list[dict[str, Any]]:
        """Fresh dicts: what an earlier call has done to its own is not seen."""
        return list(chain.from_iterable(block.rows.records(at) for block, at in self.parts))

    def failures(self) -> list[list[dict[str, Any]]]:
        """What each record failed of in earlier steps."""
        return list(chain.from_iterable(block.rows.failures(at) for block, at in self.parts))

    def halves(self) -> tuple[Group, Group]:
        """The first half, rounded down, and the second."""
        middle = len(self) // 2
        first: list[tuple[GroupedBlock, np.ndarray]] = []
        second: list[tuple[GroupedBlock, np.ndarray]] = []
        start = 0
        for block, at in self.parts:
            cut = min(max(middle - start, 0), len(at))
            first += [(block, at[:cut])] if cut else []
            second += [(block, at[cut:])] if cut < len(at) else []
            start += len(at)
        return Group(tuple(first)), Group(tuple(second))

    def called(self, seconds: float) -> None:
        """Note that its calls have ended."""
        for block, at in self.parts:
            block.called(len(at), seconds / len(self))

    # --- what a call returned -----------------------------------------------------------------------------------

    def _by_part(self, values: Sequence[T]) -> Iterator[tuple[GroupedBlock, np.ndarray, Sequence[T]]]:
        start = 0
        for block, at in self.parts:
            yield block, at, values[start : start + len(at)]
            start += len(at)

    def fail(self, errors: Sequence[RecordError]) -> None:
        """Every record fails, each with its error."""
        for block, at, own in self._by_part(errors):
            block.errors.update(zip(at.tolist(), own, strict=True))

    def take(self, returned: Sequence[Any]) -> None:
        """Take what was returned for each record; one with a wrong patch fails alone."""
        for block, at, own in self._by_part(returned):
            block.patches.take(own, at)

    def tried(self, returned: Sequence[Any]) -> Callable[[], None]:
        """Make columns of what was returned; the result lets them count.

        Raises:
            WrongReturnError: some of it cannot stand in a column; nothing of it counts.
        """
        tries: list[tuple[GroupedBlock, Tried]] = []
        errors: list[RecordError | None] = []
        for block, at, own in self._by_part(returned):
            tried = block.patches.tried(own, at)
            errors += [tried.errors.get(position) for position in at.tolist()]
            tries.append((block, tried))
        if any(errors):
            raise WrongReturnError(errors, is_of_records=True)

        def keep() -> None:
            for block, tried in tries:
                block.patches.keep(tried)

        return keep


def take_nothing() -> None:
    """A call has returned None: no record changes."""


def check_shape(returned: Any, count: int) -> None:
    """See that a call returned a list with a patch, or None, for each record of its group.

    Raises:
        WrongReturnError: it did not. That is an error of the code, whatever the records are.
    """
    if isinstance(returned, Sequence) and not isinstance(returned, (str, bytes)) and len(returned) == count:
        return
    what = type(returned).__name__
    if isinstance(returned, Sequence) and not isinstance(returned, (str, bytes)):
        what = f"{len(returned)} patches"
    message = f"the aggregator returned {what} for {count} records; return one for each, or None"
    raise WrongReturnError([RecordError("InvalidPatchError", message)] * count, is_of_records=False)


def errors_of_all(errors: Sequence[RecordError | None], ids: Sequence[int]) -> list[RecordError]:
    """An error for each record of a group of which nothing is committed, as some of it cannot be taken."""
    first, record_id = next((error, at) for error, at in zip(errors, ids, strict=True) if error is not None)
    why = f"nothing of its group is committed, as record {record_id} fails: {first.message}"
    return [error or RecordError(first.type, why) for error in errors]

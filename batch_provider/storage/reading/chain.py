"""Reading the output of a step: each column from the step that owns it, joined by record id.

Every step's files hold one row for every id of their span, in order, so the join on ``_id`` is an alignment of
rows: no hash table, and a block costs what its own rows cost.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import groupby
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from batch_provider.domain.errors import CheckpointMissingError
from batch_provider.domain.layout import FileRef, Span, tiles
from batch_provider.domain.names import INPUT_PHASE, RESERVED_COLUMNS, SIDE_COLUMNS
from batch_provider.domain.outcome import Outcome
from batch_provider.engine.columns.joining import concat_by_name
from batch_provider.engine.ports.completion import Each
from batch_provider.engine.steps.fused_outcomes import failed_in
from batch_provider.storage.blobs.local import LocalBlobs
from batch_provider.storage.blobs.protocol import Blobs
from batch_provider.storage.reading.checkpoint_file import CheckpointFile, Footer, open_checkpoint

_OPEN_FILES = 2
"""At least: a block may straddle two files, and begins in the last file of the block before it."""
_MOST_OPEN = 16
"""A block of a step may lie over very many small files of the step before."""


class OpenFile(Protocol):
    """The rows of a run of ids, decoded as columns are asked for."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all of them."""
        ...

    @property
    def schema(self) -> pa.Schema:
        """Names and types."""
        ...

    @property
    def footer(self) -> Footer:
        """Who owns each column, and what the rows count."""
        ...

    def read(self, columns: Sequence[str]) -> pa.Table:
        """These columns, those it has."""
        ...

    def pick(self, columns: Sequence[str], at: np.ndarray) -> pa.Table:
        """The rows at these positions, which ascend, of these columns."""
        ...


class Tile(Hashable, Protocol):
    """What holds a run of ids: a file, or a part of one."""

    @property
    def span(self) -> Span:
        """The ids."""
        ...


Held = TypeVar("Held", bound=Tile)


class Layer(ABC, Generic[Held]):
    """What there is of one step for one shard, or of the input, readable over any span.

    Args:
        step: whose it is.
        files: what holds the rows.
        fused: the steps that share these files, if there are several.

    Attributes:
        is_for_threads: files can be read side by side.
    """

    is_for_threads: ClassVar[bool] = True

    def __init__(self, step: str, files: Sequence[Held], fused: Sequence[str] = ()) -> None:
        self.step, self.fused = step, tuple(fused) or (step,)
        self.files = tuple(sorted(files, key=lambda file: file.span))
        self._firsts = [file.span.first for file in self.files]
        self._lasts = [file.span.last for file in self.files]
        self._open: OrderedDict[Held, OpenFile] = OrderedDict()
        self._keep = _OPEN_FILES

    def over(self, span: Span) -> list[Held]:
        """The files that hold ids of ``span``, in order."""
        first = bisect_left(self._lasts, span.first)
        after = bisect_right(self._firsts, span.last, first)
        return list(self.files[first:after])

    def require(self, span: Span, shard: str) -> None:
        """Refuse to read ids that are not there.

        Raises:
            CheckpointMissingError: the files leave a gap in ``span``.
        """
        covered = [part for file in self.over(span) if (part := file.span.overlap(span))]
        if not tiles(span, covered):
            raise CheckpointMissingError(self.step, shard, f"records {span.first} to {span.last} are incomplete")

    def across(self, span: Span) -> list[Held]:
        """As :meth:`over`, for a block: its files stay open, as its columns are asked for one after the other."""
        found = self.over(span)
        self._keep = min(max(self._keep, len(found)), _MOST_OPEN)
        return found

    def open(self, file: Held) -> OpenFile:
        """The file, kept open for the next block."""
        if file not in self._open:
            self._open[file] = self._opened(file)
            while len(self._open) > self._keep:
                self._open.popitem(last=False)
        self._open.move_to_end(file)
        return self._open[file]

    @abstractmethod
    def _opened(self, file: Held) -> OpenFile:
        """Open it; what it says can be relied on."""

    def path(self, file: Held) -> str | None:  # noqa: ARG002
        """A Parquet file that holds its rows and no others, for whoever can read it; None: there is none."""
        return None

    def rows(self, span: Span, columns: Sequence[str]) -> pa.Table:
        """These columns over ``span``; one that no file has is left out."""
        parts: list[pa.Table] = []
        for file in self.across(span):
            part = file.span.overlap(span)
            if part is not None:
                table = self.open(file).read(["_id", *columns])
                parts.append(table.slice(part.first - file.span.first, len(part)))
        return concat_by_name(parts) if parts else pa.table({"_id": pa.array([], pa.int64())})

    def pick(self, ids: np.ndarray, columns: Sequence[str], each: Each) -> pa.Table:
        """These columns of some records, whose ids ascend; every file is opened for this alone."""

        def picked(file: Held) -> pa.Table:
            return self._opened(file).pick(["_id", *columns], inside(ids, file.span) - file.span.first)

        files = [file for file in self.over(span_of(ids)) if len(inside(ids, file.span))]
        return concat_by_name(list(each(picked, files) if self.is_for_threads else map(picked, files)))


class FileLayer(Layer[FileRef]):
    """The files of one step for one shard, or those that the input was copied to."""

    def __init__(
        self, blobs: Blobs, step: str, directory: str, files: Sequence[FileRef], fused: Sequence[str] = ()
    ) -> None:
        super().__init__(step, files, fused)
        self._blobs, self._directory = blobs, directory

    def _opened(self, file: FileRef) -> CheckpointFile:
        """Verified by its digest."""
        is_input = self.step == INPUT_PHASE
        return open_checkpoint(self._blobs, f"{self._directory}/{file.name}", file, is_input=is_input)

    def path(self, file: FileRef) -> str | None:
        """In a local store."""
        return self._blobs.address(f"{self._directory}/{file.name}") if isinstance(self._blobs, LocalBlobs) else None


class ChainReader:
    """The output of the last of a chain of layers: input, step, step, … (a GenerationReader)."""

    def __init__(self, layers: Sequence[Layer[Any]], shard_id: str, span: Span) -> None:
        self.layers = tuple(layers)
        self._by_step = {layer.step: layer for layer in layers}
        self._shard, self._span = shard_id, span
        self._last = self.layers[-1]

    def schema(self) -> dict[str, pa.DataType]:
        """Payload columns of the shard's first file, with their types."""
        for file in self._last.over(self._span)[:1]:
            part = file.span.overlap(self._span)
            if part is not None:
                table = self.read(Span(part.first, part.first))
                return {
                    name: table.schema.field(name).type for name in table.column_names if name not in RESERVED_COLUMNS
                }
        return {}

    def owners(self, span: Span) -> dict[str, str | None]:
        """Payload and side column → the step whose files hold it over all of ``span``; None: no single one."""
        parts = [self._last.open(file).footer.owners for file in self._last.across(span)]
        found: dict[str, str | None] = {}
        for name in dict.fromkeys(name for owners in parts for name in owners):
            steps = {owners.get(name) for owners in parts}
            found[name] = steps.pop() if len(steps) == 1 else None
        return found

    def read(self, span: Span, columns: Sequence[str] | None = None) -> pa.Table:
        """See :class:`batch_provider.engine.ports.store.GenerationReader`."""
        self._last.require(span, self._shard)
        parts: list[pa.Table] = []
        for file in self._last.across(span):
            part = file.span.overlap(span)
            if part is not None:
                parts.append(self._read_part(part, self._last.open(file).footer.owners, columns))
        return concat_by_name(parts)

    def pick(self, ids: np.ndarray, each: Each = map) -> pa.Table:
        """See :class:`batch_provider.engine.ports.completion.StoredReader`."""
        files = [file for file in self._last.over(span_of(ids)) if len(inside(ids, file.span))]
        parts: list[pa.Table] = []
        for owners, alike in groupby(files, lambda file: dict(self._last.open(file).footer.owners)):
            own = np.concatenate([inside(ids, file.span) for file in alike])
            parts.append(self._picked(own, owners, each))
        if sum(part.num_rows for part in parts) < len(ids):  # there may be gaps, but not where they are
            raise CheckpointMissingError(self._last.step, self._shard, f"some of {len(ids):,} records are not there")
        return concat_by_name(parts)

    def _picked(self, ids: np.ndarray, owners: Mapping[str, str], each: Each) -> pa.Table:
        return self._joined(owners, list(owners), len(ids), lambda layer, names: layer.pick(ids, names, each))

    def _read_part(self, span: Span, owners: Mapping[str, str], columns: Sequence[str] | None) -> pa.Table:
        wanted = [name for name in owners if columns is None or name in columns or name in SIDE_COLUMNS]
        return self._joined(owners, wanted, len(span), lambda layer, names: layer.rows(span, names))

    def _joined(
        self,
        owners: Mapping[str, str],
        wanted: Sequence[str],
        count: int,
        rows_of: Callable[[Layer[Any], Sequence[str]], pa.Table],
    ) -> pa.Table:
        """So many rows of the chain, each column from the layer of the step that owns it."""
        by_owner: dict[str, list[str]] = {self._last.step: []}
        for name in wanted:
            by_owner.setdefault(owners[name], []).append(name)
        found: dict[str, Any] = {}
        for step, names in by_owner.items():
            own = ["_status", "_out"] if step == self._last.step else []
            rows = rows_of(self._by_step[step], [*names, *own])
            found.update(zip(rows.column_names, rows.columns, strict=True))
        if "_status" not in found:  # an input file without malformed records says nothing of status
            found["_status"] = pa.repeat(pa.scalar(int(Outcome.SUCCEEDED), pa.uint8()), count)
        if "_out" not in found:
            found["_out"] = pa.repeat(pa.scalar(0, pa.int32()), count)
        order = [name for name in wanted if name in found and name not in SIDE_COLUMNS]
        tail = [name for name in ("_id", "_status", "_out", *SIDE_COLUMNS) if name in found]
        return pa.table({name: found[name] for name in [*order, *tail]})

    def failures(self, span: Span) -> list[dict[str, Any]]:
        """Every failure of the records of ``span`` in this chain, in order of steps."""
        found: list[dict[str, Any]] = []
        for layer in self.layers:
            for file in layer.over(span):
                opened = layer.open(file)
                part = file.span.overlap(span)
                if opened.footer.tally.failed and part is not None:
                    rows = opened.read(["_id", "_error", "_outcomes"]).slice(part.first - file.span.first, len(part))
                    found.extend(_failure_rows(rows, layer.fused))
        return found


def span_of(ids: np.ndarray) -> Span:
    """From the first of these ids, which ascend, to the last."""
    return Span(int(ids[0]), int(ids[-1]))


def inside(ids: np.ndarray, span: Span) -> np.ndarray:
    """Those that lie in ``span``."""
    low, high = np.searchsorted(ids, (span.first, span.last + 1))
    return ids[low:high]


def _failure_rows(rows: pa.Table, steps: Sequence[str]) -> list[dict[str, Any]]:
    failed = rows.filter(rows["_error"].is_valid())
    return [
        {
            "_id": row["_id"],
            "step": step,
            "type": row["_error"]["type"],
            "message": row["_error"]["message"],
            "at": row["_error"]["at"],
        }
        for step, row in zip(failed_in(steps, failed), failed.to_pylist(), strict=True)
    ]

"""The checkpoints of (step, shard) that count while an attempt works, and those it has open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import pyarrow as pa

from batch_provider.domain.layout import FileRef, Span, overlay
from batch_provider.domain.tally import Tally
from batch_provider.storage.blobs.protocol import Blobs
from batch_provider.storage.reading.checkpoint_file import CheckpointFile, open_checkpoint

KEPT_BYTES = 32 * 2**20
"""Of the files that were verified when a claim was made, as many stay open, so that a redrive reads each once."""


@dataclass(frozen=True)
class Adopted:
    """What a verified file of an earlier attempt says of itself; ``opened``: the file, if it stays open."""

    tally: Tally
    schema: pa.Schema
    fused_types: Mapping[str, pa.Schema]
    opened: CheckpointFile | None


class Standing:
    """The files that count, and their outcomes. What a block costs here does not depend on how many there are.

    Args:
        tallies: of adopted files; of several over the same ids the one of the latest claim counts.
    """

    def __init__(self, tallies: Mapping[FileRef, Tally]) -> None:
        self._by_span = {file.span: file for file in overlay(tallies)}
        self._tallies = {file: tallies[file] for file in self._by_span.values()}
        self.total = reduce(Tally.__add__, self._tallies.values(), Tally())

    @property
    def files(self) -> tuple[FileRef, ...]:
        """In order of ids."""
        return overlay(self._tallies)

    def over(self, span: Span) -> FileRef | None:
        """The file that holds exactly these ids."""
        return self._by_span.get(span)

    def put(self, file: FileRef, tally: Tally) -> FileRef | None:
        """A file counts from now on; returns the one that it replaces."""
        replaced = self._by_span.get(file.span)
        self._by_span[file.span], self._tallies[file] = file, tally
        self.total += tally
        if replaced is not None:
            self.total = self.total.without(self._tallies.pop(replaced))
        return replaced


class OpenedFiles:
    """Files of earlier attempts, each read, verified and parsed once as far as memory allows.

    Args:
        blobs: where they are.
        directory: of (step, shard).
        kept: those to be read, and some of them open already.
    """

    def __init__(self, blobs: Blobs, directory: str, kept: Mapping[FileRef, CheckpointFile | None]) -> None:
        self._blobs, self._directory = blobs, directory
        self._kept = {file: opened for file, opened in kept.items() if opened is not None}
        self._last: tuple[FileRef, CheckpointFile] | None = None

    def open(self, file: FileRef) -> CheckpointFile:
        """The file; the one asked for last is open already, and decoded.

        Raises:
            CorruptCheckpointError: it is not what was written.
        """
        if self._last is None or self._last[0] != file:
            if self._last is not None:
                self._last[1].forget()
            opened = self._kept.get(file) or open_checkpoint(self._blobs, f"{self._directory}/{file.name}", file)
            self._last = (file, opened)
        return self._last[1]

    def forget(self, file: FileRef) -> None:
        """It is not asked for again."""
        self._kept.pop(file, None)
        if self._last is not None and self._last[0] == file:
            self._last = None

"""What files there are of each step, sorted into parts: what the views are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from batch_provider.domain.names import INPUT_PHASE
from batch_provider.domain.outcome import Outcome
from batch_provider.storage.claims.stored import StoredGeneration
from batch_provider.storage.reading.chain import Layer, OpenFile, Tile
from batch_provider.storage.reading.status import StatusReader, StepStatus, runs

OWN_COLUMNS = ("_id", "_status", "_outcomes", "_out", "_in", "_error", "_redrives", "_line", "_raw")
"""Columns of a file that no owner is named for."""

Variant = tuple[str, pa.DataType]
"""A column of a step's files and its type there: files may disagree."""


@dataclass
class Part:
    """Files of one step, or parts of an input that was not copied, with the same columns, types and owners."""

    schema: pa.Schema
    owners: Mapping[str, str]
    files: dict[Tile, Layer[Any]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Records in all of them."""
        return sum(len(file.span) for file in self.files)

    @property
    def own(self) -> list[Variant]:
        """The payload and side columns that its files hold."""
        return [(item.name, item.type) for item in self.schema if item.name not in OWN_COLUMNS]


@dataclass
class StepFiles:
    """What there is of a step: parts, and runs of records (first, last, failed, in a file) that it has not run."""

    name: str
    relation: str
    parts: dict[tuple[object, ...], Part] = field(default_factory=dict)
    absent: list[tuple[int, int, bool, bool]] = field(default_factory=list)

    @property
    def variants(self) -> dict[Variant, int]:
        """Columns of all its files → number of rows."""
        found: Counter[Variant] = Counter()
        for part in self.parts.values():
            found.update(dict.fromkeys(part.own, part.rows))
        return found

    @property
    def unread(self) -> bool:
        """Whether rows that do not count are in its files."""
        return any(unread for *_, unread in self.absent)

    def take(self, layer: Layer[Any], file: Tile, opened: OpenFile) -> None:
        """Sort a file into its part."""
        owners = opened.footer.owners
        key = (tuple((item.name, item.type) for item in opened.schema), tuple(sorted(owners.items())))
        self.parts.setdefault(key, Part(opened.schema, owners)).files.setdefault(file, layer)

    def take_absent(self, first: int, status: StepStatus) -> None:
        """Note the records of a shard that it has not run."""
        not_run = status.outcome == Outcome.NOT_RUN
        for start, end in runs(not_run * (1 + 2 * status.failed + 4 * status.unread)):
            if not_run[start]:
                self.absent.append((first + start, first + end, bool(status.failed[start]), bool(status.unread[start])))


def survey(generation: StoredGeneration) -> list[StepFiles]:
    """Read every file that counts, once."""
    names = [INPUT_PHASE, *generation.checkpoint_names]
    steps = [StepFiles(name, f"files.s{number}") for number, name in enumerate(names)]
    of_input = generation.input_layer()
    for shard in generation.manifest.shards:
        before: StepStatus | None = None
        for step in steps:
            layer = _layer(generation, step.name, shard.id) if before else of_input
            reader = StatusReader(step.name, shard.span)
            for file in layer.over(shard.span):
                opened = layer.open(file)
                reader.take(file.span, opened)
                step.take(layer, file, opened)
            before = reader.finish(before)
            step.take_absent(shard.span.first, before)
    return steps


def _layer(generation: StoredGeneration, step: str, shard_id: str) -> Layer[Any]:
    return generation.layer(step, shard_id, generation.current_files(step, shard_id))

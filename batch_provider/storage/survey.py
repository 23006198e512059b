"""What files there are of each step, sorted into parts: what the views are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from batch_provider.domain.layout import FileRef
from batch_provider.domain.names import INPUT_PHASE
from batch_provider.domain.outcome import Outcome
from batch_provider.storage import paths
from batch_provider.storage.checkpoints import CheckpointFile
from batch_provider.storage.generation import Generation
from batch_provider.storage.status import StatusReader, StepStatus, runs

OWN_COLUMNS = ("_id", "_status", "_out", "_in", "_error", "_line", "_raw")
"""Columns of a file that no owner is named for."""

Variant = tuple[str, pa.DataType]
"""A column of a step's files and its type there: files may disagree."""


@dataclass
class Part:
    """Files of one step with the same columns, types and owners."""

    schema: pa.Schema
    owners: Mapping[str, str]
    files: dict[str, FileRef] = field(default_factory=dict)
    rows: int = 0

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

    def take(self, name: str, file: FileRef, opened: CheckpointFile) -> None:
        """Sort a file into its part."""
        owners = opened.footer.owners
        key = (tuple((item.name, item.type) for item in opened.schema), tuple(sorted(owners.items())))
        part = self.parts.setdefault(key, Part(opened.schema, owners))
        if name not in part.files:
            part.files[name] = file
            part.rows += len(file.span)

    def take_absent(self, first: int, status: StepStatus) -> None:
        """Note the records of a shard that it has not run."""
        not_run = status.outcome == Outcome.NOT_RUN
        for start, end in runs(not_run * (1 + 2 * status.failed + 4 * status.unread)):
            if not_run[start]:
                self.absent.append((first + start, first + end, bool(status.failed[start]), bool(status.unread[start])))


def survey(generation: Generation) -> list[StepFiles]:
    """Read every file that counts, once."""
    names = [INPUT_PHASE, *(str(step["name"]) for step in generation.manifest.steps)]
    steps = [StepFiles(name, f"files.s{number}") for number, name in enumerate(names)]
    of_input = generation.layer(INPUT_PHASE, "", generation.manifest.files)
    for shard in generation.manifest.shards:
        before: StepStatus | None = None
        for step in steps:
            files = generation.current_files(step.name, shard.id) if before else ()
            layer = generation.layer(step.name, shard.id, files) if before else of_input
            reader = StatusReader(step.name, shard.span)
            for file in layer.over(shard.span):
                opened = layer.open(file)
                reader.take(file.span, opened)
                step.take(paths.output_file(generation.base, step.name, shard.id, file), file, opened)
            before = reader.finish(before)
            step.take_absent(shard.span.first, before)
    return steps

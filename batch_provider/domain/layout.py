"""Ranges of record ids: shards, and the checkpoint files that tile them."""

from __future__ import annotations

import re
import secrets
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

WINDOW_ROWS = 2**20
"""Records whose outcomes are in memory at a time, some 50 bytes each, when all of an instance are accounted for."""


@dataclass(frozen=True, order=True)
class Span:
    """Consecutive record ids, both ends included."""

    first: int
    last: int

    def __len__(self) -> int:
        """How many ids."""
        return self.last - self.first + 1

    def head(self, count: int) -> Span:
        """The first ``count`` ids, or all if there are no more."""
        return Span(self.first, min(self.last, self.first + count - 1))

    def windows(self, size: int) -> Iterator[Span]:
        """Runs of at most ``size`` ids, in order."""
        for first in range(self.first, self.last + 1, size):
            yield Span(first, min(first + size - 1, self.last))

    def overlap(self, other: Span) -> Span | None:
        """The ids both have, or None."""
        first, last = max(self.first, other.first), min(self.last, other.last)
        return Span(first, last) if first <= last else None


@dataclass(frozen=True)
class ShardRef:
    """Consecutive blocks that one mapped task works through."""

    id: str
    span: Span

    @property
    def label(self) -> str:
        """What the Airflow UI shows for the mapped task."""
        return f"shard {self.id}: records {self.span.first:,} to {self.span.last:,}"

    def to_json(self) -> dict[str, Any]:
        """As it stands in the manifest."""
        return {"id": self.id, "first": self.span.first, "last": self.span.last}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        return cls(data["id"], Span(data["first"], data["last"]))


def plan_shards(total: int, shards: int) -> tuple[ShardRef, ...]:
    """Cut ``total`` records into at most ``shards`` equal runs of ids; none is empty."""
    count = min(shards, total)
    width = max(2, len(str(count)))
    bounds = [total * i // count for i in range(count + 1)] if count else []
    return tuple(ShardRef(f"{i + 1:0{width}d}", Span(bounds[i], bounds[i + 1] - 1)) for i in range(count))


@dataclass(frozen=True, order=True)
class ClaimId:
    """Who may write: compared as text, so the later epoch always wins; the token tells racers apart."""

    epoch: int
    token: str

    def __str__(self) -> str:
        """``000001-1a2b3c4d``: as it stands in file names."""
        return f"{self.epoch:06d}-{self.token}"

    @classmethod
    def next(cls, highest: ClaimId | None) -> ClaimId:
        """A claim that comes after ``highest``."""
        return cls(1 if highest is None else highest.epoch + 1, secrets.token_hex(4))

    @classmethod
    def parse(cls, text: str) -> ClaimId:
        """Read what ``str()`` wrote."""
        epoch, _, token = text.partition("-")
        return cls(int(epoch), token)


_FILE_NAME = re.compile(r"(\d{12})-(\d{12})\.(\d{6}-[0-9a-f]{8})\.([0-9a-f]{32})\.parquet")


@dataclass(frozen=True)
class FileRef:
    """One checkpoint file: the ids it covers, who wrote it, and the digest of its bytes."""

    span: Span
    claim: ClaimId
    digest: str

    @property
    def name(self) -> str:
        """Its file name, which says it all: nothing else is needed to find and verify it."""
        return f"{self.span.first:012d}-{self.span.last:012d}.{self.claim}.{self.digest}.parquet"

    @classmethod
    def parse(cls, name: str) -> FileRef | None:
        """Read a file name; None if it is not one of ours (a temporary file, for example)."""
        match = _FILE_NAME.fullmatch(name)
        if match is None:
            return None
        return cls(Span(int(match[1]), int(match[2])), ClaimId.parse(match[3]), match[4])


def overlay(files: Iterable[FileRef]) -> tuple[FileRef, ...]:
    """The files that count, in order of ids: of several over the same ids the one of the latest claim.

    A touched block is written again over the same span (copy-on-write), so spans are equal or disjoint.
    """
    latest: dict[Span, FileRef] = {}
    for file in files:
        present = latest.get(file.span)
        if present is None or present.claim < file.claim:
            latest[file.span] = file
    return tuple(latest[span] for span in sorted(latest))


def overlaps(span: Span, others: Sequence[Span]) -> bool:
    """Whether one of ``others``, which are disjoint and in order, has ids of ``span``."""
    at = bisect_left(others, span.first, key=lambda other: other.last)
    return at < len(others) and others[at].first <= span.last


def gaps(whole: Span, covered: Iterable[Span]) -> list[Span]:
    """The ids of ``whole`` that no span of ``covered`` has."""
    found: list[Span] = []
    at = whole.first
    for span in sorted(covered):
        if span.first > at:
            found.append(Span(at, min(span.first - 1, whole.last)))
        at = max(at, span.last + 1)
    if at <= whole.last:
        found.append(Span(at, whole.last))
    return found


def tiles(whole: Span, spans: Sequence[Span]) -> bool:
    """Whether ``spans`` cover ``whole`` without gap or overlap."""
    at = whole.first
    for span in sorted(spans):
        if span.first != at:
            return False
        at = span.last + 1
    return at == whole.last + 1

"""Where the job is killed: a pattern for every kind of commit point, each matched by real points of a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.crash.work import STEPS, STREAM

COMMITS = 35
"""Commits of the two steps that write to a database: fences, commit notes, groups."""


@dataclass(frozen=True)
class Place:
    """A commit point: a pattern of :class:`batch_provider.testing.Fault`, and how many of it are let pass."""

    pattern: str
    skip: int = 0

    def __str__(self) -> str:
        """For the names of tests."""
        return self.pattern.replace("*", "").replace(" ", "").replace("/", "-") + (f"-{self.skip}" if self.skip else "")


def _around(action: str, name: str, skip: int = 0) -> Iterator[Place]:
    for when in ("before", "after"):
        yield Place(f"{action}:{when} {name}", skip)


def _file(name: str, skip: int = 0) -> Iterator[Place]:
    for action in ("write", "rename", "sync"):
        yield from _around(action, name, skip)


def store_places() -> Iterator[Place]:
    """Every kind of file and directory of the store."""
    for name in ("*/load/*.json", "*/input/*.parquet", "*manifest.json", "*/dead_letters/*.parquet"):
        yield from _file(name)
    for name in ("*ledger.*.duckdb", "*result.*.json", "*/claims/on_complete/all/*.json", "*/progress/*.json"):
        yield from _file(name)
    for number, step in enumerate(STEPS):
        yield from _file(f"*/claims/{step}/*.json", number % 2)
        yield from _file(f"*/steps/{step}/*.parquet", number % 2 if step == STREAM else number % 4)
        yield from _file(f"*/attempts/{step}/*.json", number % 2)
    for part in ("load", "input", "claims", "steps", "attempts", "progress", "dead_letters"):
        yield from _around("make_directory", f"*/{part}*", 0 if part in ("load", "input", "dead_letters") else 9)
        yield from _around("sync", f"*/{part}/*0[12]" if part not in ("load", "input", "dead_letters") else f"*/{part}")
    yield from _around("make_directory", "*/store")
    yield from _around("make_directory", "*/g1-????????")
    yield from _around("sync", "*/g1-????????")
    yield from _around("sync", "*/claims/on_complete/all")


def database_places(every: int = 1) -> Iterator[Place]:
    """Commits and connections of the warehouse."""
    for number in range(0, COMMITS, every):
        yield from _around("commit", "warehouse", number)
    for number in range(4):
        yield from _around("connect", "warehouse", number)

"""Where the job is killed: a pattern for every kind of commit point, each matched by real points of a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.crash.work import STEPS, STREAM

FUSED = "validate_to_group"
"""The steps of the job that are fused, if it has ``fuse_steps``."""

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


def _after(action: str, name: str, skip: int = 0) -> Iterator[Place]:
    yield Place(f"{action}:after {name}", skip)


def _file(name: str, skip: int = 0) -> Iterator[Place]:
    """Written but not named, named, and about to be synced; a kill before each of these finds what another leaves."""
    yield from _after("write", name, skip)
    yield from _after("rename", name, skip)
    yield Place(f"sync:before {name}", skip)


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
        yield from _after("make_directory", f"*/{part}*", 0 if part in ("load", "input", "dead_letters") else 9)
        yield from _after("sync", f"*/{part}/*0[12]" if part not in ("load", "input", "dead_letters") else f"*/{part}")
    yield from _after("make_directory", "*/store")
    yield from _after("make_directory", "*/g1-????????")
    yield from _after("sync", "*/g1-????????")
    yield from _after("sync", "*/claims/on_complete/all")


def database_places(every: int = 1) -> Iterator[Place]:
    """Commits and connections of the warehouse."""
    for number in range(0, COMMITS, every):
        yield Place(f"commit:{'before' if number // every % 2 else 'after'} warehouse", number)
    for number in range(4):
        yield Place(f"connect:{'before' if number % 2 else 'after'} warehouse", number)


def fused_places() -> Iterator[Place]:
    """What fused steps write, the input they read at once, and the steps after them."""
    for kind, skip in (("claims", 1), ("steps", 2), ("steps", 5), ("attempts", 0)):
        yield from _file(f"*/{kind}/{FUSED}/*.{'parquet' if kind == 'steps' else 'json'}", skip)
    yield from _after("sync", f"*/steps/{FUSED}/0[12]", 1)
    yield from _after("rename", "*/steps/log/*.parquet", 2)
    yield from _after("rename", "*/steps/store/*.parquet", 1)
    yield from _after("rename", f"*/steps/{STREAM}/*.parquet")
    yield from _after("rename", "*result.*.json")
    for number in range(2, COMMITS, 6):
        yield from _after("commit", "warehouse", number)


def files_places() -> Iterator[Place]:
    """What a writer of Parquet files writes, and the checkpoints that its parts belong to."""
    for name, skip in (("*/lake/*part-*.parquet", 0), ("*/lake/*part-*.parquet", 3), ("*/lake/_manifest/*.json", 0)):
        yield from _file(name, skip)
    for directory in ("*/lake", "*/lake/_manifest", "*/lake/local~run~crash", "*/lake/local~run~crash/g1-????????"):
        yield from _after("make_directory", directory)
        yield from _after("sync", directory)
    yield from _after("sync", "*/lake/local~run~crash/g1-????????", 4)
    for kind in ("claims", "steps", "attempts"):
        yield from _after("rename", f"*/{kind}/store/*", 1)
    yield from _after("rename", "*result.*.json")

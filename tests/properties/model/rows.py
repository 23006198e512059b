"""A record between two steps, and how steps are put together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.properties.model.plan import PAYLOAD, Step

Failure = dict[str, Any]
GROUPED = ("group", "table", "files")
"""Steps whose blocks end where a group ends."""


@dataclass
class Row:
    """A record after some steps. ``made`` and ``consumed``: which attempt made it, and from which row upstream."""

    payload: dict[str, Any]
    variables: dict[str, Any]
    failures: list[Failure] = field(default_factory=list)
    outcomes: dict[str, str] = field(default_factory=dict)
    made: int = 0
    consumed: int = 0
    redrives: int = 0
    code: tuple[int, ...] = ()
    was_failed: bool = False

    @property
    def failed_here(self) -> bool:
        """In one of the steps that share this row."""
        return "FAILED" in self.outcomes.values()


@dataclass
class Layer:
    """What there is of (steps that share checkpoints, shard)."""

    rows: dict[int, Row] = field(default_factory=dict)
    blocks: list[tuple[list[int], int]] = field(default_factory=list)
    epoch: int = 0
    since: int = 0
    end: str = ""
    round: int = -1
    pin: int = -1
    code: tuple[int, ...] = ()


class Held(Exception):  # noqa: N818  # no error
    """The work ends at a block boundary."""


def failure(step: str, kind: str, message: str = "") -> Failure:
    """An error of a record."""
    return {"step": step, "type": kind, "message": message}


def fail(step: Step, number: int, row: Row, kind: str, message: str = "") -> None:
    """A record fails: payload and variables stay as it came."""
    row.outcomes[step.name] = "FAILED"
    row.failures = [*row.failures, failure(step.name, kind, message)]


def extras(row: Row) -> dict[str, Any]:
    """What a record has besides its payload."""
    return {"variables": row.variables, "failures": row.failures}


def fits(record: dict[Any, Any]) -> bool:
    """Whether an element of the input is a record that fits the contract."""
    return record.keys() <= set(PAYLOAD) and not isinstance(record.get("n"), str)


def stages(steps: Sequence[Step]) -> list[list[Step]]:
    """A streaming aggregator ends a stage."""
    found: list[list[Step]] = [[]]
    for step in steps:
        found[-1].append(step)
        if step.kind == "stream":
            found.append([])
    return [stage for stage in found if stage]


def runs_of(stage: Sequence[Step], fuse: bool) -> Iterator[list[Step]]:
    """Fused steps share a checkpoint up to an aggregator, and before a step that takes failed records."""
    run: list[Step] = []
    for step in stage:
        ends = run and (run[-1].kind == "group" or run[-1].stands_alone or step.stands_alone)
        if run and (not fuse or ends or step.policy != "NO_FAILURES"):
            yield run
            run = []
        run.append(step)
    if run:
        yield run

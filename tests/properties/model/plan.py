"""What a drawn job is: its input, its steps, and all that happens to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

ALWAYS = 99
PAYLOAD = ("id", "n", "t", "k")
"""Columns of every input: the record's number, a whole number or null, a text or null, a small number."""


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the provider's catches it."""


class Shown:
    """A repr without what is as by default."""

    def __repr__(self) -> str:
        shown = [(f.name, getattr(self, f.name)) for f in fields(self) if f.init]  # type: ignore[arg-type]
        own = [f"{name}={value!r}" for name, value in shown if value != type(self).__dict__.get(name)]
        own = [text for text in own if not text.endswith(("={}", "=()"))]
        return f"{type(self).__name__}({', '.join(own)})"


@dataclass(frozen=True, repr=False)
class Trouble(Shown):
    """What goes wrong with a record: ``kind`` is of :data:`RAISES` or :data:`RETURNS`.

    Attributes:
        until: the round from which all is well.
        tries: how many tries of a call go wrong.
    """

    kind: str
    until: int = ALWAYS
    tries: int = ALWAYS


RAISES: Mapping[str, type[Exception]] = {"value": ValueError, "key": LookupError, "down": ConnectionError}
RETURNS = ("number", "reserved", "object", "variable")


@dataclass(frozen=True, repr=False)
class Patch(Shown):
    """One key of what a function returns, for the records whose number ``every`` divides."""

    key: str
    formula: str
    every: int = 1


@dataclass(frozen=True, repr=False)
class Step(Shown):
    """A step; ``kind`` is record, sql, arrow, group, stream, table or files."""

    name: str
    kind: str
    policy: str = "NO_FAILURES"
    accept: str | None = None
    trouble: Mapping[int | None, Trouble] = field(default_factory=dict)
    patches: tuple[Patch, ...] = ()
    asks: tuple[str, ...] = ()
    sets: int | None = None
    reads: tuple[str, ...] | None = None
    drop: tuple[str, ...] = ()
    output: str = "patch"
    retries: int = 0
    retry_on: str = "any"
    way: str = "plain"
    transaction: bool = False
    size: int = 1
    isolate: bool = False
    on_redrive: str = "new"
    looks_at: int = ALWAYS
    changes_in: int = ALWAYS
    reprocess: bool = False
    checks: tuple[str, ...] = ()
    assign: tuple[tuple[str, str], ...] = ()
    key: str | None = None
    unique: bool = False
    columns: tuple[str, ...] | None = PAYLOAD
    bound: int = ALWAYS

    @property
    def stands_alone(self) -> bool:
        """Whether it is never fused: what it commits elsewhere is accounted for by its own checkpoints."""
        return self.kind in ("stream", "files", "table") or self.transaction


@dataclass(frozen=True, repr=False)
class Crash(Shown):
    """Where the process dies, once: at the ``nth`` call of a step, write of a checkpoint or commit to the database."""

    kind: str
    nth: int
    step: str = ""
    shard: int = 0
    when: str = "before"


@dataclass(frozen=True, repr=False)
class Round(Shown):
    """What happens between two results.

    Attributes:
        crashes: one after the other, each followed by a retry.
        stop: a stop is requested in this call: (step, nth).
        limit: ``max_failed_records`` of this round.
    """

    crashes: tuple[Crash, ...] = ()
    stop: tuple[str, int] | None = None
    limit: int = -1


@dataclass(frozen=True, repr=False)
class Job(Shown):
    """A job, its input and all that happens to it; ``records`` that are no dicts are malformed."""

    seed: int
    source: str
    records: tuple[Any, ...]
    steps: tuple[Step, ...]
    rounds: tuple[Round, ...]
    block: int = 100
    shards: int = 1
    fuse: bool = False
    ratio: float | None = None
    sample: int = 1_000
    max_redrives: int | None = None
    variables: Mapping[str, Any] = field(default_factory=lambda: {"lim": 3, "tag": "x"})

    @property
    def is_exact(self) -> bool:
        """Whether it is known where a process dies, and so which calls are made again."""
        crashes = [crash for each in self.rounds for crash in each.crashes]
        return not crashes or not (self.fuse or any(crash.kind == "commit" for crash in crashes))

    def show(self) -> str:
        """For a person who looks for the fault."""
        lines = [f"seed {self.seed}: {self.source}, block {self.block}, shards {self.shards}, fuse {self.fuse}"]
        lines += [
            f"ratio {self.ratio} after {self.sample}, max_redrives {self.max_redrives}",
            f"records {self.records}",
        ]
        return "\n".join([*lines, *map(repr, self.steps), *map(repr, self.rounds)])


@dataclass
class World:
    """What the functions of one run know: the product has one, the model another.

    Attributes:
        round: how many results there are.
        life: how often the process has died.
        calls: (step, what it was given), in order.
        on_stop: requests a stop.
    """

    round: int = 0
    life: int = 0
    calls: list[tuple[str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    tries: Counter[Any] = field(default_factory=Counter)
    stop: tuple[str, int] | None = None
    crash: Crash | None = None
    on_stop: Callable[[], None] = lambda: None

    def enter(self, step: str, given: Any) -> None:
        """A function is called."""
        self.calls.append((step, given))
        self.counts[step] += 1
        if self.stop == (step, self.counts[step]):
            self.on_stop()
        self.reach("call", step, 0)

    def reach(self, kind: str, step: str, shard: int, when: str = "before") -> None:
        """Come to a point at which the process may die."""
        crash = self.crash
        if crash is None or (crash.kind, crash.step, crash.shard, crash.when) != (kind, step, shard, when):
            return
        self.tries["at the crash"] += 1
        if self.tries["at the crash"] == crash.nth:
            raise Killed

    def begin(self, crash: Crash | None) -> None:
        """A process starts."""
        self.crash = crash
        self.counts.clear()
        self.tries["at the crash"] = 0

    def version(self, step: Step) -> int:
        """Of the code of a step."""
        return int(self.round >= step.changes_in)

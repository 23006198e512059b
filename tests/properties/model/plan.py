"""What a drawn job is, and what its author's functions do: the product and the model call the same ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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


def plain(record: Mapping[str, Any]) -> dict[str, Any]:
    """A payload without nulls: of a column that others have, and of one that nobody has, the same is seen."""
    return {key: value for key, value in sorted(record.items()) if value is not None}


def given(record: Mapping[str, Any], keywords: Mapping[str, Any]) -> str:
    """What a call was given, to be compared."""
    shown = dict(keywords)
    if "failures" in shown:
        shown["failures"] = [(f["step"], f["type"]) for f in shown["failures"]]
    shown.pop("instance", None)
    return f"{plain(record)} {dict(sorted(shown.items()))}"


def who(record: Mapping[str, Any], keywords: Mapping[str, Any]) -> int | None:
    """Which record it is, as far as the function knows."""
    return keywords.get("record_id", record.get("id"))


def trouble_of(step: Step, world: World, number: int | None) -> str | None:
    """What goes wrong with a record in this try, if anything."""
    trouble = step.trouble.get(number)
    if trouble is None or world.round >= trouble.until:
        return None
    if world.tries[step.name, number] < trouble.tries:
        world.tries[step.name, number] += 1
        return trouble.kind
    world.tries[step.name, number] = 0
    return None


def act(step: Step, world: World, version: int, record: dict[str, Any], keywords: Mapping[str, Any]) -> Any:
    """The function of a record step."""
    world.enter(step.name, given(record, keywords))
    number = who(record, keywords)
    kind = trouble_of(step, world, number)
    if "variables" in keywords and step.sets is not None and (number or 0) % step.sets == 0:
        keywords["variables"]["lim"] = 1 + (number or 0) % 4
    if kind in RAISES:
        raise RAISES[kind](f"{step.name}: {number}")
    if kind == "variable" and "variables" in keywords:
        keywords["variables"]["bad"] = object()
    made = patch_of(step, world, version, record, keywords)
    record["id"] = "a change of what was passed in changes nothing"
    if kind in ("number", "reserved", "object"):
        return {"number": 5, "reserved": {"_id": 5}, "object": {**(made or {}), "a": object()}}[kind]
    return made


def patch_of(
    step: Step, world: World, version: int, record: Mapping[str, Any], keywords: Mapping[str, Any]
) -> dict[str, Any] | None:
    """What a function returns if all is well."""
    number = who(record, keywords)
    values: dict[str, Callable[[], Any]] = {
        "twice": lambda: (record.get("n") or 0) * 2 + 1,
        "life": lambda: world.life * 1000 + world.round * 100 + (number or 0),
        "version": lambda: version * 1000 + (number or 0),
        "text": lambda: f"{step.name}-{number}",
        "list": lambda: [number or 0, step.size],
        "variable": lambda: keywords["variables"]["lim"] if "variables" in keywords else 7,
        "failures": lambda: len(keywords["failures"]) if isinstance(keywords.get("failures"), list) else 0,
        "null": lambda: None,
        "retype": lambda: int(record.get("t") or "nothing"),
        "retype or null": lambda: int(record["t"]) if record.get("t") is not None else None,
        "more": lambda: (record.get("a") or 0) + 1,
    }
    made = {p.key: values[p.formula]() for p in step.patches if (number or 0) % p.every == 0}
    if step.output == "replace":
        return {name: record.get(name) for name in PAYLOAD} | made if (number or 0) % 3 else None
    return made if step.patches else None


def act_on_group(
    step: Step, world: World, version: int, records: Sequence[dict[str, Any]], keywords: Mapping[str, Any]
) -> Any:
    """The function of a sized aggregator."""
    ids = keywords.get("record_ids") or [record.get("id") for record in records]
    failures = keywords.get("failures") or [[] for _ in records]
    known = {"key": keywords["idempotency_key"]} if "idempotency_key" in keywords else {}
    entries = [given(r, {**known, "failures": f}) for r, f in zip(records, failures, strict=True)]
    world.enter(step.name, tuple(entries))
    kinds = [trouble_of(step, world, number) for number in ids]
    if bad := [number for number, kind in zip(ids, kinds, strict=True) if kind in RAISES]:
        raise ValueError(f"{step.name}: {bad}")
    if "length" in kinds:
        return [None] * (len(ids) + 1)
    made: list[Any] = []
    for number, kind, record, failed in zip(ids, kinds, records, failures, strict=True):
        patch = patch_of(step, world, version, record, {"record_id": number, "failures": failed})
        made.append({"number": 5, "reserved": {"_id": 5}, "object": {"a": object()}}.get(kind or "", patch))
    return made if step.patches or any(kinds) else None


def act_on_stream(step: Step, world: World, records: Any) -> None:
    """The function of a streaming aggregator."""
    seen: list[str] = []
    bad: list[int | None] = []
    try:
        for record in records:
            if len(seen) == step.looks_at:
                break
            seen.append(given(record, {}))
            trouble = step.trouble.get(record.get("id"))
            if trouble is not None and world.round < trouble.until:
                bad.append(record.get("id"))
    finally:
        world.enter(step.name, tuple(seen))
    if bad:
        raise ValueError(f"{step.name}: {bad}")


def accepts(name: str, record: Mapping[str, Any], keywords: Mapping[str, Any]) -> bool:
    """A callable that says which records a step takes."""
    if name == "even":
        return record.get("id") % 2 == 0  # a malformed record has none: it fails in being asked
    if name == "record_id":
        return keywords["record_id"] % 3 != 0
    if name == "raises":
        if (record.get("n") or 0) > 6:
            raise LookupError("above 6")
        return 1  # type: ignore[return-value]  # a true value accepts
    if name == "variables":
        return keywords["variables"]["lim"] > 2
    return not keywords["failures"] or keywords["failures"][-1]["type"] != "LookupError"


ACCEPTS: Mapping[str, tuple[str, ...]] = {
    "even": (),
    "record_id": ("record_id",),
    "raises": (),
    "variables": ("variables",),
    "failures": ("failures",),
}

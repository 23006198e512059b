"""Draws jobs at random; the same seed gives the same job."""

from __future__ import annotations

from random import Random
from typing import Any

from tests.properties.model.functions import ACCEPTS
from tests.properties.model.names import with_known_names
from tests.properties.model.plan import ALWAYS, PAYLOAD, RAISES, RETURNS, Crash, Job, Patch, Round, Step, Trouble
from tests.properties.model.sql import BEYOND, BEYOND_VALUES, CONDITIONS, EVERY, LATER, RAISING_OTHERS, VALUES

# What is left out of the drawing because it is known to be wrong, by the point that will mend it. Set a switch to True
# when its mend has landed, and delete it when it has been so for a while.
FUSED_EFFECTS = True
"""1: a table, or an aggregator with a transaction, in a job with fused steps."""
WRONG_RETURNS_IN_TRANSACTIONS = True
"""2: a transactional aggregator returns what cannot be kept."""
RATIOS_WHILE_RUNNING = True
"""6: max_failed_ratio is asked before all is finished."""
STREAMS_HELD_IN_REDRIVES = True
"""10: a stop or a limit in a redrive of a job with a streaming aggregator."""
VARIABLES_IN_SQL_STEPS = True
"""15: variables and failures in the expressions of SQL steps."""
CALLABLES_ON_SQL_STEPS = True
"""16: a callable accept expression on a vectorised step."""
RAISING_OTHERS_THAN_DATA_ERRORS = True
"""18: expressions that raise what DuckDB does not call an error of the data."""
ALL_MALFORMED_WITH_SQL = False
"""19: expressions over an input in which every record is malformed."""
GROUPS_OVER_BLOCKS_IN_REDRIVES = False
"""20: redrives of sized aggregators whose failed records are in several blocks."""
WRONG_LENGTHS = True
"""25: what an aggregator returns that is wrong as a whole is an InvalidPatchError."""
VARIABLE_ERRORS_BESIDE_PATCHES = True
"""Found by this: a record that fails with VariableTypeError keeps what the call returned."""
READS_BESIDE_SQL_RULES = False
"""Found by this: the columns that a SQL accept expression reads are not there beside those of ``reads``."""
DEATHS_BEHIND_STREAMS = False
"""Found by this: a retry of all after a death behind a streaming aggregator calls it again."""

HOLDS_BEFORE_FUSED_GROUPS = True
"""Found by this: steps that are fused with an aggregator are called for one block after a stop or a limit."""
NULLS_BEFORE_NUMBERS = True
"""Found by this: a block in which a step gives a text column nothing but null makes text of its numbers in the next."""
RETYPED_IN_REDRIVES = True
"""Found by this: numbers that a redrive makes of text make text of the column, and those of the next do not fit."""
LIMITS_IN_REDRIVES = False
"""The model lets a limit hold every block of a redrive; those with nothing to do again are not looked at any more."""


class Draw:
    """Draws one job."""

    def __init__(self, seed: int) -> None:
        self.random, self.seed = Random(f"job {seed}"), seed
        self.retyped = False

    def chance(self, share: float) -> bool:
        """True that often."""
        return self.random.random() < share

    def job(self) -> Job:
        """All of it."""
        random = self.random
        records = self.records()
        fuse = self.chance(0.3)
        rounds = random.choice([1, 1, 1, 1, 2, 2, 3])
        self.limited, self.crashes = False, False
        if self.chance(0.25):
            self.limited = True
        else:
            self.crashes = self.chance(0.6)
        self.rounds, self.fuse, self.count = rounds, fuse, len(records)
        self.malformed = any(not isinstance(record, dict) or "k" not in record for record in records)
        no_good = not any(isinstance(record, dict) and "k" in record for record in records)
        self.sql = not no_good or ALL_MALFORMED_WITH_SQL
        self.life = self.crashes and self.chance(0.7)
        steps = with_known_names([self.step(number) for number in range(random.choice([1, 1, 2, 2, 2, 3, 3, 4]))])
        grouped = any(step.kind == "group" and step.size > 1 for step in steps)
        grouped_at_all, self.stops = any(step.kind == "group" for step in steps), True
        shards = random.choice([1, 1, 1, 2, 2, 3])
        block = max(random.choice([1, 2, 3, 5, 100]), len(records) // 6)
        if grouped and rounds > 1 and not GROUPS_OVER_BLOCKS_IN_REDRIVES:
            block = 100
        if fuse and grouped_at_all and not HOLDS_BEFORE_FUSED_GROUPS:
            self.limited = self.stops = False
        return Job(
            self.seed,
            random.choice(["csv", "csv", "ndjson"]) if self.chance(0.3) and not no_good else "records",
            records,
            steps,
            tuple(self.round(number, steps, shards) for number in range(rounds)),
            block,
            shards,
            fuse,
            ratio=self.ratio(),
            sample=random.choice([1, 5, 1_000]) if RATIOS_WHILE_RUNNING and not self.crashes else 1_000,
            max_redrives=random.choice([0, 1, 2]) if self.chance(0.2) else None,
        )

    def ratio(self) -> float | None:
        """max_failed_ratio."""
        if self.limited or not self.stops or (self.malformed and not RATIOS_WHILE_RUNNING) or not self.chance(0.15):
            return None
        return self.random.choice([0.1, 0.3, 0.5])

    def records(self) -> tuple[Any, ...]:
        """The input."""
        random = self.random
        count = random.choice([0, 1, 2, 12, 20]) if self.chance(0.2) else random.randint(3, 10)
        share = random.choice([0, 0, 0, 0.1, 0.3, 1]) if self.chance(0.9) else 1
        found: list[Any] = []
        for number in range(count):
            if self.chance(share):
                found.append(random.choice([5, "text", None, {"_id": 3}, {"id": number, "n": "no number"}]))
                continue
            n = random.choice([None, *range(-3, 10)])
            t = random.choice([None, "x", *map(str, range(10))])
            found.append({"id": number, "n": n, "t": t, "k": random.randint(0, 9)})
        good = [record for record in found if isinstance(record, dict) and "k" in record]
        for number, record in enumerate(good):
            record["id"] = number
        if not good:
            found = [record for record in found if not isinstance(record, dict) or "_id" in record]
        return tuple(found)

    def step(self, number: int) -> Step:
        """One step; what later ones may not meet is noted."""
        random, name = self.random, f"s{number}"
        kinds = [*["record"] * 5, *["group"] * 3, "stream", "table", *["sql", "sql", "arrow", "files"] * self.sql]
        kind = random.choice(kinds)
        if self.fuse and kind == "table" and not FUSED_EFFECTS:
            kind = "group"
        if self.retyped and kind == "files":  # a value that is kept aside fails there
            kind = "record"
        policy = random.choice(["NO_FAILURES"] * 6 + ["ALL", "ONLY_FAILURES"])
        accept = self.accept(number, kind) if self.chance(0.4) else None
        common = {"name": name, "kind": kind, "policy": policy, "accept": accept}
        return getattr(self, f"{kind}_step")(number, common)

    def accept(self, number: int, kind: str) -> str | None:
        """An accept expression."""
        if self.chance(0.5) or not self.sql:
            if kind in ("sql", "arrow") and not CALLABLES_ON_SQL_STEPS:
                return None
            return self.random.choice(list(ACCEPTS))
        known = [*CONDITIONS, *BEYOND, *[*LATER] * bool(number), *[*RAISING_OTHERS] * RAISING_OTHERS_THAN_DATA_ERRORS]
        return self.random.choice([text for text in known if not (self.retyped and "t " in text.replace("(t", "t"))])

    def trouble(self, kinds: list[str], share: float | None = None, tries: bool = False) -> dict[int | None, Trouble]:
        """What goes wrong with which records."""
        random = self.random
        share = random.choice([0, 0.05, 0.2, 0.2, 0.5, 1]) if share is None else share
        numbers: list[int | None] = [number for number in range(self.count) if self.chance(share)]
        if self.chance(share):
            numbers.append(None)
        return {
            number: Trouble(
                random.choice(kinds),
                random.choice([ALWAYS, 1, 1, 2]),
                random.choice([1, 2, 3]) if tries and self.chance(0.7) else ALWAYS,
            )
            for number in numbers
        }

    def patches(self, formulas: list[str]) -> tuple[Patch, ...]:
        """What a function returns."""
        random, keys = self.random, {}
        for _ in range(random.choice([0, 1, 1, 2, 3])):
            formula = random.choice(formulas)
            key = {"text": "b", "list": "c"}.get(formula, random.choice(["a", "a", "d", "n"]))
            keys[key] = Patch(key, formula, random.choice([1, 1, 2, 3]))
        return tuple(keys.values())

    def formulas(self) -> list[str]:
        """Those that may be drawn for functions of records."""
        return ["twice", "text", "list", "null", "more", "version", *["life"] * 2 * self.life]

    def record_step(self, number: int, common: dict[str, Any]) -> Step:
        """A function of a record."""
        random = self.random
        known = ["variables", "failures", "record_id", "instance"]
        asks = tuple(sorted(random.sample(known, random.choice([0, 0, 1, 2, 4]))))
        if self.chance(0.15):
            return self.transaction_step(common, asks)
        retries = random.choice([1, 2, 3]) if self.chance(0.2) else 0
        way = random.choice(["async", "threads"]) if self.chance(0.15) else "plain"
        extra = [ask[:-1] if ask == "variables" else ask for ask in asks if ask in ("variables", "failures")]
        reads = self.reads(common["accept"])
        patches = self.patches([*self.formulas(), *extra])
        output = "replace" if reads is None and self.chance(0.1) and not self.retyped else "patch"
        may_retype = self.sql and not self.retyped and (self.rounds == 1 or RETYPED_IN_REDRIVES)
        if may_retype and output == "patch" and reads is None and self.chance(0.3):
            self.retyped = True
            patches = (*patches, Patch("t", "retype or null" if NULLS_BEFORE_NUMBERS else "retype"))
        kinds = [*RAISES, *RAISES, *RETURNS[:3]]
        if "variables" in asks and (VARIABLE_ERRORS_BESIDE_PATCHES or (not patches and output == "patch")):
            kinds.append("variable")
        return Step(
            **common,
            trouble=self.trouble(kinds, tries=retries > 0),
            patches=patches,
            asks=asks,
            sets=random.choice([1, 2, 3]) if "variables" in asks and self.chance(0.6) else None,
            reads=reads,
            drop=tuple(random.sample(["a", "b", "c", "d"], 2)) if self.chance(0.15) else (),
            output=output,
            retries=retries,
            retry_on=random.choice(["any", "down"]),
            way=way,
            **self.code(),
        )

    def transaction_step(self, common: dict[str, Any], asks: tuple[str, ...]) -> Step:
        """A transaction for each record; now and then a function returns what it may not."""
        return Step(
            **common,
            transaction=True,
            asks=asks,
            trouble=self.trouble([*RAISES, *["number"] * self.chance(0.3)]),
            reads=self.reads(common["accept"]),
            patches=(Patch("a", "twice", 5),) if self.chance(0.2) else (),
        )

    def code(self) -> dict[str, Any]:
        """Whether and when the code changes."""
        return {"changes_in": self.random.choice([1, 2]) if self.chance(0.2) else ALWAYS, "reprocess": self.chance(0.3)}

    def reads(self, accept: str | None) -> tuple[str, ...] | None:
        """Columns that are converted."""
        if accept in EVERY and EVERY[accept].reads and not READS_BESIDE_SQL_RULES:
            return None
        return self.random.choice([("id",), ("id", "n"), ("id", "t", "a")]) if self.chance(0.2) else None

    def sql_step(self, number: int, common: dict[str, Any]) -> Step:
        """Checks and assignments."""
        random = self.random
        known = [text for text in CONDITIONS if not (self.retyped and "t" in CONDITIONS[text].reads)]
        known += [*RAISING_OTHERS] * RAISING_OTHERS_THAN_DATA_ERRORS + [*BEYOND] * VARIABLES_IN_SQL_STEPS
        values = [text for text in VALUES if not (self.retyped and "t" in VALUES[text].reads)]
        values += [*BEYOND_VALUES] * VARIABLES_IN_SQL_STEPS
        checks = tuple(random.sample(known, random.choice([0, 1, 2])))
        assign = tuple(zip(random.sample(["a", "d"], 2), random.sample(values, 2), strict=True))
        assign = assign[: random.choice([0, 1, 1, 2]) if checks else 1]
        return Step(**common, checks=checks, assign=assign)

    def arrow_step(self, number: int, common: dict[str, Any]) -> Step:
        """A function of a block."""
        kinds = self.random.choice([["value"], ["check"], ["down", "check"]])
        patches = (Patch(self.random.choice(["a", "d", "n"]), "twice"),) if self.chance(0.7) else ()
        return Step(**common, trouble=self.trouble(kinds), patches=patches)

    def group_step(self, number: int, common: dict[str, Any]) -> Step:
        """A function of a group."""
        random = self.random
        transaction = self.chance(0.25) and (FUSED_EFFECTS or not self.fuse)
        returns = ["number", "reserved", "object"] if not transaction or WRONG_RETURNS_IN_TRANSACTIONS else []
        kinds = ["value", "value", *returns, *["length"] * (WRONG_LENGTHS and bool(returns))]
        return Step(
            **common,
            trouble=self.trouble(kinds, random.choice([0, 0.05, 0.1, 0.3])),
            patches=self.patches(self.formulas()),
            asks=tuple(sorted(random.sample(["record_ids", "failures", "idempotency_key"], random.choice([0, 1, 3])))),
            transaction=transaction,
            size=random.choice([1, 2, 3, 4, 7]),
            isolate=self.chance(0.5),
            reads=self.reads(common["accept"]),
            **self.code(),
        )

    def stream_step(self, number: int, common: dict[str, Any]) -> Step:
        """A function of all."""
        if self.limited and self.rounds > 1 and not STREAMS_HELD_IN_REDRIVES:
            return self.record_step(number, {**common, "kind": "record"})
        return Step(
            **common,
            trouble=self.trouble(["value"], self.random.choice([0, 0, 0.05])),
            on_redrive=self.random.choice(["new", "all"]),
            looks_at=self.random.choice([ALWAYS, ALWAYS, 0, 2]),
        )

    def table_step(self, number: int, common: dict[str, Any]) -> Step:
        """SqlTable."""
        random = self.random
        columns = PAYLOAD if not self.retyped else ("id", "n", "k")
        return Step(
            **common,
            key=random.choice([None, "id", "id", "k"]),
            unique=self.chance(0.2),
            columns=random.choice([columns, (*columns, "a"), ("id", "n", "k")]),
            bound=random.choice([ALWAYS, 7]),
            size=random.choice([1, 3, 10]),
        )

    def files_step(self, number: int, common: dict[str, Any]) -> Step:
        """ParquetFiles."""
        return Step(**common, columns=self.random.choice([None, ("id", "n", "k")]), size=self.random.choice([1, 3, 10]))

    def round(self, number: int, steps: tuple[Step, ...], shards: int) -> Round:
        """What happens in a round."""
        random = self.random
        called = [step for step in steps if step.kind in ("record", "group", "stream")]
        limit = random.choice([0, 0, 1, 3, 5]) if self.limited and self.chance(0.8) else -1
        limit = limit if not number or LIMITS_IN_REDRIVES else -1
        deaths = random.choice([1, 1, 2, 3]) if self.crashes else 0
        crashes = tuple(self.crash(steps, called, shards) for _ in range(deaths))
        inexact = any(crash.kind == "commit" for crash in crashes)
        stop = None
        streams = any(step.kind == "stream" for step in steps)
        if (
            called
            and self.stops
            and not inexact
            and self.chance(0.12)
            and (not number or not streams or STREAMS_HELD_IN_REDRIVES)
        ):
            chosen = random.choice(called)
            if not self.fuse or chosen.kind != "record":
                stop = (chosen.name, random.choice([1, 2, 5]))
        return Round(crashes, stop, limit)

    def crash(self, steps: tuple[Step, ...], called: list[Step], shards: int) -> Crash:
        """Where a process dies."""
        random = self.random
        first = next((at for at, step in enumerate(steps) if step.kind == "stream"), len(steps))
        if not DEATHS_BEHIND_STREAMS:
            steps, called = steps[: first + 1], [step for step in called if step in steps[: first + 1]]
        plain = [step for step in called if step.way == "plain"]
        kind = random.choice(["call", "call", "put", "put", "commit"])
        commits = any(step.kind == "table" or step.transaction for step in steps)
        if kind == "commit" and commits and not self.life and first == len(steps):
            return Crash("commit", random.randint(1, 8), when=random.choice(["before", "after"]))
        if kind == "call" and plain:
            return Crash("call", random.choice([1, 2, 3, 5, 9, 14]), random.choice(plain).name)
        step = random.choice(steps)
        when = "before" if step.kind == "stream" else random.choice(["before", "after"])
        shard = 0 if step.kind == "stream" else random.randrange(shards)
        return Crash("put", random.choice([1, 1, 2, 3]), step.name, shard, when)


def draw(seed: int) -> Job:
    """The job of a seed."""
    return Draw(seed).job()

"""The account: one outcome for each record and step, and the verdict: docs/report.md, docs/limits.md."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import pairwise
from typing import Any

from tests.properties.model.functions import plain
from tests.properties.model.plan import Job
from tests.properties.model.rows import Layer, Row, failure, fits, runs_of, stages
from tests.properties.model.rules import Rules


class Account(Rules):
    """The records of a job, and what is there of them after each step.

    Args:
        job: what is drawn.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        good = [record for record in job.records if isinstance(record, dict) and fits(record)]
        bad = [record for record in job.records if not (isinstance(record, dict) and fits(record))]
        self.input = {number: Row(plain(record), dict(job.variables)) for number, record in enumerate(good)}
        for number, record in enumerate(bad, len(good)):
            kind = "UnfitValue" if isinstance(record, dict) and "_id" not in record else "MalformedRecord"
            self.input[number] = Row({}, dict(job.variables), [failure("input", kind)])
        count = min(job.shards, len(self.input))
        bounds = [len(self.input) * at // count for at in range(count + 1)] if count else []
        self.shards = [list(range(*pair)) for pair in pairwise(bounds)]
        self.runs = [run for stage in stages(job.steps) for run in runs_of(stage, job.fuse)]
        self.layers = {(run[0].name, shard): Layer() for run in self.runs for shard in range(count)}

    def result(self, limit: int) -> dict[str, Any]:
        """The account: one outcome for each record and step, made from what counts of the step before."""
        outcomes: dict[tuple[str, int], str] = {}
        failures: list[tuple[int, str, str]] = []
        letters: list[tuple[Any, ...]] = []
        lasts: dict[int, dict[str, Any]] = {}
        final, older, given_up = Counter[str](), Counter[str](), Counter[str]()
        for shard, ids in enumerate(self.shards):
            for number in ids:
                last, missing = self.input[number], False
                failures += [(number, f["step"], f["type"]) for f in last.failures]
                letters += [(number, f["step"], f["type"], ()) for f in last.failures]
                for run in self.runs:
                    row = self.layers[run[0].name, shard].rows.get(number)
                    missing = missing or row is None or row.consumed != last.made
                    if missing or row is None:
                        outcomes.update({(step.name, number): "NOT_RUN" for step in run})
                        continue
                    outcomes.update({(name, number): outcome for name, outcome in row.outcomes.items()})
                    own = [f for f in row.failures if f["step"] in row.outcomes]
                    failures += [(number, f["step"], f["type"]) for f in own]
                    if own and not row.was_failed:
                        letters.append((number, own[0]["step"], own[0]["type"], tuple(plain(row.payload).items())))
                    if row.code != tuple(self.world.version(step) for step in run):
                        older.update(step.name for step in run)
                    if self.job.max_redrives is not None and row.redrives >= self.job.max_redrives and own:
                        given_up[own[0]["step"]] += 1
                    last = row
                failed = any(f[0] == number for f in failures)
                final["FAILED" if failed else "NOT_RUN" if missing else "SUCCEEDED"] += 1
                lasts[number] = plain(last.payload)
        tallies: dict[str, Counter[str]] = {step.name: Counter() for step in self.job.steps}
        for (name, _), outcome in outcomes.items():
            tallies[name][outcome] += 1
        is_done = {x.end for x in self.layers.values()} <= {"DONE"} and "NOT_RUN" not in outcomes.values()
        return {
            "state": self.verdict(limit, final),
            "final": dict(final),
            "steps": {name: dict(tally) for name, tally in tallies.items()},
            "outcomes": outcomes,
            "errors": dict(Counter((step, kind) for _, step, kind in failures)),
            "failures": sorted(failures),
            "letters": sorted(letters),
            "older": dict(older),
            "given_up": dict(given_up),
            "output": lasts if is_done else None,
            "tables": {name: sorted(map(repr, table.values())) for name, table in self.tables.items() if table},
            "files": self.files() if is_done else None,
            "log": {name: sorted(map(repr, rows)) for name, rows in self.log.items() if rows},
        }

    def files(self) -> dict[str, list[str]]:
        """What writers of files have written: the records that succeeded in them."""
        found = {}
        for step in self.job.steps:
            if step.kind == "files":
                rows = [
                    row for (name, _), layer in self.layers.items() for row in layer.rows.values() if name == step.name
                ]
                rows = [row for row in rows if row.outcomes[step.name] == "SUCCEEDED"]
                shown = [{k: v for k, v in row.payload.items() if k in (step.columns or row.payload)} for row in rows]
                found[step.name] = sorted(repr(plain(row)) for row in shown)
        return found

    def verdict(self, limit: int, final: Counter[str]) -> str:
        """A limit that is exceeded wins over a stop, a stop over a task that did not finish."""
        ends = [layer.end for layer in self.layers.values()]
        new = final["FAILED"] - self.on_input
        too_many = self.too_many(limit, new, self.finished(), final=not final["NOT_RUN"])
        if too_many or "LIMITED" in ends:
            return "FAILED_PROCESS_RECORDS"
        if "STOPPED" in ends:
            return "STOPPED"
        return "FAILED_PROCESS_RECORDS" if final["NOT_RUN"] or {"", "OPEN"} & set(ends) else "SUCCESSFUL"

    @property
    def on_input(self) -> int:
        """Malformed records."""
        return sum(bool(row.failures) for row in self.input.values())

    def finished(self) -> int:
        """Records that the steps have come to."""
        names = {name for name, _ in self.layers}
        return sum(max(len(self.layers[name, shard].rows) for name in names) for shard in range(len(self.shards)))

    def too_many(self, limit: int, new: int, finished: int, *, final: bool) -> bool:
        """A ratio replaces a count of 0; each failure is judged against what was looked at to find it."""
        ratio = None if self.job.ratio is None else Fraction(str(self.job.ratio))
        if new + self.on_input > limit >= 0 and (ratio is None or limit > 0):
            return True
        share = Fraction(self.on_input, len(self.input) or 1)
        if ratio is None or share > ratio:
            return ratio is not None
        return (final or finished >= self.job.sample) and share + Fraction(new, finished or 1) > ratio

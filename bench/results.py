"""What was measured, as lines of JSON below bench/results: nothing is overwritten, the latest whole session counts."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from bench.catalogue import BASELINE, BASELINE_V
from bench.environments import BENCH

FOLDER = BENCH / "results"
CLEAN = 0.15
"""The share of the machine that other work may use during a run that counts, if there is any such run."""

ROUNDS = 3
"""A session with fewer undisturbed runs does not take the place of one that has so many."""

Row = dict[str, Any]


def keep(name: str, row: Row) -> None:
    """Add a line to a file of results."""
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def read(name: str) -> list[Row]:
    """Every line of a file of results, oldest first."""
    path = FOLDER / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@dataclass(frozen=True)
class Cell:
    """The good runs of one system with one number of records, in the latest session with enough of them.

    Attributes:
        rows: the runs that count: those that other work left alone, or all if there is none such.
        runs: how many there were.
        ratios: to the baseline of the same round, again of undisturbed pairs if there are any.
    """

    key: str
    records: int
    rows: tuple[Row, ...]
    runs: int
    ratios: tuple[float, ...]

    @property
    def is_disturbed(self) -> bool:
        """Whether other work used much of the machine in every run."""
        return all(row["others"] > CLEAN for row in self.rows)

    def median(self, name: str) -> float:
        """Of a measured value."""
        return float(statistics.median(row[name] or 0 for row in self.rows))

    def largest(self, name: str) -> float:
        """Of a measured value: for peaks."""
        return float(max(row[name] or 0 for row in self.rows))

    @property
    def wall(self) -> float:
        """Seconds."""
        return self.median("wall")

    @property
    def spread(self) -> str:
        """From the fastest to the slowest run."""
        walls = [row["wall"] for row in self.rows]
        return f"{min(walls):.2f} to {max(walls):.2f}"

    @property
    def rate(self) -> float:
        """Records a second."""
        return self.records / self.wall

    @property
    def ratio(self) -> float | None:
        """Wall time over that of the baseline in the same round."""
        return statistics.median(self.ratios) if self.ratios else None


def baseline_of(key: str) -> str:
    """What a system's ratios are against."""
    return BASELINE if key.endswith("-P") else BASELINE_V


def cells(rows: Iterable[Row], *, status: bool = True) -> dict[tuple[str, int], Cell]:
    """(key, records) → its runs."""
    good = [row for row in rows if "wall" in row and not row["wrong"] and row["status"] == status]
    bases = {(row["session"], row["round"], row["records"], row["key"]): row for row in good}
    clean_runs = Counter((row["key"], row["records"], row["session"]) for row in good if row["others"] <= CLEAN)
    latest: dict[tuple[str, int], tuple[int, int]] = {}
    for row in good:
        place, session = (row["key"], row["records"]), row["session"]
        latest[place] = max(latest.get(place, (0, 0)), (min(clean_runs[*place, session], ROUNDS), session))
    found: dict[tuple[str, int], Cell] = {}
    for (key, records), (_, session) in latest.items():
        own = tuple(r for r in good if (r["key"], r["records"], r["session"]) == (key, records, session))
        pairs = [(row, base) for row in own if (base := bases.get((session, row["round"], records, baseline_of(key))))]
        clean = tuple(row for row in own if row["others"] <= CLEAN) or own
        even = [pair for pair in pairs if max(row["others"] for row in pair) <= CLEAN] or pairs
        found[key, records] = Cell(
            key, records, clean, len(own), tuple(row["wall"] / base["wall"] for row, base in even)
        )
    return found


def latest(name: str, matches: Callable[[Row], bool]) -> Row | None:
    """The last line of a file that matches."""
    return next((row for row in reversed(read(name)) if matches(row)), None)

"""What a block costs when a shard has many: one of 10,000 against one of 1,000.

One shard in this process, one store on this disk. A record step and ``ParquetFiles`` make every block once; then both
make every block again, because a record of each has failed: a redrive. The time between two commits is what a block
costs: the median over the last tenth of the large shard is compared with that over all of a shard with a tenth of the
blocks, which is measured just before. So are the claims before a redrive, and on-complete. Run: make bench-blocks
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa

from batch_provider import BatchJob, JobSpec, ParquetFiles
from batch_provider.storage.blobs.local import LocalBlobs
from batch_provider.testing import LocalRun

STEPS = ("check", "store")


class TimedBlobs(LocalBlobs):
    """A store that notes when each checkpoint was committed."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.commits: list[float] = []

    def put(self, name: str, data: pa.Buffer | bytes, *, durable: bool = False) -> None:
        """Write, and note the time."""
        super().put(name, data, durable=durable)
        if "/steps/" in name:
            self.commits.append(time.perf_counter())


@dataclass
class Shard:
    """A shard of so many blocks: the seconds of every block by phase, those before the first one, and of on-complete.

    Attributes:
        blocks: phase → seconds of every block but the first.
        claims: phase → seconds before the first block's commit.
        complete: seconds of on-complete, after all phases.
    """

    blocks: dict[str, list[float]] = field(default_factory=dict)
    claims: dict[str, float] = field(default_factory=dict)
    complete: float = 0.0


def job_of(folder: Path, size: int, failing: Callable[[int], bool]) -> JobSpec:
    """A record step that fails one record of every block while ``failing`` says so, and a writer of parts."""
    job = BatchJob("blocks", block_size=size, shards=1, max_failed_records=-1)

    @job.step
    def check(record: dict[str, Any]) -> dict[str, Any]:
        if failing(record["n"]):
            raise ValueError("not yet")
        return {"twice": record["n"] * 2}

    job.write("store", ParquetFiles(folder), size=size - 1)
    return job.spec


def measure(count: int, size: int) -> Shard:
    """Every phase over ``count`` blocks of ``size`` records."""
    found, is_first = Shard(), [True]
    with tempfile.TemporaryDirectory() as root:
        blobs = TimedBlobs(Path(root, "store"))
        job = job_of(Path(root, "parts"), size, lambda n: is_first[0] and n % size == 0)
        run = LocalRun(job, store=blobs)
        run.load(pa.table({"n": pa.array(range(count * size), pa.int64())}))
        for round_name in ("first", "again"):
            for step in STEPS:
                blobs.commits.clear()
                began = time.perf_counter()
                run.process(job.step(step), "01")
                times = blobs.commits
                found.claims[f"{step}, {round_name}"] = times[0] - began
                found.blocks[f"{step}, {round_name}"] = [b - a for a, b in pairwise(times)]
            is_first[0] = False
            run.next_round()
        began = time.perf_counter()
        run.complete()
        found.complete = time.perf_counter() - began
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=10, help="records in a block")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    few, many = measure(options.blocks // 10, options.size), measure(options.blocks, options.size)
    tenth = options.blocks // 10
    print(f"{options.blocks:,} blocks of {options.size} records in one shard")
    print(f"\n| ms a block | one of {tenth:,} | one of {options.blocks:,} | ratio |\n|---|--:|--:|--:|")
    for phase, seconds in many.blocks.items():
        _row(phase, median(few.blocks[phase]), median(seconds[-tenth:]))
    for phase in few.claims:
        if "again" in phase:
            _row(f"{phase}: the claim", few.claims[phase] / tenth, many.claims[phase] / options.blocks)
    _row("on-complete", few.complete / tenth, many.complete / options.blocks)


def _row(name: str, small: float, large: float) -> None:
    print(f"| {name} | {small * 1e3:.2f} | {large * 1e3:.2f} | {large / small:.2f} |")


if __name__ == "__main__":
    main()

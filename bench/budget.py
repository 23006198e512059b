"""Where the time of a record goes: this project in one process under py-spy, each sample put down to one purpose.

The shares come from the samples, the microseconds from a run of the same without a profiler. A sample counts for
the innermost function that has a purpose in the table below, so that the Parquet writer of the author's own store
function is the author's, and that of a checkpoint is the checkpoint's. Writes the tables between the markers of
docs/performance.md with `--write`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from bench.catalogue import ENTRIES, NotInstallableError
from bench.environments import BENCH, clean_environment, python_of
from bench.measure import wait_until_quiet
from bench.orders.generate import customers_file, orders_file
from bench.report import put_between

REPOSITORY = Path.cwd()
PAGE = BENCH.parent / "docs" / "performance.md"
RATE = 250

PURPOSES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("load the input", ("engine/load/load.py",)),
    ("on-complete: ledger, report, dead letters", ("engine/complete/complete.py",)),
    ("author: validate", ("functions.py:validate",)),
    ("author: enrich", ("functions.py:make_enrich", "functions.py:enrich", "job.py:_record_steps", "vectorised.py:")),
    ("author: store, its Parquet files", ("job.py:_load_group", "job.py:_load_block", "job.py:_write", "job.py:load")),
    ("customers into a dict, once", ("functions.py:load_customers",)),
    ("durability: sync", ("blobs.py:LocalBlobs.sync",)),
    ("the writer of files", ("parquet_files.py:",)),
    ("reading: bytes and digest", ("checkpoints.py:open_checkpoint",)),
    ("reading: decoding and joining", ("storage/reading/chain.py:",)),
    ("writing: encoding, digest, file", ("work.py:HeldClaim.checkpoint", "work.py:SharedFile")),
    ("which records are accepted", ("engine/steps/accept.py:Acceptance",)),
    ("Arrow to dicts", ("Block.record_slices", "Block.records", "rows.py:to_python")),
    ("checking what was returned", ("PatchWriter.check", "patches.py:_problem")),
    ("patches to columns", ("engine/columns/patches.py:",)),
    ("status, errors, outcomes", ("engine/process/commit.py:",)),
    ("calling and timing", ("engine/calls/invoke.py:",)),
    ("SQL and Arrow steps", ("engine/steps/vector.py:", "engine/expressions/evaluate.py:")),
)
AROUND: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "the step around all this",
        ("engine/steps/record.py:", "engine/steps/aggregate.py:", "engine/steps/write.py:", "engine/fused"),
    ),
    ("the block loop, progress, limits", ("engine/process/process.py:", "testing/local.py:")),
)
"""For what none of the purposes above takes."""
START = "starting: imports, declaring the job"
"""What has no other purpose."""
WHOLE_PHASES = ("engine/load/load.py", "engine/complete/complete.py")


@dataclass(frozen=True)
class Budget:
    """The account of one run."""

    key: str
    title: str
    records: int
    seconds: float
    shares: dict[str, float]
    hottest: list[tuple[str, float]]

    def table(self) -> str:
        """As Markdown."""
        whole = self.seconds / self.records * 1e6
        lines = [
            f"### {self.title} (variant {self.key[-1]})",
            "",
            f"{self.records:,} records in one process: {self.seconds:.2f} s, {whole:.1f} µs a record.",
            "",
            "| purpose | µs a record | share |",
            "|---|--:|--:|",
        ]
        for purpose, share in sorted(self.shares.items(), key=lambda item: -item[1]):
            lines.append(f"| {purpose} | {share * whole:.2f} | {share:.1%} |")
        lines += [
            "",
            "The functions that most samples ended in:",
            "",
            "| function | µs a record | share |",
            "|---|--:|--:|",
        ]
        lines += [f"| `{name}` | {share * whole:.2f} | {share:.1%} |" for name, share in self.hottest]
        return "\n".join(lines)


def purpose_of(frames: list[str]) -> str:
    """What a stack, from the outermost frame in, was there for."""
    for part in WHOLE_PHASES:  # a phase is one purpose, whatever it calls
        if any(part in frame for frame in frames):
            return next(purpose for purpose, parts in PURPOSES if part in parts)
    for purposes in (PURPOSES, AROUND):
        for frame in reversed(frames):
            for purpose, parts in purposes:
                if any(part in frame for part in parts):
                    return purpose
    return START


def _frame(text: str) -> str:
    """``name (path:line)`` as ``path:name``."""
    name, _, place = text.strip().rpartition(" (")
    path = place.rstrip(")").rpartition(":")[0]
    for root in ("batch_provider/", "bench/", "site-packages/"):
        _, found, rest = path.partition(root)
        if found:
            path = rest if root == "site-packages/" else found + rest
            break
    return f"{path}:{name}".replace("batch_provider/", "")


def account(raw: str) -> tuple[dict[str, float], list[tuple[str, float]]]:
    """Shares by purpose and by innermost function, of py-spy's raw format."""
    purposes: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [_frame(frame) for frame in stack.split(";")]
        if not any("ours.py:main" in frame or "ours.py:<module>" in frame for frame in frames):
            continue  # another thread
        purposes[purpose_of(frames)] += int(count)
        functions[frames[-1]] += int(count)
    total = purposes.total() or 1
    hottest = [(name, count / total) for name, count in functions.most_common(12)]
    return {name: count / total for name, count in purposes.items()}, hottest


def measure(key: str, records: int, raw: Path | None) -> Budget:
    """Run once without the profiler and once with it."""
    entry = next(entry for entry in ENTRIES if entry.key == key)
    entry.python()
    spy = Path(python_of("py-spy")).with_name("py-spy")
    out = BENCH / "work" / "budget"
    command = [sys.executable, "-m", entry.module, "--orders", str(orders_file(records))]
    command += ["--customers", str(customers_file()), "--out", str(out), *entry.arguments, "--workers", "1"]
    env = clean_environment() | {"PYTHONPATH": str(REPOSITORY)}
    wait_until_quiet(30, 0.15)
    seconds = min(_run(command, out, env) for _ in range(2))
    samples = BENCH / "work" / "samples.txt"
    profiler = [str(spy), "record", "--rate", str(RATE), "--format", "raw", "--output", str(samples), "--"]
    _run([*profiler, *command], out, env)
    text = samples.read_text()
    samples.unlink()
    if raw:
        raw.write_text(text)
    shares, hottest = account(text)
    return Budget(key, entry.title, records, seconds, shares, hottest)


def _run(command: list[str], out: Path, env: dict[str, str]) -> float:
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(exist_ok=True)
    subprocess.run(command, cwd=REPOSITORY, env=env, check=True, capture_output=True)
    seconds = float(json.loads((out / "summary.json").read_text())["whole"])
    shutil.rmtree(out)
    return seconds


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("keys", nargs="*", default=["ours-step-P", "ours-fused-P", "ours-step-V"])
    parser.add_argument("--records", type=int, default=300_000)
    parser.add_argument("--raw", type=Path, help="keep the samples of the last key here")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    options = parser.parse_args()
    tables: list[str] = []
    for key in options.keys:
        try:
            tables.append(measure(key, options.records, options.raw).table())
        except NotInstallableError as error:
            print(f"{key}: skipped: {error}")
            continue
        print(tables[-1], "\n", flush=True)
    if options.write:
        put_between(PAGE, "budget", "\n\n".join(tables))


if __name__ == "__main__":
    main()

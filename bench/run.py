"""Measure the workload `orders`: interleaved rounds, every run verified, ratios within the round.

In each round every system runs once, in an order that differs from round to round, so that a slow minute of the
machine does not fall on the same one. Results are added to `bench/results/runs.jsonl`; `bench.report` makes the
tables of them. `make bench`, `make bench-quick`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

import duckdb

from bench.catalogue import BASELINE, BASELINE_V, ENTRIES, Entry, NotInstallableError
from bench.environments import BENCH, clean_environment
from bench.measure import Measured, measure, size_of, wait_until_quiet
from bench.orders.generate import customers_file, orders_file
from bench.orders.ledger import verify_ledger
from bench.orders.reference import verify
from bench.results import Row, cells, keep

REPOSITORY = Path.cwd()
"""What is measured: a copy of another revision, with `bench` as a link in it, can be measured from its own folder."""


def run_entry(entry: Entry, python: str, records: int, *, status: bool, limit: float) -> Row:
    """One run, verified."""
    out = BENCH / "work" / f"{entry.key}-{records}-{os.getpid()}"
    shutil.rmtree(out, ignore_errors=True)
    command = [python, "-m", entry.module, "--orders", str(orders_file(records))]
    command += ["--customers", str(customers_file()), "--out", str(out), *entry.arguments]
    if not status:
        command += ["--status", "off"]
    env = clean_environment() | {"PYTHONPATH": str(REPOSITORY)}
    try:
        measured = measure(command, out=out, cwd=REPOSITORY, env=env, limit=limit)
        return _row(entry, records, measured, out, status=status)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _row(entry: Entry, records: int, measured: Measured, out: Path, *, status: bool) -> Row:
    row: Row = {"key": entry.key, "records": records, "status": status, **asdict(measured)}
    if measured.code != 0:
        reason = "took too long" if measured.code is None else f"ended with code {measured.code}"
        return {**row, "wrong": [reason]}
    try:
        wrong = verify(out, records, with_status=status and not entry.is_ours)
        if entry.is_ours:
            wrong += verify_ledger(out / "store", records)
    except duckdb.Error as error:
        wrong = [f"its output cannot be read: {error}"[:400]]
    kept = out / ("store" if entry.is_ours else "work")
    summary = json.loads((out / "summary.json").read_text())
    return {**row, "wrong": wrong, "disk": size_of(kept), "target": size_of(out / "target"), "summary": summary}


def _ready(entries: list[Entry]) -> dict[str, str]:
    """Key → interpreter of those that can run; says why the others cannot."""
    found: dict[str, str] = {}
    for entry in entries:
        try:
            found[entry.key] = entry.python()
        except NotInstallableError as error:
            print(f"{entry.key}: skipped: {error}", flush=True)
            keep("runs", {"key": entry.key, "skipped": str(error), "at": round(time.time())})
    return found


def measure_all(options: argparse.Namespace) -> list[Row]:
    """All rounds."""
    entries = [entry for entry in ENTRIES if _is_wanted(entry, options)]
    pythons = _ready(entries)
    jobs = [
        (records, entry)
        for records in options.records
        for entry in entries
        if entry.key in pythons and records <= entry.largest
    ]
    for records in options.records:
        orders_file(records)
    rows: list[Row] = []
    given_up: set[tuple[int, str]] = set()
    session = round(time.time())
    for number in range(options.rounds):
        random.Random(number).shuffle(jobs)  # noqa: S311  # an order that can be repeated
        jobs.sort(key=lambda job: job[0])
        for records, entry in jobs:
            if (records, entry.key) in given_up:
                continue
            share = wait_until_quiet(options.wait, options.quiet)
            row = run_entry(entry, pythons[entry.key], records, status=not options.no_status, limit=options.limit)
            row |= {"session": session, "round": number, "before": share, "at": round(time.time())}
            keep("runs", row)
            rows.append(row)
            _show(row)
            if row["wrong"]:
                given_up.add((records, entry.key))
    return rows


def _is_wanted(entry: Entry, options: argparse.Namespace) -> bool:
    if options.no_status and entry.is_ours:
        return False  # the status of a record cannot be switched off; bench.status_price says what it costs
    if options.quick and "quick" not in entry.tags:
        return False
    return re.search(options.only, entry.key) is not None


def _show(row: Row) -> None:
    what = f"{row['key']:22} {row['records']:>10,}"
    if row["wrong"]:
        print(f"{what}  WRONG: {'; '.join(row['wrong'])[:400]} {row['error'][-600:]}", flush=True)
        return
    first = "-" if row["first"] is None else f"{row['first']:.1f}"
    print(
        f"{what} {row['wall']:8.2f} s {row['records'] / row['wall']:>10,.0f}/s  cpu {row['cpu']:7.1f} s  "
        f"memory {row['tree'] / 1e6:6,.0f} MB, "
        f"one process {row['worker'] / 1e6:6,.0f}  disk {row['disk'] / 1e6:6,.0f} MB  first {first:>5} s  "
        f"others {row['others']:.0%}",
        flush=True,
    )


def summarise(rows: list[Row]) -> None:
    """Medians, and ratios against the baselines."""
    print(f"\n{'median':22} {'records':>10} {'seconds':>8} {'records/s':>10}  ratio to {BASELINE} or {BASELINE_V}")
    for (key, records), cell in sorted(cells(rows, status=rows[0]["status"]).items()):
        ratio = "-" if cell.ratio is None else f"{cell.ratio:.2f}"
        print(
            f"{key:22} {records:>10,} {cell.wall:8.2f} {cell.rate:>10,.0f}  {ratio:>5}  "
            f"{len(cell.rows)} of {cell.runs} runs"
        )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="a regular expression over keys, such as 'ours|multiproc'")
    parser.add_argument("--quick", action="store_true", help="this project, multiprocessing and DuckDB")
    parser.add_argument("--no-status", action="store_true", help="the peers without a status row for each record")
    parser.add_argument("--limit", type=float, default=480, help="seconds a run may take")
    parser.add_argument("--wait", type=float, default=20, help="seconds to wait for other work to end, before each run")
    parser.add_argument("--quiet", type=float, default=0.15, help="the share of the machine that other work may use")
    parser.add_argument("--list", action="store_true", help="show the keys")
    options = parser.parse_args()
    if options.list:
        for entry in ENTRIES:
            print(f"{entry.key:22} {entry.title}")
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception, so that everything is ended
    rows = measure_all(options)
    if rows:
        summarise(rows)
    sys.exit(any(row["wrong"] for row in rows))


if __name__ == "__main__":
    main()

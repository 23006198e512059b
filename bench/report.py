"""Write what was measured into docs/benchmarks.md: tables between its markers, and the plots as SVG."""

from __future__ import annotations

import argparse
import re
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from bench.catalogue import BASELINE, BASELINE_V, ENTRIES
from bench.environments import BENCH, REQUIREMENTS
from bench.orders.generate import csv_bytes
from bench.plot import Bar, Line, bars, lines
from bench.results import Cell, Row, cells, latest, read

DOCS = BENCH.parent / "docs"
PAGE = DOCS / "benchmarks.md"
TITLES = {entry.key: entry.title for entry in ENTRIES}
SIZES = (100, 100_000, 1_000_000, 10_000_000)
MILLION = 1_000_000

Cells = dict[tuple[str, int], Cell]


def put_between(page: Path, name: str, text: str) -> None:
    """Replace what stands between the markers of that name."""
    begin, end = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    found, count = pattern.subn(lambda _: f"{begin}\n\n{text}\n\n{end}", page.read_text())
    if count != 1:
        raise SystemExit(f"{page.name} has {count} places for {name!r}")
    page.write_text(found)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    lines_ = [f"| {' | '.join(head)} |", f"|---|{'--:|' * (len(head) - 1)}"]
    return "\n".join([*lines_, *(f"| {' | '.join(row)} |" for row in rows)])


def systems(found: Cells, variant: str, records: int) -> list[Cell]:
    """Of one variant, fastest first."""
    chosen = [cell for (key, n), cell in found.items() if n == records and key.endswith(f"-{variant}")]
    return sorted(chosen, key=lambda cell: cell.wall)


def comparison(found: Cells, variant: str, records: int) -> str:
    """Every system with one number of records."""
    head = ["", "seconds (min to max)", "records/s", "ratio", "CPU s", "memory MB", "largest process MB", "disk MB"]
    head += ["first checkpoint s", "runs that count"]
    rows: list[list[str]] = []
    for cell in systems(found, variant, records):
        name = f"**{TITLES[cell.key]}**" if cell.key.startswith("ours") else TITLES[cell.key]
        rows.append(
            [
                name,
                f"{cell.wall:.2f} ({cell.spread})",
                f"{cell.rate:,.0f}",
                "–" if cell.ratio is None else f"{cell.ratio:.2f}",
                f"{cell.median('cpu'):.1f}",
                f"{cell.largest('tree') / 1e6:,.0f}",
                f"{cell.largest('worker') / 1e6:,.0f}",
                f"{cell.largest('disk') / 1e6:,.0f}",
                f"{cell.median('first'):.1f}",
                f"{len(cell.rows)} of {cell.runs}{' ~' if cell.is_disturbed else ''}",
            ]
        )
    return table(head, rows) if rows else "Not measured yet."


def scaling(found: Cells) -> str:
    """Microseconds a record against the number of records."""
    rows: list[list[str]] = []
    for entry in ENTRIES:
        cells_ = [found.get((entry.key, size)) for size in SIZES]
        if sum(cell is not None for cell in cells_) < 3:
            continue
        row = [f"{TITLES[entry.key]} ({entry.variant})"]
        for cell in cells_:
            if cell is None:
                row.append("–")
            elif cell.records == SIZES[0]:
                row.append(f"{cell.wall:.2f} s")
            else:
                row.append(f"{cell.wall:.2f} s, {cell.wall / cell.records * 1e6:.2f} µs")
        rows.append(row)
    return table(["", *(f"{size:,} records" for size in SIZES)], rows) if rows else "Not measured yet."


def status_price(rows: list[Row]) -> str:
    """What a status row for each record costs."""
    with_, without = cells(rows), cells(rows, status=False)
    lines_: list[list[str]] = []
    for place, cell in sorted(without.items(), key=lambda item: item[1].key):
        if place in with_:
            ratio = with_[place].wall / cell.wall - 1
            seconds = f"{with_[place].wall:.2f}", f"{cell.wall:.2f}"
            lines_.append([f"{TITLES[cell.key]} ({cell.key[-1]})", f"{cell.records:,}", *seconds, f"{ratio:+.0%}"])
    for variant, form in (("P", "step"), ("P", "fused"), ("V", "step"), ("V", "fused")):
        row = latest("price", lambda row, v=variant, f=form: (row["variant"], row["form"]) == (v, f))  # type: ignore[misc]
        if row:
            name = f"this project, {'per step' if form == 'step' else form} ({variant}), one process"
            rest = row["seconds"] - row["columns"]
            share = f"+{row['columns'] / rest:.1%}"
            lines_.append([name, f"{row['records']:,}", f"{row['seconds']:.2f}", f"{rest:.2f}", share])
    head = ["", "records", "with, seconds", "without, seconds", "price"]
    return table(head, lines_) if lines_ else "Not measured yet."


def airflow() -> str:
    """Whole DAG runs."""
    rows = [
        [row["title"], f"{row['records']:,}", f"{row['seconds']:.1f}", f"{row['records'] / row['seconds']:,.0f}"]
        for key in ("orders_step", "orders_fused", "orders_mapped")
        if (row := latest("airflow", lambda row, k=key: row["dag"] == k and not row["wrong"]))  # type: ignore[misc]
    ]
    return table(["", "records", "seconds", "records/s"], rows) if rows else "Not measured yet."


def own_cost(found: Cells, key: str, records: int) -> float | None:
    """What this project takes beyond the author's functions, over what those take alone.

    Everything else counts: starting, load, checkpoints, the built-in writer that takes the place of their ``store``,
    on-complete.
    """
    alone = latest("alone", lambda row: row["records"] == records)
    cell = found.get((key, records))
    if alone is None or cell is None:
        return None
    seconds = sorted(row["summary"]["seconds"] for row in cell.rows)[len(cell.rows) // 2]
    return float(seconds / sum(alone[name] for name in ("validate", "accept", "enrich")) - 1)


def between(found: Cells, key: str, other: str, records: int) -> float | None:
    """Wall time of one system over that of another, each by its ratio to the baseline of its own rounds."""
    first, second = found.get((key, records)), found.get((other, records))
    if first is None or second is None or first.ratio is None or second.ratio is None:
        return None
    return first.ratio / second.ratio


def targets(found: Cells) -> str:
    """What was aimed at, and what there is."""
    rows: list[list[str]] = []

    def add(what: str, value: float | None, limit: float, *, least: bool = False, unit: str = "x") -> None:
        met = "–" if value is None else "yes" if (value >= limit if least else value <= limit) else "**no**"
        shown = "not measured" if value is None else f"{value:.2f}{unit}"
        rows.append([what, f"{'≥' if least else '≤'} {limit:g}{unit}", shown, met])

    def ratio(key: str, records: int) -> float | None:
        cell = found.get((key, records))
        return cell.ratio if cell else None

    add("P, 1M, fused, against the multiprocessing script", ratio("ours-fused-P", MILLION), 0.75)
    add("P, 1M, per step, against the multiprocessing script", ratio("ours-step-P", MILLION), 1.0)
    for peer, least in (("polars", 2.3), ("dask", 2.0), ("dagster", 3.0), ("ray", 5.0), ("pyspark", 6.0)):
        best = min(
            ("ours-fused-P", "ours-step-P"), key=lambda k: found[k, MILLION].wall if (k, MILLION) in found else 1e9
        )
        add(f"P, 1M, faster than {TITLES[f'{peer}-P']}", between(found, f"{peer}-P", best, MILLION), least, least=True)
    add("own cost over the author's functions, P, fused", own_cost(found, "ours-fused-1-P", MILLION), 0.5)
    add("own cost over the author's functions, P, per step", own_cost(found, "ours-step-1-P", MILLION), 1.0)
    for size in (MILLION, 10 * MILLION):
        add(f"V, {size:,}, fused, copy=False, against DuckDB", ratio("ours-fused-nocopy-V", size), 1.3)
        add(f"V, {size:,}, per step, against DuckDB", ratio("ours-step-V", size), 2.0)
        fused = between(found, "ours-fused-nocopy-V", "polars-V", size)
        add(f"V, {size:,}, fused, copy=False, against Polars", fused, 2.5)
    for peer, least in (("ray", 2.5), ("pyspark", 4.0)):
        faster = between(found, f"{peer}-V", "ours-step-V", MILLION)
        add(f"V, 1M, per step, faster than {TITLES[f'{peer}-V']}", faster, least, least=True)
    for key in ("ours-fused-P", "ours-step-P", "ours-fused-nocopy-V", "ours-step-V"):
        cell = found.get((key, MILLION))
        add(
            f"memory of the largest process, {TITLES[key]}, {key[-1]}",
            cell.largest("worker") / 1e6 if cell else None,
            400,
            unit=" MB",
        )
        disk = cell.largest("disk") / csv_bytes(MILLION) if cell else None
        add(f"store on disk over the input as CSV, {TITLES[key]}, {key[-1]}", disk, 0.8)
    for variant, limit in (("P", 3), ("V", 10)):
        price = latest("price", lambda row, v=variant: row["variant"] == v)  # type: ignore[misc]
        share = price["columns"] / price["seconds"] * 100 if price else None
        add(f"status of every record, {variant}", share, limit, unit=" %")
    small = found.get(("ours-step-1-P", 100))
    add("100 records, the whole process", small.wall if small else None, 1.5, unit=" s")
    dag, engine = latest("airflow", lambda row: row["dag"] == "orders_fused"), found.get(("ours-fused-P", MILLION))
    extra = dag["seconds"] - engine.wall if dag and engine and dag["records"] == MILLION else None
    add("DAG under LocalExecutor, fused, beyond the engine, P, 1M", extra, 20, unit=" s")
    for key in ("ours-fused-P", "ours-step-P", "ours-step-V"):
        big, one = found.get((key, 10 * MILLION)), found.get((key, MILLION))
        grown = big.wall / one.wall / 10 if big and one else None
        add(f"a record in 10M over one in 1M, {TITLES[key]} ({key[-1]})", grown, 1.15)
    return table(["", "target", "measured", "met"], rows)


def conditions(rows: list[Row]) -> str:
    """Under which the latest runs were made."""
    good = [row for row in rows if "wall" in row]
    if not good:
        return "Nothing was measured yet."
    used = [row for cell in cells(good).values() for row in cell.rows]
    others = sorted(row["others"] for row in used)
    first, last = (time.strftime("%Y-%m-%d", time.gmtime(pick(row["at"] for row in used))) for pick in (min, max))
    memory = psutil.virtual_memory().total / 2**30
    versions = sorted(
        {
            line.strip()
            for path in REQUIREMENTS.glob("*.txt")
            for line in path.read_text().splitlines()
            if "==" in line and "py-spy" not in line
        }
    )
    skipped = {row["key"]: row["skipped"] for row in rows if "skipped" in row}
    skipped = {key: why for key, why in skipped.items() if not any(row["key"] == key for row in used)}
    days = first if first == last else f"{first} to {last}"
    quiet = (
        f"{psutil.cpu_count()} cores, {memory:.0f} GiB of memory; {days}. {len(used)} runs, each verified. Other work "
        f"used {others[len(others) // 2]:.0%} of the machine during the median run and {others[-1]:.0%} during the "
        "worst: where that is much, the seconds are worth little and the ratios, made within a round, somewhat more."
    )
    text = [quiet, "", f"Versions: {', '.join(versions)}."]
    if skipped:
        text += [
            "",
            "Not available, so not measured: " + "; ".join(f"`{k}`: {why}" for k, why in skipped.items()) + ".",
        ]
    return "\n".join(textwrap.fill(line, 118, break_on_hyphens=False) for line in text)


def plots(found: Cells) -> None:
    """Records a second of all systems, and seconds against the number of records."""
    panels = []
    for variant, what in (("P", "a Python function for each record"), ("V", "vectorised")):
        shown = [
            Bar(TITLES[cell.key], cell.rate, ours=cell.key.startswith("ours"))
            for cell in systems(found, variant, MILLION)
        ]
        panels.append((f"{variant}: {what}, 1,000,000 records", shown))
    (DOCS / "benchmarks.svg").write_text(bars("thousand records a second", panels))
    drawn = [
        Line(f"{TITLES[key]} ({key[-1]})", [(n, found[key, n].wall) for n in SIZES if (key, n) in found])
        for key in ("ours-step-P", "ours-fused-P", "ours-step-V", "ours-fused-nocopy-V", BASELINE, BASELINE_V)
    ]
    (DOCS / "benchmarks-scaling.svg").write_text(lines("seconds", "records", [line for line in drawn if line.points]))


def main() -> None:
    """Command line."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    rows = read("runs")
    found = cells(rows)
    put_between(PAGE, "conditions", conditions(rows))
    put_between(PAGE, "targets", targets(found))
    for variant in ("P", "V"):
        for name, size in (("100k", 100_000), ("1m", MILLION), ("10m", 10 * MILLION)):
            put_between(PAGE, f"{variant}-{name}", comparison(found, variant, size))
    put_between(PAGE, "scaling", scaling(found))
    put_between(PAGE, "status", status_price(rows))
    put_between(PAGE, "airflow", airflow())
    plots(found)
    print(f"{PAGE.name} and its plots are written.")


if __name__ == "__main__":
    main()

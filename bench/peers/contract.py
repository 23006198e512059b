"""What every peer shares: its arguments, and how it writes what it made.

A peer is ``python -m bench.peers.<module>`` with the arguments below. It leaves the loaded rows as Parquet files in
``OUT/target``, a row for the status of each record in ``OUT/status`` (record_id, step, status, error) unless it is
run with ``--status off``, and ``OUT/summary.json``. What it needs meanwhile goes to ``OUT/work``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.orders.functions import (
    OUTPUT_COLUMNS,
    STATUS_COLUMNS,
    Record,
    arrow_schema,
    load_customers,
    make_enrich,
    run_record,
)
from bench.orders.made import Counts, Made

BLOCK = 10_000


@dataclass(frozen=True)
class Run:
    """The arguments of one run."""

    orders: str
    customers: str
    out: Path
    variant: str
    status: bool
    workers: int
    began: float

    @property
    def target(self) -> Path:
        """For loaded rows."""
        return self.out / "target"

    @property
    def statuses(self) -> Path:
        """For status rows."""
        return self.out / "status"

    @property
    def work(self) -> Path:
        """For whatever is needed meanwhile."""
        return self.out / "work"

    def finish(self, counts: Mapping[str, int], **more: Any) -> None:
        """Write the summary."""
        seconds = round(time.time() - self.began, 3)
        summary = {"counts": dict(counts), "seconds": seconds, **more}
        (self.out / "summary.json").write_text(json.dumps(summary))


def parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments that every run takes."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--orders", required=True, help="the input, a Parquet file")
    made.add_argument("--customers", required=True, help="the dimension, a Parquet file")
    made.add_argument("--out", required=True, type=Path, help="a new folder")
    made.add_argument("--variant", choices=("P", "V"), default="P", help="functions for each record, or vectorised")
    made.add_argument("--status", choices=("on", "off"), default="on", help="write a status row for each record")
    made.add_argument("--workers", type=int, default=2)
    return made


def start(options: argparse.Namespace) -> Run:
    """Make the folders."""
    run = Run(
        options.orders,
        options.customers,
        options.out.absolute(),
        options.variant,
        options.status == "on",
        options.workers,
        time.time(),
    )
    for folder in (run.target, run.statuses, run.work):
        folder.mkdir(parents=True, exist_ok=True)
    return run


def blocks(run: Run) -> Iterator[Any]:
    """The input in record batches."""
    import pyarrow.parquet as pq

    yield from pq.ParquetFile(run.orders).iter_batches(batch_size=BLOCK)


def by_record(batch: Any, enrich: Any, *, status: bool) -> Made:
    """The loop over the records of a block that a programmer writes first."""
    import pyarrow as pa

    good: list[Record] = []
    fates: list[Record] = []
    counts: Counts = Counter()
    for record in batch.to_pylist():
        number = record["order_id"]
        enriched, (step, outcome, error) = run_record(record, enrich)
        if enriched is not None:
            good.append(enriched)
        if status:
            fates.append({"record_id": number, "step": step, "status": outcome, "error": error})
        counts[f"{step}/{outcome}"] += 1
    return Made(
        pa.Table.from_pylist(good, schema=arrow_schema(OUTPUT_COLUMNS)),
        pa.Table.from_pylist(fates, schema=arrow_schema(STATUS_COLUMNS)) if status else None,
        counts,
    )


class Worker:
    """Processes blocks in one process, and writes what it makes to files of its own."""

    def __init__(self, run: Run) -> None:
        from bench.orders.vectorised import Vectorised

        self._run = run
        self._enrich = make_enrich(load_customers(run.customers)) if run.variant == "P" else None
        self._vectorised = Vectorised(run.customers) if run.variant == "V" else None
        self._number = 0

    def process(self, batch: Any) -> Counts:
        """One block: both steps, then the target and the status rows."""
        import pyarrow.parquet as pq

        made: Made
        if self._vectorised is not None:
            made = self._vectorised.process(batch, status=self._run.status)
        else:
            made = by_record(batch, self._enrich, status=self._run.status)
        name = f"{os.getpid()}-{self._number:05}.parquet"
        self._number += 1
        pq.write_table(made.good, self._run.target / name)
        if made.status is not None:
            pq.write_table(made.status, self._run.statuses / name)
        return made.counts


_WORKERS: dict[Path, Worker] = {}


def worker(run: Run) -> Worker:
    """The worker of this process, made when it is first needed."""
    if run.out not in _WORKERS:
        _WORKERS[run.out] = Worker(run)
    return _WORKERS[run.out]


def split(run: Run) -> list[str]:
    """The input as one file for each block, for systems that map tasks over values."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names: list[str] = []
    for number, batch in enumerate(blocks(run)):
        path = run.work / f"block-{number:05}.parquet"
        pq.write_table(pa.Table.from_batches([batch]), path)
        names.append(str(path))
    return names


def process_file(run: Run, name: str) -> Counts:
    """One mapped task of such a system."""
    import pyarrow.parquet as pq

    (batch,) = pq.ParquetFile(name).read().combine_chunks().to_batches()
    return worker(run).process(batch)


def total(parts: Iterator[Mapping[str, int]] | list[Any]) -> Counts:
    """The sum of several counts."""
    found: Counts = Counter()
    for part in parts:
        found.update(part)
    return found


COMBINED_COLUMNS = (*OUTPUT_COLUMNS, *STATUS_COLUMNS)


def combined_record(record: Record, enrich: Any) -> Record:
    """Loaded columns and status columns in one record, for systems whose functions return one row."""
    number = record["order_id"]
    enriched, (step, outcome, error) = run_record(record, enrich)
    row = {name: enriched[name] for name in OUTPUT_COLUMNS} if enriched is not None else dict.fromkeys(OUTPUT_COLUMNS)
    row.update(record_id=number, step=step, status=outcome, error=error)
    return row

"""The script that one writes by hand: a pool of processes over blocks of the input."""

from __future__ import annotations

import multiprocessing
from typing import Any

import pyarrow.compute
import pyarrow.parquet  # noqa: F401  # before the fork, as one would

from bench.orders.made import Counts
from bench.peers.contract import Run, blocks, parser, start, total, worker

RUN: list[Run] = []


def _begin(run: Run) -> None:
    RUN.append(run)
    worker(run)


def _process(batch: Any) -> Counts:
    return worker(RUN[0]).process(batch)


def main() -> None:
    """Run it."""
    run = start(parser(__doc__).parse_args())
    with multiprocessing.get_context("fork").Pool(run.workers, _begin, (run,)) as pool:
        counts = total(pool.imap_unordered(_process, blocks(run)))
        pool.close()
        pool.join()
    run.finish(counts)


if __name__ == "__main__":
    main()

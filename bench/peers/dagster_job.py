"""Dagster with its executor in one process: an op is mapped over the blocks of the input.

Its executor of many processes starts one for each block; measured before, it took 9 s for 100 records and 20 s for
100,000, so it is left out.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dagster import (
    DagsterInstance,
    DynamicOut,
    DynamicOutput,
    execute_job,
    in_process_executor,
    job,
    op,
    reconstructable,
)

from bench.peers.contract import Run, parser, process_file, split, start, total

RUNS: list[Run] = []


@op(out=DynamicOut(str))
def split_input() -> Iterator[Any]:
    """Blocks as files."""
    for name in split(RUNS[0]):
        yield DynamicOutput(name, mapping_key=Path(name).stem.replace("-", "_"))


@op
def process_block(name: str) -> dict[str, int]:
    """One block."""
    return dict(process_file(RUNS[0], name))


@op
def summary(counts: list[dict[str, int]]) -> None:
    """The sum over all blocks."""
    (RUNS[0].work / "counts.json").write_text(json.dumps(total(counts)))


@job(executor_def=in_process_executor)
def orders() -> None:
    """All of it."""
    summary(split_input().map(process_block).collect())


def main() -> None:
    """Run it."""
    from bench.peers import dagster_job as this

    run = start(parser(__doc__).parse_args())
    home = run.work / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    os.environ["DAGSTER_HOME"] = str(home)
    logging.disable(logging.INFO)
    this.RUNS.append(run)
    config = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}
    result = execute_job(reconstructable(this.orders), instance=DagsterInstance.get(), run_config=config)
    if not result.success:
        raise SystemExit("the run failed")
    run.finish(json.loads((run.work / "counts.json").read_text()))


if __name__ == "__main__":
    main()

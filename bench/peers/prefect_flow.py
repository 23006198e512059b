"""Prefect with a server of its own for the run: the input is split into blocks, a task is mapped over them."""

from __future__ import annotations

import os

from bench.orders.made import Counts
from bench.peers.contract import Run, parser, process_file, split, start, total


def main() -> None:
    """Run it."""
    run = start(parser(__doc__).parse_args())
    os.environ.update(
        PREFECT_HOME=str(run.work / "prefect"),
        PREFECT_LOGGING_LEVEL="ERROR",
        PREFECT_SERVER_ANALYTICS_ENABLED="false",
        PREFECT_SERVER_ALLOW_EPHEMERAL_MODE="true",
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="120",
        DO_NOT_TRACK="1",
    )
    run.finish(flow(run))


def flow(run: Run) -> Counts:
    """Declare the flow, now that the environment is set, and run it."""
    import prefect
    from prefect.task_runners import ProcessPoolTaskRunner

    process_block = prefect.task(process_file)

    @prefect.flow(task_runner=ProcessPoolTaskRunner(max_workers=run.workers))
    def orders() -> Counts:
        names = prefect.task(split)(run)
        return total(process_block.map(prefect.unmapped(run), names).result())

    counts: Counts = orders()
    return counts


if __name__ == "__main__":
    main()

"""This project on the workload `orders`, without Airflow: load, all steps of all shards, on-complete.

One process, or one for each task, several at a time, as LocalExecutor would run them. The store is a folder,
synced as in production. The status of every record is what the checkpoints and the ledger hold: `bench.run` verifies it
there.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import json
import multiprocessing
import resource
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

# before the fork, as the script with multiprocessing does
import duckdb  # noqa: F401
import pyarrow.compute
import pyarrow.parquet  # noqa: F401

from batch_provider.domain.fused import CheckpointStep, checkpoint_steps
from batch_provider.sources.files import Files
from batch_provider.storage.blobs.local import LocalBlobs
from batch_provider.storage.instances.store import read_result
from batch_provider.testing import LocalRun
from bench.orders.job import Form, missing, orders_job


class Phases:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.began = self._at = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def end(self, name: str) -> None:
        """The phase of that name ends now, and the next one begins."""
        now = time.perf_counter()
        self.seconds[name] = round(now - self._at, 3)
        self._at = now


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run the job; returns what the summary says."""
    out = options.out.absolute()
    target = out / "target"
    target.mkdir(parents=True)
    form = Form(
        options.variant, options.form == "fused", options.store, options.reads, options.shards or options.workers
    )
    if lack := missing(form):
        raise SystemExit(f"not available in this version: {lack}")
    source = Files(options.orders, copy=options.copy)
    job = orders_job(form, options.customers, target, source)
    local = LocalRun(job.spec, store=LocalBlobs(out / "store"))
    phases = Phases()
    apart = in_a_process if options.workers > 1 else here
    apart(local.load)
    phases.end("load")
    shards = [shard.id for shard in local.generation.manifest.shards]
    if options.workers == 1:
        for shard in shards:
            process(local, shard)
    else:
        in_processes(local, shards, options.workers)
    phases.end("process")
    apart(local.complete)
    phases.end("complete")
    result = read_result(local.generation)
    return {
        "seconds": round(time.perf_counter() - phases.began, 3),
        "phases": phases.seconds,
        "state": str(result.state) if result else "",
        "steps": {step.name: round(step.seconds, 3) for step in result.steps} if result else {},
        "calls": {step.name: step.mean_call_seconds for step in result.steps} if result else {},
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def here(work: Callable[[], object]) -> None:
    """Do it in this process, where it can be profiled."""
    work()


def in_a_process(work: Callable[[], object]) -> None:
    """Do it in a process of its own, as a task of Airflow would: its memory is not the next one's."""
    started = _started(work)
    started.join()
    _check(started)


def process(local: LocalRun, shard: str) -> None:
    """All steps of one shard, one after the other."""
    for step in checkpoint_steps(local.job):
        local.process(step, shard)


def in_processes(local: LocalRun, shards: list[str], workers: int) -> None:
    """Each step of each shard in a forked process of its own, as many at a time as there are workers."""
    # what exists now is never garbage: without this the collector of each child copies all of it
    gc.freeze()
    waiting = deque((shard, deque(checkpoint_steps(local.job))) for shard in shards)
    running: dict[Any, tuple[ForkProcess, str, deque[CheckpointStep]]] = {}
    while waiting or running:
        while waiting and len(running) < workers:
            shard, steps = waiting.popleft()
            started = _started(partial(local.process, steps.popleft(), shard))
            running[started.sentinel] = started, shard, steps
        for sentinel in wait(list(running)):
            ended, shard, steps = running.pop(sentinel)
            ended.join()
            _check(ended)
            if steps:
                waiting.appendleft((shard, steps))
    gc.unfreeze()


def _started(work: Callable[[], object]) -> ForkProcess:
    started = multiprocessing.get_context("fork").Process(target=work)
    started.start()
    return started


def _check(ended: ForkProcess) -> None:
    if ended.exitcode:
        raise SystemExit(f"it failed: {ended.exitcode}")


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--orders", required=True, help="the input, a Parquet file")
    made.add_argument("--customers", required=True, help="the dimension, a Parquet file")
    made.add_argument("--out", required=True, type=Path, help="a new folder")
    made.add_argument("--variant", choices=("P", "V"), default="P", help="functions for each record, or vectorised")
    made.add_argument("--form", choices=("step", "fused"), default="step", help="a checkpoint per step, or one")
    made.add_argument("--workers", type=int, default=2, help="processes")
    made.add_argument("--shards", type=int, help="default: one for each process")
    made.add_argument("--store", choices=("writer", "function", "arrow"), default="writer", help="the last step")
    made.add_argument("--no-reads", dest="reads", action="store_false", help="P: no step says what it reads")
    made.add_argument("--no-copy", dest="copy", action="store_false", help="leave the input where it is")
    made.add_argument("--profile", type=Path, help="write a cProfile of the run here (use --workers 1)")
    return made


def main() -> None:
    """Run it, perhaps under the profiler."""
    began = time.time()
    options = parser().parse_args()
    if options.profile:
        with cProfile.Profile() as profile:
            summary = run(options)
        profile.dump_stats(options.profile)
    else:
        summary = run(options)
    summary["whole"] = round(time.time() - began, 3)
    (options.out / "summary.json").write_text(json.dumps(summary))
    print(json.dumps(summary))


if __name__ == "__main__":
    main()

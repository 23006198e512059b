"""How far the jobs of a DAG run are, read from the batch store while they run; Airflow is not asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from batch_provider.domain.errors import StorageError
from batch_provider.domain.instance import JobInstance
from batch_provider.engine.ports.clock import SystemClock
from batch_provider.storage import paths
from batch_provider.storage.blobs.local import LocalBlobs
from batch_provider.storage.claims.generation import Generation
from batch_provider.storage.instances.store import InstanceStore
from scripts.local_airflow.client import RunProgress

_LINE_SECONDS: Final = 3.0


def find_instances(storage_path: Path, dag_id: str, run_id: str) -> Iterator[InstanceStore]:
    """Find the job instances of a DAG run, those whose load has only begun included."""
    blobs = LocalBlobs(storage_path)
    for job in blobs.directories(f"{paths.ROOT}/{dag_id}"):
        for name in blobs.directories(f"{paths.ROOT}/{dag_id}/{job}"):
            loads = blobs.files(f"{paths.ROOT}/{dag_id}/{job}/{name}/load")
            if not loads:
                continue
            load = json.loads((storage_path / paths.ROOT / dag_id / job / name / "load" / loads[0]).read_bytes())
            instance = JobInstance(**load["instance"])
            if instance.run_id == run_id:
                yield InstanceStore(blobs, SystemClock(), instance)


class ProgressLines:
    """Prints a line about a run every few seconds: records and records/s of the steps that get on."""

    def __init__(self, storage_path: Path, write: Callable[[str], None]) -> None:
        self._storage_path, self._write = storage_path, write
        self._written_at = -_LINE_SECONDS
        self._jobs: dict[str, _JobProgress] = {}

    def __call__(self, progress: RunProgress) -> None:
        """Print the line, unless the last one is too young."""
        if progress.state in ("success", "failed") or progress.elapsed - self._written_at < _LINE_SECONDS:
            return
        self._written_at = progress.elapsed
        jobs = self._describe(progress)
        doing = " · ".join(jobs) if jobs else _tasks(progress)
        self._write(f"[{progress.elapsed:4.0f} s] {doing}")

    def _describe(self, progress: RunProgress) -> list[str]:
        """What there is to tell of each job that is at work."""
        described = []
        for store in find_instances(self._storage_path, progress.dag_id, progress.run_id):
            job = self._jobs.setdefault(store.instance.job, _JobProgress())
            if text := job.describe(store.latest(), progress.elapsed):
                described.append(f"{store.instance.job}: {text}")
        return described


@dataclass
class _JobProgress:
    """What the last line said of a job, so that the next one can tell what was done since then."""

    generation: str | None = None
    at: float = 0.0
    received: dict[str, int] = field(default_factory=dict)

    def describe(self, generation: Generation | None, now: float) -> str:
        """Name the steps that have got on since the last time; nothing, if none has."""
        if generation is None:
            return "loading"
        name, total = generation.manifest.generation, generation.manifest.total
        try:
            tallies = generation.progress()
        except (FileNotFoundError, StorageError):  # purged at this moment
            return ""
        received = {step: tally.received for step, tally in tallies.items()}
        before, seconds = self.received if name == self.generation else {}, now - self.at
        self.generation, self.received, self.at = name, received, now
        rates = {step: (count - before.get(step, 0)) / seconds for step, count in received.items()}
        steps = [f"{step} {received[step]:,} ({rate:,.0f}/s)" for step, rate in rates.items() if rate > 0]
        if not steps:
            return ""
        failed = generation.manifest.failed_on_input + sum(tally.newly_failed for tally in tallies.values())
        return f"{total:,} records, {', '.join(steps)}" + (f", {failed:,} failed" if failed else "")


def _tasks(progress: RunProgress) -> str:
    """For the time in which Airflow schedules, and for DAGs without a batch job."""
    counts = [f"{count} {state}" for state, count in sorted(progress.task_states.items()) if state != "none"]
    return f"tasks: {', '.join(counts) or 'none yet'}"

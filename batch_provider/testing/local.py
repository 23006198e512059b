"""A whole job in one process: no Airflow, no database."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import pyarrow as pa

from batch_provider.domain.errors import CheckpointMissingError, InvalidOptionError, StopProcessingError
from batch_provider.domain.fused import CheckpointStep, FusedStep, checkpoint_steps
from batch_provider.domain.instance import AttemptInfo, JobInstance
from batch_provider.domain.names import RESERVED_COLUMNS, default_instance_id
from batch_provider.domain.result import BatchJobResult
from batch_provider.domain.spec import JobSpec, StepSpec
from batch_provider.engine.calls.invoke import UserFunction
from batch_provider.engine.columns.joining import concat_by_name
from batch_provider.engine.columns.kept import kept_values
from batch_provider.engine.columns.rows import to_python
from batch_provider.engine.complete.complete import complete
from batch_provider.engine.load.load import load_instance
from batch_provider.engine.ports.clock import SystemClock
from batch_provider.engine.ports.store import Clock, Source, SourceAccess
from batch_provider.engine.process.ending import held_by_all
from batch_provider.engine.process.process import ShardTask, process_shard
from batch_provider.engine.process.stream import StreamTask, process_stream
from batch_provider.sources.access import LocalAccess
from batch_provider.sources.records import Records
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.storage.blobs.protocol import Blobs
from batch_provider.storage.claims.generation import Generation
from batch_provider.storage.instances.completion import Completion
from batch_provider.storage.instances.store import InstanceStore
from batch_provider.storage.views.ledger import live_ledger
from batch_provider.writers.targets import DatabaseTargets

_CARRY_ON = (
    "Carry on with next_round() and process_all(); or ask query() or InstanceView(run.store).connect() for what "
    "there is."
)


class LocalRun:
    """Runs the phases of a job one by one in this process; :func:`run_job` runs them all.

    Args:
        job: what to run; a source given to :meth:`load` replaces its own.
        store: where to keep it; memory by default.
        clock: the time.
        run_id, dag_id: names of the run; together with the job they make the instance id.
        access: how sources reach file systems and databases.
        shards: replaces ``job.shards``; without either, one shard.
    """

    def __init__(
        self,
        job: JobSpec,
        *,
        store: Blobs | None = None,
        clock: Clock | None = None,
        dag_id: str = "local",
        run_id: str = "run",
        instance_id: str | None = None,
        access: SourceAccess | None = None,
        shards: int | None = None,
    ) -> None:
        self.job = replace(job, shards=shards) if shards is not None else job
        self.clock = clock or SystemClock()
        identity = instance_id or default_instance_id(dag_id, run_id, job.name)
        self.instance = JobInstance(identity, dag_id, run_id, job.name)
        self.store = InstanceStore(store or MemoryBlobs(), self.clock, self.instance)
        self._access = access or LocalAccess()
        self._round = 0
        self.info = self._info()

    def _info(self) -> AttemptInfo:
        return AttemptInfo(round_token=f"local-{self._round}", host=socket.gethostname(), pid=os.getpid())

    def next_round(self) -> None:
        """What comes now is a clear or a rerun, not a retry."""
        self._round += 1
        self.info = self._info()

    @property
    def generation(self) -> Generation:
        """The loaded generation.

        Raises:
            LookupError: nothing is loaded.
        """
        latest = self.store.latest()
        if latest is None:
            raise LookupError(f"job {self.job.name!r} has no loaded instance; call load() first")
        return latest

    def load(self, source: Any = None) -> list[str]:
        """Load and dispatch; returns the ids of the shards."""
        job = self.job if source is None else replace(self.job, source=as_source(source))
        manifest = load_instance(
            job, self.store, self.instance, info=self.info, access=self._access, clock=self.clock, slots=1
        )
        return [shard.id for shard in manifest.shards]

    def process(self, step: CheckpointStep, shard: str) -> None:
        """Process one step of one shard, or several that are fused, as one attempt of a mapped task would."""
        work = self.generation.claim(step.name, shard, self.info, self.job)
        targets = DatabaseTargets(self._access)
        process_shard(ShardTask(self.job, step, work, self.clock, self._constant(), targets=targets))

    def _constant(self) -> Mapping[str, Any]:
        return {"instance": self.instance}

    def stream(self, step: StepSpec) -> None:
        """Run a streaming aggregator over all shards, as the barrier task would."""
        generation = self.generation
        shards = [shard.id for shard in generation.manifest.shards]
        works = held_by_all(lambda shard: generation.claim(step.name, shard, self.info, self.job), shards)
        process_stream(StreamTask(self.job, step, works, self.clock, self._constant()))

    def process_all(self) -> None:
        """Process every stage; a shard that was stopped goes no further, and holds the next barrier."""
        shards = [shard.id for shard in self.generation.manifest.shards]
        for stage in self.job.stages():
            held = [shard for shard in shards if not self._process_stage(stage, shard)]
            if held or not shards:
                return
            try:
                if stage[-1].is_streaming:
                    self.stream(stage[-1])
            except StopProcessingError:
                return  # as in Airflow: the task fails, on-complete gives the verdict

    def _process_stage(self, stage: tuple[StepSpec, ...], shard: str) -> bool:
        try:
            for step in checkpoint_steps(self.job, (step for step in stage if not step.is_streaming)):
                self.process(step, shard)
        except StopProcessingError:
            return False  # as in Airflow: the task fails, on-complete gives the verdict
        return True

    def complete(self) -> BatchJobResult:
        """Close the instance; runs the job's on_complete function, if it has one."""
        callback = self.job.on_complete
        call = UserFunction("on_complete", callback, (), self._constant()).once if callback else None
        return complete(
            self.job,
            Completion(self.generation),
            info=self.info,
            clock=self.clock,
            callback=call,
            targets=DatabaseTargets(self._access),
        )

    def run(self, source: Any = None) -> BatchJobResult:
        """All phases."""
        self.load(source)
        self.process_all()
        return self.complete()

    def output(self, step: str | None = None) -> list[dict[str, Any]]:
        """The payloads after ``step`` (default: the last), for asserting on; small inputs only.

        Raises:
            InvalidOptionError: there is no such step, or it is fused with one after it: only that one's are kept.
            CheckpointMissingError: a shard of the step has not finished.
        """
        last = self._written_by(step or self.job.steps[-1].name)
        generation = self.generation
        tables: list[pa.Table] = []
        for shard in generation.manifest.shards:
            try:
                reader = generation.latest_reader(last, shard.id)
            except CheckpointMissingError as missing:
                raise CheckpointMissingError(last, shard.id, missing.reason.removesuffix("."), _CARRY_ON) from None
            tables.append(reader.read(shard.span))
        if not tables:
            return []
        table = concat_by_name(tables)
        kept = kept_values(table["_kept"]) if "_kept" in table.column_names else {}
        names = [name for name in table.column_names if name not in RESERVED_COLUMNS]
        rows = zip(*(to_python(table[name]) for name in names), strict=True) if names else [()] * table.num_rows
        return [dict(zip(names, row, strict=True)) | kept.get(number, {}) for number, row in enumerate(rows)]

    def _written_by(self, name: str) -> str:
        self.job.step(name)
        steps = checkpoint_steps(self.job)
        found = {step.steps[-1].name if isinstance(step, FusedStep) else step.name: step for step in steps}
        if name not in found:
            raise InvalidOptionError("step", name, f"one that writes checkpoints: {', '.join(found)}")
        return found[name].name

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the ledger (tables steps, attempts, outcome_runs, failures; views outcomes, records, errors)."""
        with closing(live_ledger(self.generation)) as connection:
            return connection.execute(sql).fetchall()


def run_job(job: JobSpec, records: Any = None, **options: Any) -> BatchJobResult:
    """Run a job in this process and return its result.

    Args:
        job: what to run.
        records: its input (anything ``Records`` takes, or a source); None: the job's own source.
        **options: of :class:`LocalRun`.
    """
    return LocalRun(job, **options).run(records)


def as_source(records: Any) -> Source:
    """A source as it is; anything else as ``Records`` of it."""
    return records if isinstance(records, Source) else Records(records)

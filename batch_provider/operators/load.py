"""Load and dispatch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from batch_provider import wiring
from batch_provider.domain.errors import JobDefinitionError
from batch_provider.domain.instance import Manifest
from batch_provider.domain.spec import ORDERED, JobSpec
from batch_provider.engine.load.load import load_instance
from batch_provider.operators._failures import airflow_errors
from batch_provider.operators._runs import still_at_work
from batch_provider.operators.base import BatchOperator, DeclaredJob
from batch_provider.operators.on_complete import BatchOnCompleteOperator
from batch_provider.storage.instances.store import InstanceStore
from batch_provider.storage.instances.tickets import Tickets

if TYPE_CHECKING:
    from airflow.sdk import Context


class BatchJobOperator(BatchOperator):
    """Loads the job's source durably and returns its shards, to map a task group of steps over.

    All or nothing: until the input is loaded whole there is no instance. A retry after the load was committed
    returns what was committed; a clear reads the input again, as the next generation.

    With ``scheduling="ordered_sequential"`` the task then defers until the instances of this job that were loaded
    before, and whose DAG run is running, are done. Redrives do not load, so they do not wait.

    Args:
        job: with a source.
        **kwargs: of :class:`BatchOperator`.

    Raises:
        JobDefinitionError: the job has no source, or no step.
    """

    template_fields: Sequence[str] = (*BatchOperator.template_fields, "source_options")

    def __init__(self, *, job: JobSpec | DeclaredJob, **kwargs: Any) -> None:
        super().__init__(job=job, **kwargs)
        spec = self.job
        if spec.source is None:
            raise JobDefinitionError(f"Job {spec.name!r} has no source; give it source=Files(…), Sql(…) or Records(…).")
        if isinstance(job, JobSpec) and not job.steps:
            raise JobDefinitionError(
                f"Job {job.name!r} has no steps; declare at least one, for example with @job.step."
            )
        self.source_options: Mapping[str, Any] = templates_of(spec.source)

    def execute(self, context: Context) -> list[dict[str, str]]:
        """Load; returns ``{"generation", "shard"}`` for each mapped task, and nothing else goes through XCom."""
        with airflow_errors():
            source = self.job.source
            if self.source_options:
                source = source.with_template_values(self.source_options)
            store = self.instance_store(context)
            manifest = load_instance(
                replace(self.job, source=source),
                store,
                store.instance,
                info=self.attempt(context),
                access=wiring.AirflowAccess(),
                clock=store.clock,
                slots=wiring.worker_slots(),
            )
            self.log.info("The instance lies in %s", store.blobs.address(store.base))
            self._wait_for_turn(store, manifest)
        return _plan(manifest)

    def _wait_for_turn(self, store: InstanceStore, manifest: Manifest) -> None:
        """Get in line; if it is an ordered one, defer, holding no slot, while instances loaded before are at work."""
        instance = store.instance
        line = Tickets(store.blobs, instance.dag_id, instance.job)
        ticket = line.take(instance, manifest.generation, self._last_task())
        if self.job.scheduling != ORDERED:
            return
        waiting_for = still_at_work(instance.dag_id, line.before(ticket.id))
        if waiting_for:
            from batch_provider.operators.triggers import BatchTurnTrigger

            self.log.info("Loaded; waits for %s", ", ".join(other.run_id for other in waiting_for))
            turn = BatchTurnTrigger(instance.dag_id, instance.job, str(ticket.id), manifest.generation)
            self.defer(trigger=turn, method_name="take_turn")

    def _last_task(self) -> str:
        """The task that closes the instance, if the DAG has one."""
        dag = self.get_dag()
        closing = [task for task in (dag.tasks if dag else ()) if isinstance(task, BatchOnCompleteOperator)]
        return next((task.task_id for task in closing if task.job.name == self.job.name), "")

    def take_turn(self, context: Context, event: Mapping[str, str]) -> list[dict[str, str]]:
        """Go on after the wait: what was loaded then is what the steps work on."""
        with airflow_errors():
            return _plan(self.instance_store(context).generation(event["generation"]).manifest)


def _plan(manifest: Manifest) -> list[dict[str, str]]:
    return [{"generation": manifest.generation, "shard": shard.id} for shard in manifest.shards]


def templates_of(source: Any) -> Mapping[str, Any]:
    """The fields of a source that may hold templates."""
    values = getattr(source, "template_values", None)
    return dict(values()) if values else {}

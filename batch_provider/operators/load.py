"""Load and dispatch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from batch_provider import wiring
from batch_provider.domain.errors import JobDefinitionError
from batch_provider.domain.spec import JobSpec
from batch_provider.engine.load import load_instance
from batch_provider.operators._failures import airflow_errors
from batch_provider.operators.base import BatchOperator, DeclaredJob

if TYPE_CHECKING:
    from airflow.sdk import Context


class BatchJobOperator(BatchOperator):
    """Loads the job's source durably and returns its shards, to map a task group of steps over.

    All or nothing: until the input is loaded whole there is no instance. A retry after the load was committed
    returns what was committed; a clear reads the input again, as the next generation.

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
        return [{"generation": manifest.generation, "shard": shard.id} for shard in manifest.shards]


def templates_of(source: Any) -> Mapping[str, Any]:
    """The fields of a source that may hold templates."""
    values = getattr(source, "template_values", None)
    return dict(values()) if values else {}

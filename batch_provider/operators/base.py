"""What the four operators share."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from airflow.sdk import BaseOperator

from batch_provider import wiring
from batch_provider.domain.instance import AttemptInfo, JobInstance
from batch_provider.domain.spec import JobSpec
from batch_provider.operators._run_info import attempt_info, business_date, job_instance
from batch_provider.storage.instances.store import InstanceStore

if TYPE_CHECKING:
    import jinja2
    from airflow.sdk import Context


class DeclaredJob(Protocol):
    """A job that is still being declared: a BatchJob wired by hand gets its steps after its load task."""

    @property
    def spec(self) -> JobSpec:
        """What is declared so far."""
        ...


class BatchOperator(BaseOperator):
    """Knows the job and its instance.

    Args:
        job: the declared job, or a BatchJob.
        job_instance_id: templated; None: from DAG id, run id and job name. The same for all operators of a job.
        **kwargs: of Airflow's BaseOperator.
    """

    template_fields: Sequence[str] = ("job_instance_id",)
    ui_color: str = "#e4ecf7"

    def __init__(self, *, job: JobSpec | DeclaredJob, job_instance_id: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._declared = job
        self.job_instance_id = job_instance_id
        self._cancelled = threading.Event()

    @property
    def job(self) -> JobSpec:
        """The job as it is declared by now."""
        return self._declared if isinstance(self._declared, JobSpec) else self._declared.spec

    def render_template_fields(self, context: Context, jinja_env: jinja2.Environment | None = None) -> None:
        """Render with ``{{ business_date }}`` beside Airflow's own names."""
        context["business_date"] = business_date(context)  # type: ignore[typeddict-unknown-key]
        super().render_template_fields(context, jinja_env)

    def on_kill(self) -> None:
        """Airflow told the task to end: set the flag that the block loop reads (SIGTERM alone stops nothing)."""
        self._cancelled.set()

    def instance_store(self, context: Context) -> InstanceStore:
        """The store of this run's instance, with the configured settings."""
        return wiring.instance_store(self.instance(context))

    def instance(self, context: Context) -> JobInstance:
        """This run's instance."""
        return job_instance(context, self.job.name, self.job_instance_id)

    def attempt(self, context: Context) -> AttemptInfo:
        """This try."""
        return attempt_info(context)

    def constants(self, context: Context) -> Mapping[str, Any]:
        """What the author's functions may name: ``instance`` and Airflow's context."""
        return {**context, "instance": self.instance(context)}

    def __repr__(self) -> str:
        """Stable, because it can enter the serialised DAG."""
        return f"<{type(self).__name__} {self.task_id}>"

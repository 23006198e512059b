"""What later tasks, callbacks and scripts ask of an instance."""

from __future__ import annotations

from airflow.sdk import BaseHook

from batch_provider import wiring
from batch_provider.domain.instance import JobInstance
from batch_provider.domain.names import default_instance_id
from batch_provider.domain.result import BatchJobResult
from batch_provider.storage.view import InstanceView


class BatchHook(BaseHook):
    """Reads the instances of a job from the configured store; needs no connection.

    Args:
        dag_id: of the DAG that runs the job.
        job: the job's name.
    """

    hook_name = "Batch"

    def __init__(self, dag_id: str, job: str) -> None:
        super().__init__()
        self.dag_id, self.job = dag_id, job

    def view(self, run_id: str, *, job_instance_id: str | None = None) -> InstanceView:
        """Everything that can be asked of the instance of a DAG run: state, progress, errors.

        Args:
            run_id: of the DAG run.
            job_instance_id: if the job sets one of its own, as rendered.
        """
        identity = job_instance_id or default_instance_id(self.dag_id, run_id, self.job)
        return InstanceView(wiring.instance_store(JobInstance(identity, self.dag_id, run_id, self.job)))

    def get_result(self, run_id: str, *, job_instance_id: str | None = None) -> BatchJobResult | None:
        """The report of the instance of a DAG run, or None while there is none."""
        return self.view(run_id, job_instance_id=job_instance_id).result()

"""What later tasks, callbacks and scripts ask of an instance."""

from __future__ import annotations

from airflow.sdk import BaseHook

from batch_provider import wiring
from batch_provider.domain.instance import JobInstance
from batch_provider.domain.names import default_instance_id
from batch_provider.domain.result import BatchJobResult
from batch_provider.storage.instances.store import InstanceStore
from batch_provider.storage.views.instance_view import InstanceView


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

    def view(self, run_id: str, *, job_instance_id: str | None = None, generation: str | None = None) -> InstanceView:
        """Everything that can be asked of the instance of a DAG run: state, progress, errors.

        Args:
            run_id: of the DAG run.
            job_instance_id: if the job sets one of its own, as rendered.
            generation: an older load of its input, one of :meth:`generations`; None: the latest.
        """
        return InstanceView(self._store(run_id, job_instance_id), generation)

    def generations(self, run_id: str, *, job_instance_id: str | None = None) -> list[str]:
        """The names of all loads of the instance's input that are kept, oldest first; older ones are for reading."""
        return self._store(run_id, job_instance_id).generations()

    def _store(self, run_id: str, job_instance_id: str | None) -> InstanceStore:
        identity = job_instance_id or default_instance_id(self.dag_id, run_id, self.job)
        return wiring.instance_store(JobInstance(identity, self.dag_id, run_id, self.job))

    def get_result(
        self, run_id: str, *, job_instance_id: str | None = None, generation: str | None = None
    ) -> BatchJobResult | None:
        """The report of the instance of a DAG run, or None while there is none."""
        return self.view(run_id, job_instance_id=job_instance_id, generation=generation).result()

    def request_stop(self, run_id: str, reason: str, *, job_instance_id: str | None = None) -> str:
        """Ask the instance of a DAG run to stop at the next block boundary; returns the name of the request.

        Every task of the instance that is at work, or begins to work, ends failed without retry, on-complete reports
        STOPPED, and a later clear carries on. A request that no result has answered holds: made after the end of an
        instance it stops the next rerun.

        Args:
            run_id: of the DAG run.
            reason: for the log, the report and the person who carries on.
            job_instance_id: if the job sets one of its own, as rendered.

        Raises:
            NotLoadedError: its input is not loaded yet.
        """
        return self._store(run_id, job_instance_id).request_stop(reason)

"""The last phase: seal, reconcile, report, call back, and give the verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batch_provider import wiring
from batch_provider.domain.errors import JobFailedError
from batch_provider.domain.result import BatchJobResult
from batch_provider.domain.spec import JobSpec
from batch_provider.engine.calls.invoke import UserFunction
from batch_provider.engine.complete.complete import complete, load_failed
from batch_provider.engine.complete.report import render_report
from batch_provider.operators._failures import airflow_errors
from batch_provider.operators.alerts import alert_failures
from batch_provider.operators.base import BatchOperator, DeclaredJob
from batch_provider.storage.instances.completion import Completion
from batch_provider.writers.targets import DatabaseTargets

if TYPE_CHECKING:
    from airflow.sdk import Context


class BatchOnCompleteOperator(BatchOperator):
    """Reports an instance and gives its verdict: an unsuccessful one fails this task, and so the DAG run.

    Runs whatever became of the tasks before it (``ALL_DONE``), and reads the store, never their XComs. The
    report is durable before the job's ``on_complete`` function is called with the result.

    Args:
        job: the declared job.
        **kwargs: of :class:`BatchOperator`.
    """

    ui_color: str = "#f7ead9"

    def __init__(self, *, job: JobSpec | DeclaredJob, **kwargs: Any) -> None:
        kwargs.setdefault("trigger_rule", "all_done")
        kwargs.setdefault("do_xcom_push", False)
        super().__init__(job=job, **kwargs)

    def execute(self, context: Context) -> None:
        """Close the instance.

        Raises:
            AirflowFailException: for JobFailedError, when the instance was not successful.
        """
        with airflow_errors():
            result = self._complete(context)
            self.log.info("Report\n%s", render_report(result))
            alert_failures(self.job, context, result)
            if not result.is_successful:
                raise JobFailedError(result)

    def _complete(self, context: Context) -> BatchJobResult:
        store = self.instance_store(context)
        function = self.job.on_complete
        callback = UserFunction("on_complete", function, (), self.constants(context)).once if function else None
        generation = store.latest()
        if generation is None:
            return load_failed(store.instance, store.load_problem(), callback, store.clock)
        return complete(
            self.job,
            Completion(generation),
            info=self.attempt(context),
            clock=store.clock,
            callback=callback,
            targets=DatabaseTargets(wiring.AirflowAccess()),
        )

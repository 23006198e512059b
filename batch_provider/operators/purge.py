"""Retention as a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from batch_provider import wiring
from batch_provider.config import load_settings
from batch_provider.domain.errors import InvalidOptionError, StorageError
from batch_provider.engine.ports.clock import SystemClock
from batch_provider.engine.purge import PurgeReport, purge
from batch_provider.operators._failures import airflow_errors
from batch_provider.operators._runs import is_alive

if TYPE_CHECKING:
    from airflow.sdk import Context


class BatchPurgeOperator(BaseOperator):
    """Removes instances that nothing was written to for longer than the retention; dead letters go to the archive.

    Never touches an instance whose DAG run is queued or running, as Airflow says. Also removes what killed loads
    have left, generations whose input has been loaded again since, and files that were never finished.

    Args:
        older_than: the retention; None: ``[batch_provider] retention_days``, whose default is 7.
        of_dag: only instances of this DAG; templated.
        of_job: only instances of jobs of this name; templated.
        dry_run: only log what would go.
        **kwargs: of Airflow's BaseOperator.

    Raises:
        InvalidOptionError: the retention is not above 0.
    """

    template_fields: Sequence[str] = ("of_dag", "of_job")
    ui_color: str = "#ececec"

    def __init__(
        self,
        *,
        older_than: timedelta | None = None,
        of_dag: str | None = None,
        of_job: str | None = None,
        dry_run: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if older_than is not None and older_than <= timedelta(0):
            raise InvalidOptionError("older_than", older_than, "a timedelta above 0")
        self.older_than, self.of_dag, self.of_job, self.only_look = older_than, of_dag, of_job, dry_run

    def execute(self, context: Context) -> Mapping[str, int]:  # noqa: ARG002  # Airflow's signature
        """Purge; returns how many things and bytes are gone, and how many dead letter files were archived.

        Raises:
            StorageError: something could not be removed; the next try begins with it.
        """
        with airflow_errors():
            settings = load_settings()
            report = purge(
                wiring.retention(settings),
                SystemClock(),
                self.older_than or timedelta(days=settings.retention_days),
                is_alive,
                dag_id=self.of_dag,
                job=self.of_job,
                dry_run=self.only_look,
            )
            self._tell(report)
            if report.problems:
                raise StorageError("purge", f"{len(report.problems)} places", "; ".join(report.problems))
        return {
            "removed": len(report.removed),
            "bytes": report.bytes,
            "archived": sum(removal.archives for removal in report.removed),
        }

    def _tell(self, report: PurgeReport) -> None:
        for removal in report.removed:
            self.log.info("%s: %s, %s bytes", removal.reason, removal.name, f"{removal.bytes:,}")
        for instance in report.kept_running:
            self.log.info("kept: %s is old, but its DAG run has not ended", instance.id)
        verb = "would go" if self.only_look else "gone"
        self.log.info("%s %s, %s bytes", len(report.removed), verb, f"{report.bytes:,}")

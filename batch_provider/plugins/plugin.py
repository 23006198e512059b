"""The plugin that Airflow loads in every component, through the entry point `airflow.plugins`."""

from __future__ import annotations

from typing import Any

from airflow.sdk.plugins_manager import AirflowPlugin

from batch_provider.deadlines import RunAfterUnlessBackfill


class BatchPlugin(AirflowPlugin):
    """Registers what the scheduler and the API server must know of this provider."""

    name = "batch_provider"
    deadline_references: list[Any] = [RunAfterUnlessBackfill]  # noqa: RUF012 - as Airflow declares it

"""Airflow's REST API, as far as a redrive needs it, with the rights of whoever's token it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Self
from urllib.parse import quote

import httpx

from batch_provider.domain.errors import BatchError

TOKEN_VARIABLE = "AIRFLOW_CLI_TOKEN"  # noqa: S105  # the name of airflowctl's own variable
_SECONDS = 60
_NEXT = {
    401: f"Log in: put a valid token into the environment variable {TOKEN_VARIABLE}, or give --api-token.",
    403: "The user of the token may not do this; clearing tasks needs the right to edit the DAG's runs.",
    404: "Check --api-url, and whether the DAG and its run still exist.",
}


class ApiError(BatchError):
    """Airflow's API server refused, or could not be reached."""


class AirflowApi:
    """A user of one Airflow.

    Args:
        url: of the API server; None: ``[api] base_url``, else ``http://localhost:8080``.
        token: of the user; None: from the environment variable ``AIRFLOW_CLI_TOKEN``.

    Raises:
        ApiError: there is no token.
    """

    def __init__(self, url: str | None = None, token: str | None = None) -> None:
        from airflow.sdk import conf

        self.url = (url or conf.get("api", "base_url", fallback="") or "http://localhost:8080").rstrip("/")
        token = token or os.environ.get(TOKEN_VARIABLE)
        if not token:
            raise ApiError(f"No API token. {_NEXT[401]}")
        self._http = httpx.Client(
            base_url=f"{self.url}/api/v2/", headers={"Authorization": f"Bearer {token}"}, timeout=_SECONDS
        )

    def __enter__(self) -> Self:
        """Use it."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the connections."""
        self._http.close()

    def run_state(self, dag_id: str, run_id: str) -> str:
        """The state of a DAG run."""
        return str(self._send("GET", f"dags/{_part(dag_id)}/dagRuns/{_part(run_id)}")["state"])

    def tasks(self, dag_id: str) -> list[dict[str, Any]]:
        """The tasks of the latest version of a DAG."""
        return list(self._send("GET", f"dags/{_part(dag_id)}/tasks")["tasks"])

    def clear(
        self, dag_id: str, run_id: str, task_ids: Sequence[str | tuple[str, int]], *, dry_run: bool
    ) -> list[dict[str, Any]]:
        """Clear tasks and those after them, to run again on the latest version of the DAG; what is (or would be)."""
        body = {
            "dry_run": dry_run,
            "dag_run_id": run_id,
            "task_ids": [list(task) if isinstance(task, tuple) else task for task in task_ids],
            "only_failed": False,
            "include_downstream": True,
            "reset_dag_runs": True,
            "run_on_latest_version": True,
            "prevent_running_task": True,
        }
        answer = self._send("POST", f"dags/{_part(dag_id)}/clearTaskInstances", json=body)
        return list(answer["task_instances"])

    def _send(self, method: str, path: str, **request: Any) -> Any:
        try:
            response = self._http.request(method, path, **request)
        except httpx.HTTPError as error:
            raise ApiError(f"Cannot reach Airflow's API at {self.url}: {error}. Check --api-url.") from None
        if response.is_success:
            return response.json()
        advice = _NEXT.get(response.status_code, "")
        raise ApiError(f"{method} {response.url} answered {response.status_code}: {response.text[:500]} {advice}")


def _part(text: str) -> str:
    return quote(text, safe="")

"""Airflow's REST API, as far as the demo and the tests use it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed

_PAGE: Final = 100  # the API gives no more at a time
_FINAL: Final = frozenset({"success", "failed"})


class AirflowApiError(RuntimeError):
    """Airflow refused a request, or failed at it."""

    def __init__(self, method: str, path: str, status: int, text: str) -> None:
        super().__init__(f"{method} {path} answered {status}: {text[:2000]}")
        self.method, self.path, self.status, self.text = method, path, status, text


class _ServerError(AirflowApiError):
    """An answer that may be better the next time: SQLite was busy, or the server is starting."""


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a DAG run is."""

    dag_id: str
    run_id: str
    state: str
    elapsed: float
    """Seconds since the waiting began."""
    task_states: Counter[str]
    """How many task instances are in which state; `none` for those not scheduled yet."""


class AirflowClient:
    """A logged-in user of one Airflow."""

    def __init__(self, url: str, username: str, password: str) -> None:
        self.url = url.rstrip("/")
        self.username = username
        self._password = password
        self._token: str | None = None
        self._http = self._open()

    @property
    def password(self) -> str:
        """The password to log in with."""
        return self._password

    def close(self) -> None:
        """Close the connections to the server."""
        self._http.close()

    def _open(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def check_alive(self) -> None:
        """Raise if Airflow can no longer answer; a client that did not start it cannot know."""

    def token(self) -> str:
        """Return a bearer token; it is asked for once."""
        if self._token is None:
            credentials = {"username": self.username, "password": self._password}
            self._token = str(self._send("POST", "/auth/token", json=credentials)["access_token"])
        return self._token

    def api(self, method: str, path: str, json: Any = None, params: dict[str, Any] | None = None) -> Any:
        """Send a request as the logged-in user and return the decoded answer.

        Args:
            method: the HTTP method; a GET is tried three times before it fails.
            path: the path, with `/api/v2` or without it.
            json: the body.
            params: the query.

        Raises:
            AirflowApiError: if the answer is not a success.
        """
        if not path.startswith(("/api/", "/ui/", "/auth/")):
            path = f"/api/v2/{path.lstrip('/')}"
        headers = {"Authorization": f"Bearer {self.token()}"}
        if method.upper() != "GET":
            return self._send(method, path, json=json, params=params, headers=headers)
        again = retry_if_exception_type((httpx.TransportError, _ServerError))
        retrying = Retrying(stop=stop_after_attempt(3), wait=wait_fixed(1), retry=again, reraise=True)
        return retrying(self._send, method, path, json=json, params=params, headers=headers)

    def _send(self, method: str, path: str, **request: Any) -> Any:
        response = self._http.request(method, path, **request)
        if response.is_success:
            return response.json() if response.content else None
        error = _ServerError if response.is_server_error else AirflowApiError
        raise error(method, path, response.status_code, response.text)

    def find(self, path: str) -> Any | None:
        """Return what is at the path, or None if there is nothing."""
        try:
            return self.api("GET", path)
        except AirflowApiError as error:
            if error.status == httpx.codes.NOT_FOUND:
                return None
            raise

    def set_paused(self, dag_id: str, paused: bool) -> None:
        """Pause a DAG, or let its runs start."""
        self.api("PATCH", f"dags/{dag_id}", json={"is_paused": paused})

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None, run_id: str | None = None) -> str:
        """Create a manual run and unpause the DAG; in this order, so that a scheduled run comes after it.

        Returns:
            The run id.
        """
        body = {"logical_date": None, "conf": conf or {}, "dag_run_id": run_id}
        run = self.api("POST", f"dags/{dag_id}/dagRuns", json=body)
        self.set_paused(dag_id, paused=False)
        return str(run["dag_run_id"])

    def dag_run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Return a run as the API describes it."""
        run: dict[str, Any] = self.api("GET", f"dags/{dag_id}/dagRuns/{run_id}")
        return run

    def wait_for_run(
        self,
        dag_id: str,
        run_id: str,
        timeout: float,
        on_poll: Callable[[RunProgress], None] | None = None,
        interval: float = 1.0,
    ) -> str:
        """Wait until a run has ended.

        Args:
            dag_id: the DAG.
            run_id: the run.
            timeout: seconds to wait.
            on_poll: called with the progress at every look, the last one included.
            interval: seconds between two looks.

        Returns:
            The final state, `success` or `failed`.

        Raises:
            TimeoutError: if the run has not ended in time; it says in which states its tasks are.
        """
        began = time.monotonic()
        while True:
            self.check_alive()
            progress = self._progress(dag_id, run_id, began)
            if on_poll is not None:
                on_poll(progress)
            if progress.state in _FINAL:
                return progress.state
            if progress.elapsed > timeout:
                states = dict(progress.task_states)
                raise TimeoutError(f"{dag_id} {run_id} is {progress.state} after {timeout:g} s: {states}")
            time.sleep(interval)

    def _progress(self, dag_id: str, run_id: str, began: float) -> RunProgress:
        state = str(self.dag_run(dag_id, run_id)["state"])
        tasks = self.task_instances(dag_id, run_id)
        counts = Counter(str(task["state"] or "none") for task in tasks)
        return RunProgress(dag_id, run_id, state, time.monotonic() - began, counts)

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return all task instances of a run, the mapped ones one by one."""
        tasks: list[dict[str, Any]] = []
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances"
        while True:
            params = {"limit": _PAGE, "offset": len(tasks), "order_by": "id"}
            page = self.api("GET", path, params=params)
            tasks += page["task_instances"]
            if not page["task_instances"] or len(tasks) >= page["total_entries"]:
                return tasks

    def task_log(
        self, dag_id: str, run_id: str, task_id: str, map_index: int = -1, try_number: int | None = None
    ) -> str:
        """Return the log of one try of a task as text, of the latest try if none is given."""
        entries = self._log_entries(dag_id, run_id, task_id, map_index, try_number)
        return "\n".join(_log_line(entry) for entry in entries)

    def task_error(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> str | None:
        """Return in a line why the latest try of a task failed, or None if its log does not say."""
        entries = self._log_entries(dag_id, run_id, task_id, map_index, None)
        errors = [entry["error_detail"] for entry in entries if isinstance(entry, dict) and entry.get("error_detail")]
        return _error_line(errors[-1][0]) if errors else None

    def _log_entries(
        self, dag_id: str, run_id: str, task_id: str, map_index: int, try_number: int | None
    ) -> list[str | dict[str, Any]]:
        task = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        if try_number is None:
            instance = self.api("GET", task if map_index < 0 else f"{task}/{map_index}")
            try_number = int(instance["try_number"])
        params = {"map_index": map_index, "full_content": True}
        entries: list[str | dict[str, Any]] = self.api("GET", f"{task}/logs/{try_number}", params=params)["content"]
        return entries

    def clear(
        self, dag_id: str, run_id: str, task_ids: Sequence[str | tuple[str, int]], **options: Any
    ) -> list[dict[str, Any]]:
        """Clear tasks of a run, as the UI does, and return the instances that will run again.

        Args:
            dag_id: the DAG.
            run_id: the run.
            task_ids: task ids, or pairs of a task id and a map index.
            **options: further options of `clearTaskInstances`, such as `include_downstream=True`.
        """
        body = {
            "dry_run": False,
            "only_failed": False,
            "dag_run_id": run_id,
            "task_ids": list(task_ids),
            **options,
        }
        cleared = self.api("POST", f"dags/{dag_id}/clearTaskInstances", json=body)
        tasks: list[dict[str, Any]] = cleared["task_instances"]
        return tasks


def _log_line(entry: str | dict[str, Any]) -> str:
    if isinstance(entry, str):
        return entry
    causes = [_error_line(error) for error in entry.get("error_detail") or ()]
    return "\n".join([str(entry["event"]), *causes])


def _error_line(error: dict[str, Any]) -> str:
    return f"{error['exc_type']}: {error['exc_value']}"

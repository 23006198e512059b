"""Starts the components of a real Airflow, and ends them."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from json import dumps, loads
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx
import psutil

from scripts.local_airflow.client import AirflowClient
from scripts.local_airflow.processes import SessionGuard, end_sessions, session_members, start_session

log = logging.getLogger("local_airflow")

USERNAME: Final = "admin"
_HOST: Final = "127.0.0.1"
_COMPONENTS: Final[dict[str, tuple[str, ...]]] = {
    "api-server": (),
    "scheduler": ("--skip-serve-logs",),  # logs are on this machine: nobody needs them served
    "dag-processor": (),
    "triggerer": ("--skip-serve-logs",),
}
_HEARTBEATS: Final = ("scheduler", "dag_processor", "triggerer")


class LocalAirflowError(RuntimeError):
    """A component did not start, died, or could not read a DAG."""


class LocalAirflow(AirflowClient):
    """An Airflow of its own: home folder, SQLite database, four components, one user.

    Use it as a context manager: all its processes end with the block, and also if this process is killed.
    """

    def __init__(self, home: Path, dags_folder: Path, port: int = 0, env: Mapping[str, str] | None = None) -> None:
        """Describe the instance; nothing is started or written yet.

        Args:
            home: its AIRFLOW_HOME; made if it is missing, kept afterwards.
            dags_folder: the folder with the DAG files.
            port: where the API server listens on this machine only; 0 takes a free one.
            env: more environment variables for every component, over the ones set here.
        """
        self.home = home.absolute()
        self.dags_folder = dags_folder.absolute()
        self.port = port or _free_port()
        super().__init__(f"http://{_HOST}:{self.port}", USERNAME, password="")
        self._extra_env = dict(env or {})
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._guard: SessionGuard | None = None
        self._started_at = datetime.now(UTC)  # noqa: TID251 - compared with the clock of other processes

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def password(self) -> str:
        """The generated password of the only user."""
        return read_password(self.home)

    @property
    def storage_path(self) -> Path:
        """Where the batch provider keeps its job instances."""
        return self.home / "batch"

    @property
    def pids(self) -> dict[str, int]:
        """The process ids of the components; each leads a session of its own."""
        return {name: process.pid for name, process in self._processes.items()}

    def processes(self) -> list[psutil.Process]:
        """Return all living processes of this instance, running tasks included, for tests that kill one."""
        return session_members(self.pids.values())

    def start(self, timeout: float = 180) -> None:
        """Migrate the database if that is still to be done, start all components and wait for them.

        Raises:
            LocalAirflowError: if one of them fails or is not healthy in time; with the end of its log.
        """
        if not self.dags_folder.is_dir():
            raise LocalAirflowError(f"There is no DAGs folder {self.dags_folder}.")
        began = time.monotonic()
        try:
            self._prepare_home()
            self._migrate()
            self._started_at = datetime.now(UTC)  # noqa: TID251 - compared with the clock of other processes
            self._guard = SessionGuard()
            self._http = self._open()
            for component in _COMPONENTS:
                self.start_component(component)
            self._wait(self._is_healthy, timeout, "not every component is healthy")
        except BaseException:
            self.stop()
            raise
        log.info("Airflow is ready after %.1f s.", time.monotonic() - began)

    def stop(self) -> None:
        """End all processes of this instance, running tasks included; it may be started again."""
        self.close()
        end_sessions(self.pids.values())
        if self._guard is not None:
            self._guard.close()
            self._guard = None
        for process in self._processes.values():
            process.wait()
        self._processes.clear()

    def start_component(self, name: str) -> None:
        """Start one component, for instance again after a test has killed it."""
        command = [sys.executable, "-m", "airflow", name, *_COMPONENTS[name]]
        process = start_session(command, self.environment(), self.component_log(name))
        self._processes[name] = process
        if self._guard is not None:
            self._guard.watch(process.pid)

    def component_log(self, name: str) -> Path:
        """Return the file with everything a component has printed."""
        return self.home / f"{name}.log"

    def check_alive(self) -> None:
        """Raise if a component has ended by itself, with the end of its log."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise LocalAirflowError(f"The {name} ended with exit code {process.returncode}.\n{self._tail(name)}")

    def wait_for_dag(self, dag_id: str, timeout: float = 60) -> None:
        """Wait until the DAG's file, as it is now, has been read.

        Raises:
            LocalAirflowError: if that fails, with the traceback from the DAG processor.
        """
        self._wait(lambda: self._is_parsed(dag_id), timeout, f"the DAG {dag_id} was not found")

    def environment(self) -> dict[str, str]:
        """Return the environment of the components; other Airflow settings of the caller are left out."""
        inherited = {name: value for name, value in os.environ.items() if "AIRFLOW" not in name.upper()}
        return inherited | self._settings() | self._extra_env

    def _settings(self) -> dict[str, str]:
        return {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW_CONN_FLIGHTS_WAREHOUSE": dumps(
                {"conn_type": "sqlite", "host": str(self.home / "warehouse" / "flights.db")}
            ),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__HOST": _HOST,
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__SECRET_KEY": _secret(self.home / "secret_key"),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API_AUTH__JWT_SECRET": _secret(self.home / "jwt_secret"),
            "AIRFLOW__BATCH_PROVIDER__STORAGE_PATH": str(self.storage_path),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags_folder),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__FERNET_KEY": _secret(self.home / "fernet_key"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": "4",  # with more, SQLite's locks bring components down
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USERNAME}:admin",
            "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",  # a new or changed file is seen soon
            "AIRFLOW__DATABASE__CHECK_MIGRATIONS": "False",  # they were run a moment ago
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.home / 'airflow.db'}",
            "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
            "AIRFLOW__METRICS__STATSD_ON": "False",
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.3",
            "NO_PROXY": _HOST,
            "PYTHONUNBUFFERED": "1",
            "no_proxy": _HOST,
        }

    def _prepare_home(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.home / "warehouse").mkdir(exist_ok=True)
        config = self.home / "airflow.cfg"
        if not config.exists():  # otherwise every component would write one, at the same time
            config.write_text("# Every setting comes from the environment.\n")
        passwords = _password_file(self.home)
        if not passwords.exists():
            _write_private(passwords, dumps({USERNAME: secrets.token_urlsafe(12)}))
        self._password = read_password(self.home)

    def _migrate(self) -> None:
        """Make the metadata database, once for each version of Airflow."""
        done = self.home / f"migrated-{version('apache-airflow-core')}"
        if done.exists():
            return
        command = [sys.executable, "-m", "airflow", "db", "migrate"]
        migration = start_session(command, self.environment(), self.component_log("db-migrate"))
        if migration.wait() != 0:
            raise LocalAirflowError(f"The database migration failed.\n{self._tail('db-migrate')}")
        done.touch()

    def _wait(self, is_done: Callable[[], bool], timeout: float, problem: str) -> None:
        deadline = time.monotonic() + timeout
        while not is_done():
            self.check_alive()
            if time.monotonic() > deadline:
                logs = "\n".join(self._tail(name, lines=8) for name in self._processes)
                raise LocalAirflowError(f"After {timeout:g} s {problem}.\n{logs}")
            time.sleep(0.2)

    def _is_healthy(self) -> bool:
        """Tell whether every component has reported since the start; older reports are of earlier runs.

        The API for tasks is asked too: it builds its routes at the first request, which takes seconds that
        no task should wait for.
        """
        try:
            answer = self._http.get("/api/v2/monitor/health")
            ready = answer.is_success and self._http.get("/execution/health").is_success
        except httpx.TransportError:
            return False
        return ready and all(self._has_reported(answer.json(), name) for name in _HEARTBEATS)

    def _has_reported(self, health: dict[str, Any], name: str) -> bool:
        heartbeat = health[name][f"latest_{name}_heartbeat"]
        return health[name]["status"] == "healthy" and self._is_recent(heartbeat)

    def _is_parsed(self, dag_id: str) -> bool:
        self._check_imports(dag_id)
        dag = self.find(f"dags/{dag_id}")
        return dag is not None and self._is_recent(dag["last_parsed_time"])

    def _check_imports(self, dag_id: str) -> None:
        for broken in self.api("GET", "importErrors", params={"limit": 100})["import_errors"]:
            file = self.dags_folder / broken["filename"]
            if self._is_recent(broken["timestamp"]) and file.exists() and dag_id in file.read_text():
                raise LocalAirflowError(f"{file} cannot be imported.\n{broken['stack_trace']}")

    def _is_recent(self, instant: str | None) -> bool:
        return instant is not None and datetime.fromisoformat(instant) >= self._started_at

    def _tail(self, name: str, lines: int = 30) -> str:
        file = self.component_log(name)
        text = file.read_text(errors="replace") if file.exists() else ""
        return "\n".join([f"--- the end of {file}", *text.splitlines()[-lines:]])


def read_password(home: Path) -> str:
    """Return the password of the instance with this home."""
    return str(loads(_password_file(home).read_text())[USERNAME])


def _password_file(home: Path) -> Path:
    return home / "simple_auth_manager_passwords.json.generated"  # where Airflow looks for it


def _secret(file: Path) -> str:
    if not file.exists():
        _write_private(file, urlsafe_b64encode(secrets.token_bytes(32)).decode())
    return file.read_text()


def _write_private(file: Path, text: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((_HOST, 0))
        return int(listener.getsockname()[1])

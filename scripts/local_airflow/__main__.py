"""Command line: `python -m scripts.local_airflow --help`."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from scripts.local_airflow.client import AirflowApiError, AirflowClient, RunProgress
from scripts.local_airflow.server import USERNAME, LocalAirflow, LocalAirflowError, read_password
from scripts.local_airflow.state import RunningInstance

_REPOSITORY: Final = Path(__file__).resolve().parents[2]
_PROGRESS_SECONDS: Final = 3.0
_REPORT_OPERATOR: Final = "BatchOnCompleteOperator"
_TROUBLE: Final = ("failed", "upstream_failed")


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logging.getLogger("local_airflow").setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception, so that everything is ended
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except (LocalAirflowError, AirflowApiError, TimeoutError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="local_airflow", description="A real Airflow on this machine, from this checkout."
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--home", type=_path, default=_REPOSITORY / ".airflow", help="its AIRFLOW_HOME")
    start = argparse.ArgumentParser(add_help=False)
    start.add_argument("--dags", type=Path, default=_REPOSITORY / "dags", help="the folder with the DAG files")
    commands = parser.add_subparsers(title="commands", required=True)

    up = commands.add_parser("up", parents=[common, start], help="start it in the background")
    up.set_defaults(command=_up)
    serve = commands.add_parser("serve", parents=[common, start], help="run it in the foreground until Ctrl-C")
    serve.set_defaults(command=_serve)
    for each in (up, serve):
        each.add_argument("--port", type=int, default=8080, help="port of the web page; 0: a free one")

    down = commands.add_parser("down", parents=[common], help="end the one in the background")
    down.set_defaults(command=_down)
    status = commands.add_parser("status", parents=[common], help="tell whether it runs, and how it is")
    status.set_defaults(command=_status)

    run = commands.add_parser(
        "run",
        parents=[common, start],
        help="run one DAG from here, and show how it goes",
        description="Uses the Airflow that runs in this home, or else one of its own, ended with the run.",
    )
    run.add_argument("dag_id", metavar="DAG_ID")
    run.add_argument("--conf", type=json.loads, default={}, help="the run's configuration, as JSON")
    run.add_argument("--timeout", type=float, default=1800, help="seconds the run may take")
    run.set_defaults(command=_run)
    return parser


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


# --- an Airflow that stays ---------------------------------------------------------------------------------


def _up(options: argparse.Namespace) -> int:
    running = RunningInstance.find(options.home)
    if running is None:
        running = _start_in_background(options)
    _print_login(running.url, read_password(options.home))
    print("make down ends it.")
    return 0


def _start_in_background(options: argparse.Namespace) -> RunningInstance:
    options.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = options.home / "runner.log"
    print(f"Starting Airflow, which takes about half a minute (log: {log}) …")
    where = ["--home", options.home, "--dags", options.dags, "--port", options.port]
    command = [sys.executable, "-m", "scripts.local_airflow", "serve", *map(str, where)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=_REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while process.poll() is None:
            running = RunningInstance.find(options.home)
            if running is not None and running.ready:
                return running
            time.sleep(0.3)
    except BaseException:
        process.terminate()
        raise
    raise LocalAirflowError(log.read_text())


def _serve(options: argparse.Namespace) -> int:
    running = RunningInstance.find(options.home)
    if running is not None:
        raise LocalAirflowError(f"An Airflow runs in {options.home} already: {running.url}")
    airflow = LocalAirflow(options.home, options.dags, options.port)
    with RunningInstance.declared(airflow.home, airflow.url) as instance, airflow:
        instance.mark_ready()
        _print_login(airflow.url, airflow.password)
        while True:
            airflow.check_alive()
            time.sleep(1)


def _down(options: argparse.Namespace) -> int:
    running = RunningInstance.find(options.home)
    if running is None:
        print(f"No Airflow runs in {options.home}.")
        return 0
    running.end()
    print("Airflow has ended.")
    return 0


def _status(options: argparse.Namespace) -> int:
    running = RunningInstance.find(options.home)
    if running is None:
        print(f"No Airflow runs in {options.home}.")
        return 1
    health = _log_in(running).api("GET", "monitor/health")
    print(running.url)
    for component, report in health.items():
        print(f"  {component:<15} {report['status']}")
    return 0 if all(report["status"] == "healthy" for report in health.values()) else 1


def _log_in(running: RunningInstance) -> AirflowClient:
    if not running.ready:
        raise LocalAirflowError(f"The Airflow in {running.home} is still starting; try again in a moment.")
    return AirflowClient(running.url, USERNAME, read_password(Path(running.home)))


def _print_login(url: str, password: str) -> None:
    print(f"\nAirflow:  {url}\nuser:     {USERNAME}\npassword: {password}\n", flush=True)


# --- one run of one DAG ------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    running = RunningInstance.find(options.home)
    if running is not None:
        return _run_on(_log_in(running), options, where=running.url)
    print("Starting Airflow …", flush=True)
    airflow = LocalAirflow(options.home, options.dags)
    with RunningInstance.declared(airflow.home, airflow.url) as instance, airflow:
        instance.mark_ready()
        airflow.wait_for_dag(options.dag_id)
        _end_earlier_runs(airflow, options.dag_id)
        return _run_on(airflow, options, where="make up, then log in with what it prints")


def _end_earlier_runs(airflow: AirflowClient, dag_id: str) -> None:
    """Mark runs failed that were interrupted with an earlier command; they would start again beside ours."""
    path = f"dags/{dag_id}/dagRuns"
    unfinished = airflow.api("GET", path, params={"state": ["queued", "running"], "limit": 100})
    for run in unfinished["dag_runs"]:
        print(f"{run['dag_run_id']} was interrupted; it is marked failed.")
        airflow.api("PATCH", f"{path}/{run['dag_run_id']}", json={"state": "failed"})


def _run_on(airflow: AirflowClient, options: argparse.Namespace, where: str) -> int:
    run_id = airflow.trigger(options.dag_id, options.conf)
    print(f"{options.dag_id} {run_id} has begun.", flush=True)
    state = airflow.wait_for_run(options.dag_id, run_id, options.timeout, on_poll=ProgressLines())
    tasks = airflow.task_instances(options.dag_id, run_id)
    for task in tasks:
        if task["operator_name"] == _REPORT_OPERATOR or task["state"] == "failed":
            _print_task(airflow, task)
    print(f"\n{options.dag_id}: {state}")
    print(f"Job instances, dead letters and reports: {options.home / 'batch'}")
    print(f"The same run in the Airflow UI: {where}")
    return 0 if state == "success" else 1


class ProgressLines:
    """Prints one line about a run every few seconds, and when it has ended."""

    def __init__(self) -> None:
        self._printed_at = -_PROGRESS_SECONDS

    def __call__(self, progress: RunProgress) -> None:
        """Print the line, unless the last one is too young."""
        ended = progress.state in ("success", "failed")
        if not ended and progress.elapsed - self._printed_at < _PROGRESS_SECONDS:
            return
        self._printed_at = progress.elapsed
        tasks = " · ".join(f"{count} {state}" for state, count in _in_order(progress.task_states.items()))
        print(f"[{progress.elapsed:5.0f} s] {progress.state:<8} tasks: {tasks}", flush=True)


def _in_order(states: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    order = ["success", "running", "queued", "scheduled", "none"]
    return sorted(states, key=lambda item: (order.index(item[0]) if item[0] in order else -1, item[0]))


def _print_task(airflow: AirflowClient, task: dict[str, Any]) -> None:
    index = int(task["map_index"])
    name = task["task_id"] + (f"[{index}]" if index >= 0 else "")
    log = airflow.task_log(task["dag_id"], task["dag_run_id"], task["task_id"], index)
    lines = [line for line in log.splitlines() if not line.startswith("::")]
    print(f"\n--- {name}: {task['state']}", *lines[-60:], sep="\n")


if __name__ == "__main__":
    sys.exit(main())

"""Command line: `python -m scripts.local_airflow --help`."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from scripts.local_airflow.client import AirflowApiError, AirflowClient
from scripts.local_airflow.outcome import write_outcome
from scripts.local_airflow.progress import ProgressLines
from scripts.local_airflow.server import USERNAME, LocalAirflow, LocalAirflowError, read_password
from scripts.local_airflow.state import RunningInstance

_REPOSITORY: Final = Path(__file__).resolve().parents[2]
_HOME: Final = _REPOSITORY / ".airflow"
_PORT: Final = 8080


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
    common.add_argument("--home", type=_path, default=_HOME, help="its AIRFLOW_HOME")
    start = argparse.ArgumentParser(add_help=False)
    start.add_argument("--dags", type=Path, default=_REPOSITORY / "dags", help="the folder with the DAG files")
    commands = parser.add_subparsers(title="commands", required=True)

    up = commands.add_parser("up", parents=[common, start], help="start it in the background")
    up.set_defaults(command=_up)
    serve = commands.add_parser("serve", parents=[common, start], help="run it in the foreground until Ctrl-C")
    serve.set_defaults(command=_serve)
    for each in (up, serve):
        each.add_argument("--port", type=int, default=_PORT, help="port of the web page; 0: a free one")

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
        up = "make up" if options.home == _HOME else f"python -m scripts.local_airflow up --home {options.home}"
        return _run_on(airflow, options, where=f"{up}, then http://127.0.0.1:{_PORT}")


def _end_earlier_runs(airflow: AirflowClient, dag_id: str) -> None:
    """Mark runs failed that were interrupted with an earlier command; they would start again beside ours."""
    path = f"dags/{dag_id}/dagRuns"
    unfinished = airflow.api("GET", path, params={"state": ["queued", "running"], "limit": 100})
    for run in unfinished["dag_runs"]:
        print(f"{run['dag_run_id']} was interrupted; it is marked failed.")
        airflow.api("PATCH", f"{path}/{run['dag_run_id']}", json={"state": "failed"})


def _run_on(airflow: AirflowClient, options: argparse.Namespace, where: str) -> int:
    run_id = airflow.trigger(options.dag_id, options.conf)
    _say(f"{options.dag_id} {run_id} has begun.")
    lines = ProgressLines(options.home / "batch", _say)
    state = airflow.wait_for_run(options.dag_id, run_id, options.timeout, on_poll=lines)
    write_outcome(airflow, options.home, options.dag_id, run_id, _say)
    _say(f"\n{options.dag_id}: {state}\nThe same run in the Airflow UI: {where}/dags/{options.dag_id}/runs/{run_id}")
    return 0 if state == "success" else 1


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())

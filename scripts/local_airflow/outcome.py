"""What became of a DAG run, for the terminal: the jobs' reports, what failed, and where everything lies."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from batch_provider.engine.complete.report import render_report
from batch_provider.storage.instances.store import InstanceStore, read_result
from scripts.local_airflow.client import AirflowClient
from scripts.local_airflow.progress import find_instances

_VERDICT_OPERATOR: Final = "BatchOnCompleteOperator"


def write_outcome(airflow: AirflowClient, home: Path, dag_id: str, run_id: str, write: Callable[[str], None]) -> None:
    """Write the reports from the store, and of the tasks' logs only why a task failed."""
    failed = [task for task in airflow.task_instances(dag_id, run_id) if task["state"] == "failed"]
    stores = list(find_instances(home / "batch", dag_id, run_id))
    for store in stores:
        for line in _report(store, home / "batch"):
            write(line)
    for line in _failures(airflow, failed, verdicts=not stores):
        write(line)
    if failed:
        write(f"\nLogs of the tasks: {home / 'logs' / f'dag_id={dag_id}' / f'run_id={run_id}'}")


def _report(store: InstanceStore, storage_path: Path) -> Iterable[str]:
    """The report as on_complete has logged it, and the files it speaks of."""
    generation = store.latest()
    result = read_result(generation) if generation else None
    if generation is None or result is None:
        failure = store.load_failure()
        reason = f"{failure.state}\n{failure.error_type}: {failure.message}" if failure else "it did not end"
        yield f"\nJob {store.instance.job}: {reason}"
        return
    folder = storage_path / generation.base
    newest = generation.result_claims()[-1]
    yield f"\n{render_report(result)}\n"
    if result.dead_letters:
        yield f"Dead letters: {folder / 'dead_letters'}"
    yield f"Result:       {folder}/result.{newest}.json"
    for ledger in sorted(folder.glob("ledger.*.duckdb"))[-1:]:
        yield f"Ledger:       {ledger}"


def _failures(airflow: AirflowClient, failed: Iterable[dict[str, Any]], *, verdicts: bool) -> Iterable[str]:
    """A line for each reason, with the tasks that failed for it; a verdict says only what the report has said."""
    reasons: dict[str, list[str]] = {}
    for task in failed:
        if task["operator_name"] == _VERDICT_OPERATOR and not verdicts:
            continue
        index = int(task["map_index"])
        name = task["task_id"] + (f"[{index}]" if index >= 0 else "")
        reason = airflow.task_error(task["dag_id"], task["dag_run_id"], task["task_id"], index)
        reason = (reason or "its log does not say why").removeprefix("AirflowFailException: ")
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        yield f"\n{', '.join(names)} failed:\n  {reason}"

"""Whole DAG runs of the workload `orders` under LocalExecutor, and Airflow's own mapped tasks as a peer.

Starts a real Airflow from this checkout, as `make demo` does (SQLite, LocalExecutor, four tasks at a time), triggers
each DAG as often as asked, and takes the time from the start of the run to its end as Airflow has it.
"""

from __future__ import annotations

import argparse
import shutil
import time
from datetime import datetime
from pathlib import Path

from bench.environments import BENCH
from bench.measure import wait_until_quiet
from bench.orders.generate import customers_file, orders_file
from bench.orders.job import Form, missing
from bench.orders.ledger import verify_ledger
from bench.orders.reference import verify
from bench.results import keep
from scripts.local_airflow.server import LocalAirflow

REPOSITORY = Path.cwd()
TITLES = {
    "orders_step": "this project, per step",
    "orders_fused": "this project, fused",
    "orders_mapped": "Airflow's mapped tasks, one for each 10,000 records",
}
SLOWEST = 100_000
"""Mapped tasks of Airflow take no more than these: a task for each block is about a second."""


def measure(airflow: LocalAirflow, dag_id: str, records: int, out: Path, limit: float) -> None:
    """One run of one DAG, verified and kept."""
    shutil.rmtree(airflow.storage_path, ignore_errors=True)
    for folder in ("target", "status", "work"):
        shutil.rmtree(out / dag_id / folder, ignore_errors=True)
    (out / dag_id / "target").mkdir(parents=True)
    wait_until_quiet(30, 0.5)  # an idle Airflow is not quiet
    run_id = airflow.trigger(dag_id, {})
    state = airflow.wait_for_run(dag_id, run_id, limit)
    run = airflow.api("GET", f"dags/{dag_id}/dagRuns/{run_id}")
    seconds = (datetime.fromisoformat(run["end_date"]) - datetime.fromisoformat(run["start_date"])).total_seconds()
    wrong = [] if state == "success" else [f"the run is {state}"]
    is_ours = dag_id != "orders_mapped"
    wrong += verify(out / dag_id, records, with_status=not is_ours) if not wrong else []
    wrong += verify_ledger(airflow.storage_path, records) if is_ours and not wrong else []
    row = {"dag": dag_id, "title": TITLES[dag_id], "records": records, "seconds": round(seconds, 2), "wrong": wrong}
    keep("airflow", row | {"at": round(time.time())})
    print(f"{dag_id:15} {records:>10,} {seconds:8.1f} s {records / seconds:>10,.0f}/s  {'; '.join(wrong)}", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dags", nargs="*", default=list(TITLES), help=f"default: {' '.join(TITLES)}")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--limit", type=float, default=400, help="seconds a run may take")
    options = parser.parse_args()
    fused = missing(Form(fused=True))
    if fused and "orders_fused" in options.dags:
        print(f"orders_fused: skipped: this version has no {fused}")
        options.dags.remove("orders_fused")
    home, out = BENCH / "work" / "airflow", BENCH / "work" / "airflow-out"
    shutil.rmtree(out, ignore_errors=True)
    sizes = {
        dag_id: min(options.records, SLOWEST) if dag_id == "orders_mapped" else options.records for dag_id in TITLES
    }
    for records in dict.fromkeys(sizes[dag_id] for dag_id in options.dags):
        env = {
            "PYTHONPATH": str(REPOSITORY),
            "BENCH_ORDERS": str(orders_file(records)),
            "BENCH_CUSTOMERS": str(customers_file()),
            "BENCH_OUT": str(out),
        }
        with LocalAirflow(home, BENCH / "dags", env=env) as airflow:
            for dag_id in options.dags:
                airflow.wait_for_dag(dag_id)
            for _ in range(options.rounds):
                for dag_id in options.dags:
                    if sizes[dag_id] == records:
                        measure(airflow, dag_id, records, out, options.limit)
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()

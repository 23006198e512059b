"""The workload `orders` as DAGs: this project per step and fused, and Airflow's own mapped tasks as a peer.

`bench.airflow_dag` starts the Airflow that runs them and says by the environment what to read and where to write.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task

from batch_provider import Files
from bench.orders.job import Form, missing, orders_job
from bench.peers.contract import Run, process_file, split, start, total
from bench.peers.contract import parser as arguments

ORDERS, CUSTOMERS = os.environ["BENCH_ORDERS"], os.environ["BENCH_CUSTOMERS"]
OUT = Path(os.environ["BENCH_OUT"])
WORKERS = 2
OPTIONS: dict[str, Any] = {
    "schedule": None,
    "start_date": datetime(2026, 1, 1, tzinfo=UTC),
    "catchup": False,
    "max_active_runs": 1,
}
FORMS = {"orders_step": Form(shards=WORKERS), "orders_fused": Form(fused=True, shards=WORKERS)}

for dag_id, form in FORMS.items():
    if missing(form) is None:
        target = OUT / dag_id / "target"
        target.mkdir(parents=True, exist_ok=True)
        with DAG(dag_id, **OPTIONS) as made:
            orders_job(form, CUSTOMERS, target, Files(ORDERS))
        globals()[dag_id] = made


def run() -> Run:
    """Of the mapped tasks."""
    where = ["--orders", ORDERS, "--customers", CUSTOMERS, "--out", str(OUT / "orders_mapped")]
    return start(arguments(None).parse_args(where))


@task
def split_input() -> list[str]:
    """Blocks as files."""
    return split(run())


@task
def process_block(name: str) -> dict[str, int]:
    """One block."""
    return dict(process_file(run(), name))


@task
def summary(counts: list[dict[str, int]]) -> None:
    """The sum over all blocks."""
    run().finish(total(list(counts)))


with DAG("orders_mapped", **OPTIONS) as orders_mapped:
    summary(process_block.expand(name=split_input()))  # type: ignore[arg-type]  # an XComArg stands for its value

"""The DAGs that tests/integration runs with `dag.test()`. A run's conf names its input and where to write."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, CronDataIntervalTimetable, dag, task, task_group
from pendulum import timezone

from batch_provider import (
    AcceptPolicy,
    AggregatorSpec,
    BatchAggregatorOperator,
    BatchJob,
    BatchJobOperator,
    BatchJobResult,
    BatchOnCompleteOperator,
    BatchPurgeOperator,
    BatchStageOperator,
    BatchStepOperator,
    BatchStreamOperator,
    Files,
    JobSpec,
    ParquetFiles,
    Records,
    SqlTable,
    StepSpec,
)
from batch_provider.domain.limits import FailureLimit

START = datetime(2020, 1, 1, tzinfo=UTC)
PARAMS = {"input": "", "out": ""}
SOURCE = Files("{{ params.input }}")
manual = dag(schedule=None, start_date=START, params=PARAMS)


class NegativeAmountError(ValueError):
    """No order is worth less than nothing."""


def validate(record: dict[str, Any]) -> None:
    if record["amount"] < 0:
        raise NegativeAmountError(f"amount is {record['amount']}")


def double(record: dict[str, Any]) -> dict[str, int]:
    return {"twice": record["amount"] * 2}


def append(params: dict[str, Any], name: str, value: object) -> None:
    """Add a line to a file of the test."""
    with (Path(params["out"]) / name).open("a", encoding="utf-8") as file:
        file.write(json.dumps(value) + "\n")


def store(records: list[dict[str, Any]], *, params: dict[str, Any]) -> None:
    append(params, "stored", [record["twice"] for record in records])


def quarantine(record: dict[str, Any], *, params: dict[str, Any]) -> None:
    append(params, "quarantined", record["amount"])


def report(result: BatchJobResult, *, params: dict[str, Any]) -> None:
    append(params, "results", result.to_json())


def orders(**options: Any) -> BatchJob:
    with BatchJob("orders", source=SOURCE, **options) as job:
        job.step(validate)
        job.step(double)
        job.aggregator("store", size=4)(store)
        job.step(accept_policy=AcceptPolicy.ONLY_FAILURES)(quarantine)
        job.on_complete(report)
    return job


@manual
def taskflow() -> None:
    """Steps in a task group of the author's own."""
    job = BatchJob("orders", source=SOURCE, max_failed_records=3, block_size=5, shards=2)
    job.on_complete(report)
    load = job.load_task()

    @task_group
    def process(shard: Any) -> None:
        @task.batch_step(job=job, shard=shard, task_options={"retries": 1})
        def check(record: dict[str, Any]) -> None:
            validate(record)

        @task.batch_step(job=job, shard=shard, accept_expression="amount > 3")
        def twice(record: dict[str, Any]) -> dict[str, int]:
            return double(record)

        check() >> twice()

    process.expand(shard=load.output) >> job.on_complete_task()


@manual
def writing() -> None:
    """Rows go to a database behind an Airflow connection."""
    with BatchJob("orders", source=SOURCE, max_failed_records=3, block_size=5, shards=2) as job:
        job.step(double)
        job.write("store", SqlTable("warehouse", "orders", key=["id"]), size=4)
        job.write("lake", ParquetFiles("memory://lake/orders"), size=4)


@manual
def from_a_task() -> None:
    """The records are what another task returned."""

    @task
    def fetch() -> list[dict[str, Any]]:
        return [{"id": number, "amount": number} for number in range(7)]

    with BatchJob("orders", source=Records(fetch()), shards=2) as job:
        job.sql_step("price", checks={"must not be negative": "amount >= 0"}, assign={"twice": "amount * 2"})

        @job.arrow_step
        def again(block: Any) -> Any:
            return block.append_column("same", block["twice"])

        job.aggregator("store", size=4)(store)
        job.on_complete(report)


@manual
def small() -> None:
    orders(max_failed_records=3, block_size=5, shards=2)


@manual
def fused() -> None:
    orders(max_failed_records=3, block_size=5, shards=2, fuse_steps=True)


@manual
def left_in_place() -> None:
    """The input is not copied; an order of 666 has the file written again while the job is at work."""
    source = Files("{{ params.input }}", copy=False)
    with BatchJob("orders", source=source, max_failed_records=3, block_size=5, shards=2) as job:

        @job.step
        def check(record: dict[str, Any], *, params: dict[str, Any]) -> None:
            validate(record)
            if record["amount"] == 666:
                Path(params["input"]).write_text("id,amount\n1,1\n")

        job.sql_step("price", checks={"too dear": "amount < 1000"}, assign={"twice": "amount * 2"})
        job.aggregator("store", size=4)(store)
        job.on_complete(report)


@manual
def fused_by_hand() -> None:
    with DAG("unused", schedule=None):
        job = orders(max_failed_records=3, block_size=5, shards=2, fuse_steps=True).spec
    load = BatchJobOperator(task_id="load", job=job)

    @task_group
    def process(shard: Any) -> None:
        BatchStageOperator(task_id="all_steps", job=job, shard=shard)

    process.expand(shard=load.output) >> BatchOnCompleteOperator(task_id="on_complete", job=job)


@manual
def small_by_hand() -> None:
    job = JobSpec(
        "orders",
        source=SOURCE,
        steps=(
            StepSpec("validate", validate),
            StepSpec("double", double),
            StepSpec("store", store, aggregator=AggregatorSpec(size=4)),
            StepSpec("quarantine", quarantine, accept_policy=AcceptPolicy.ONLY_FAILURES),
        ),
        limit=FailureLimit(3),
        block_size=5,
        shards=2,
        on_complete=report,
    )

    @task_group(group_id="orders")
    def group() -> None:
        load = BatchJobOperator(task_id="load", job=job)

        @task_group
        def process(shard: Any) -> None:
            """The steps of one shard; shards do not wait for each other."""
            (
                BatchStepOperator(task_id="validate", job=job, step="validate", shard=shard)
                >> BatchStepOperator(task_id="double", job=job, step="double", shard=shard)
                >> BatchAggregatorOperator(task_id="store", job=job, step="store", shard=shard)
                >> BatchStepOperator(task_id="quarantine", job=job, step="quarantine", shard=shard)
            )

        processed = process.expand(shard=load.output)
        [load, processed] >> BatchOnCompleteOperator(task_id="on_complete", job=job)

    group()


@manual
def strict() -> None:
    """The first failure stops it; the retries must not be used for that."""
    orders(shards=2, block_size=2, task_options={"retries": 2, "retry_delay": timedelta(0)})


@manual
def eight() -> None:
    orders(shards=8)


@manual
def retrying() -> None:
    orders(max_failed_records=3, shards=1, task_options={"retries": 1, "retry_delay": timedelta(0)})


@manual
def owned() -> None:
    orders(max_failed_records=3, shards=1, job_instance_id="orders-{{ params.number }}")


def total(records: Iterable[dict[str, Any]], *, params: dict[str, Any]) -> None:
    append(params, "total", sum(record["twice"] for record in records))


def label(record: dict[str, Any]) -> dict[str, str]:
    return {"label": f"order {record['id']}"}


@manual
def two_stages() -> None:
    with BatchJob("orders", source=SOURCE, max_failed_records=3, shards=2) as job:
        job.step(validate)
        job.step(double)
        job.aggregator(streaming=True)(total)
        job.step(label)
        job.on_complete(report)


@manual
def two_stages_by_hand() -> None:
    job = JobSpec(
        "orders",
        source=SOURCE,
        steps=(
            StepSpec("validate", validate),
            StepSpec("double", double),
            StepSpec("total", total, aggregator=AggregatorSpec(streaming=True)),
            StepSpec("label", label),
        ),
        limit=FailureLimit(3),
        shards=2,
        on_complete=report,
    )

    @task_group(group_id="orders")
    def group() -> None:
        load = BatchJobOperator(task_id="load", job=job)

        @task_group
        def process(shard: Any) -> None:
            """The steps of one shard; shards do not wait for each other."""
            (
                BatchStepOperator(task_id="validate", job=job, step="validate", shard=shard)
                >> BatchStepOperator(task_id="double", job=job, step="double", shard=shard)
            )

        @task_group
        def process_2(shard: Any) -> None:
            """The steps of one shard; shards do not wait for each other."""
            BatchStepOperator(task_id="label", job=job, step="label", shard=shard)

        first = process.expand(shard=load.output)
        stream = BatchStreamOperator(task_id="total", job=job, step="total", shards=load.output)
        second = process_2.expand(shard=load.output)
        first >> stream >> second
        # All of them: when a shard of the first stage fails, the second is given up while others still run.
        [load, first, stream, second] >> BatchOnCompleteOperator(task_id="on_complete", job=job)

    group()


@dag(
    schedule=CronDataIntervalTimetable("0 0 * * *", timezone=timezone("America/New_York")),
    start_date=datetime(2020, 1, 1, tzinfo=timezone("America/New_York")),
    catchup=False,
    params=PARAMS | {"business_date": None},
)
def dated() -> None:
    with BatchJob("orders", source=Files("{{ params.input }}/orders-{{ business_date }}.csv"), shards=1) as job:
        job.step(double)
        job.on_complete(report)


def doubling(**options: Any) -> None:
    with BatchJob("orders", source=SOURCE, **options) as job:
        job.step(double)


@manual
def in_turn() -> None:
    doubling()


@manual
def side_by_side() -> None:
    doubling(scheduling="round_robin")


@manual
def bounded() -> None:
    doubling(shards=2, max_concurrency=2)


@dag(schedule=None, start_date=START, params=PARAMS | {"landing": ""})
def arriving() -> None:
    """Its input grows and changes while it runs."""
    with BatchJob("orders", source=SOURCE, shards=1) as job:

        @job.step
        def arrive(record: dict[str, Any], *, params: dict[str, Any]) -> None:
            folder = Path(params["landing"])
            for name in ("landed-1.csv", "landed-2.csv"):
                (folder / name).write_text("id,amount\n7,70\n8,80\n")

        @job.step(name="double")
        def double_it(record: dict[str, Any], *, params: dict[str, Any]) -> dict[str, int]:
            append(params, "twice", record["amount"] * 2)
            return double(record)


@manual
def purging() -> None:
    BatchPurgeOperator(task_id="purge", older_than=timedelta(days=7))


arriving()
in_turn()
side_by_side()
bounded()
purging()
small()
small_by_hand()
fused()
left_in_place()
fused_by_hand()
strict()
eight()
retrying()
owned()
two_stages()
two_stages_by_hand()
dated()
taskflow()
from_a_task()
writing()

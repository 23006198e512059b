"""A drawn job as its author writes it: with the builder, and functions that ask for what they need."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batch_provider import BatchJob, Files, JobSpec, ParquetFiles, Records, SqlTable, failed
from tests.properties.model.functions import ACCEPTS, accepts, act, act_on_group, act_on_stream, trouble_of
from tests.properties.model.plan import PAYLOAD, RAISES, Job, Step, World

CONTRACT = {"id": "int64", "n": "int64", "t": "string", "k": "int64"}


def asking(function: Callable[..., Any], asks: tuple[str, ...]) -> Callable[..., Any]:
    """The function with a signature that names these keywords."""
    keywords = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in asks]
    payload = inspect.Parameter("payload", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    function.__signature__ = inspect.Signature([payload, *keywords])  # type: ignore[attr-defined]
    return function


class Author:
    """The job as its author writes it.

    Args:
        job: what is drawn.
        world: what its functions know.
        folder: for files.
    """

    def __init__(self, job: Job, world: World, folder: Path) -> None:
        self.job, self.world, self.folder = job, world, folder

    def spec(self) -> JobSpec:
        """The job as the code of this round declares it."""
        plan = self.job.rounds[self.world.round]
        job = BatchJob(
            "job",
            max_failed_records=plan.limit,
            max_failed_ratio=self.job.ratio,
            minimum_sample=self.job.sample,
            block_size=self.job.block,
            fuse_steps=self.job.fuse,
            variables=dict(self.job.variables),
            max_redrives=self.job.max_redrives,
            max_process_deaths=1_000,  # what a child process calls is not seen here
        )
        for step in self.job.steps:
            options: dict[str, Any] = {"accept_policy": step.policy, "reads": step.reads}
            if step.accept in ACCEPTS:
                options["accept_expression"] = asking(self.rule(step.accept), ACCEPTS[step.accept])
            else:
                options["accept_expression"] = step.accept
            getattr(self, step.kind)(job, step, options)
        return job.spec

    def rule(self, name: str) -> Callable[..., Any]:
        """A callable accept expression."""
        return lambda payload, **keywords: accepts(name, payload, keywords)

    def of_version(self, step: Step, call: Callable[..., Any]) -> Callable[..., Any]:
        """A function whose own code is another one in each version."""

        async def first(payload: Any, **keywords: Any) -> Any:
            return call(0, payload, keywords)

        async def second(payload: Any, **keywords: Any) -> Any:
            return call(1, payload, keywords)

        if step.way == "async":
            return second if self.world.version(step) else first
        if self.world.version(step):
            return lambda payload, **keywords: call(1, payload, keywords)
        return lambda payload, **keywords: call(0, payload, keywords)

    def record(self, job: BatchJob, step: Step, options: dict[str, Any]) -> None:
        """A function of a record; in a transaction it notes the record's number before it may raise."""

        def call(version: int, payload: dict[str, Any], keywords: dict[str, Any]) -> Any:
            if step.transaction:
                connection = keywords.pop("connection")
                number = keywords.get("record_id", payload.get("id"))
                connection.execute(f"INSERT INTO log_{step.name} VALUES (?)", [number])
            return act(step, self.world, version, payload, keywords)

        job.step(
            name=step.name,
            drop=step.drop,
            output=step.output,
            on_code_change="reprocess" if step.reprocess else "keep",
            retries=step.retries,
            retry_on=RAISES["down"] if step.retry_on == "down" else Exception,
            retry_delay=0.0001,
            concurrency=1 if step.way == "plain" else 3,
            transaction="db" if step.transaction else None,
            **options,
        )(asking(self.of_version(step, call), (*step.asks, *(["connection"] if step.transaction else []))))

    def sql(self, job: BatchJob, step: Step, options: dict[str, Any]) -> None:
        """Each check has itself as its message."""
        job.sql_step(step.name, checks={text: text for text in step.checks}, assign=dict(step.assign), **options)

    def arrow(self, job: BatchJob, step: Step, options: dict[str, Any]) -> None:
        """Raises for a block with bad records, or marks them."""

        def function(block: pa.RecordBatch) -> Any:
            kinds = [trouble_of(step, self.world, number) for number in block["id"].to_pylist()]
            for kind in kinds:
                if kind in RAISES:
                    raise RAISES[kind](f"{len(kinds)} records")
            made = block
            for patch in step.patches:
                column = pc.add(pc.multiply(block["n"].cast("int64"), 2), 1)
                at = made.schema.get_field_index(patch.key)
                made = made.append_column(patch.key, column) if at < 0 else made.set_column(at, patch.key, column)
            return failed([kind == "check" for kind in kinds], "bad", made) if "check" in kinds else made

        job.arrow_step(name=step.name, **options)(function)

    def group(self, job: BatchJob, step: Step, options: dict[str, Any]) -> None:
        """A function of a group."""

        def call(version: int, payload: list[dict[str, Any]], keywords: dict[str, Any]) -> Any:
            if step.transaction:
                connection = keywords.pop("connection")
                numbers = keywords.get("record_ids") or [record.get("id") for record in payload]
                connection.cursor().executemany(f"INSERT INTO log_{step.name} VALUES (?)", [[n] for n in numbers])
            return act_on_group(step, self.world, version, payload, keywords)

        job.aggregator(
            step.name,
            size=step.size,
            on_error="isolate" if step.isolate else "fail_group",
            transaction="db" if step.transaction else None,
            on_code_change="reprocess" if step.reprocess else "keep",
            **options,
        )(asking(self.of_version(step, call), (*step.asks, *(["connection"] if step.transaction else []))))

    def stream(self, job: BatchJob, step: Step, options: dict[str, Any]) -> None:
        """A function of all."""
        job.aggregator(step.name, streaming=True, on_redrive=step.on_redrive, **options)(
            lambda records: act_on_stream(step, self.world, records)
        )

    def table(self, job: BatchJob, step: Step, options: dict[str, Any]) -> None:
        """SqlTable."""
        key = [step.key] if step.key else []
        job.write(
            step.name, SqlTable("db", f"rows_{step.name}", key=key, columns=step.columns), size=step.size, **options
        )

    def files(self, job: BatchJob, step: Step, options: dict[str, Any]) -> None:
        """ParquetFiles."""
        job.write(step.name, self.lake(step), size=step.size, **options)

    def lake(self, step: Step) -> ParquetFiles:
        """Where a writer of files writes to."""
        return ParquetFiles(str(self.folder / step.name), columns=step.columns)

    def source(self) -> Any:
        """The input, as it is given."""
        records = self.job.records
        if self.job.source == "records":
            return Records(list(records), schema=CONTRACT)
        file = self.folder / f"input.{self.job.source}"
        if self.job.source == "csv":
            lines = [
                ",".join("" if record.get(name) is None else str(record[name]) for name in PAYLOAD)
                if isinstance(record, dict) and "_id" not in record
                else f"{record},what,is,this,line"
                for record in records
            ]
            lines.insert(0, ",".join(PAYLOAD))
        else:
            lines = [
                json.dumps(record) if isinstance(record, dict) and "_id" not in record else f"not json {record}"
                for record in records
            ]
        file.write_text("\n".join([*lines, ""]))
        return Files(str(file), schema=CONTRACT)

"""The workload `orders` as a job of this project, in the ways that it can be written."""

from __future__ import annotations

import inspect
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batch_provider import BatchJob, ParquetFiles
from bench.orders.functions import (
    ACCEPT,
    ENRICH_READS,
    OUTPUT_COLUMNS,
    VALIDATE_READS,
    Customer,
    Record,
    arrow_schema,
    load_customers,
    make_enrich,
    validate,
)

GROUP = 10_000
CHECKS = {
    "customer missing": "customer <> ''",
    "amount not a number": "try_cast(amount AS DOUBLE) IS NOT NULL",
    "qty must be > 0": "qty > 0",
}
ASSIGN = {"amount_cents": "cast(round(try_cast(amount AS DOUBLE) * 100) AS BIGINT)"}


@dataclass(frozen=True)
class Form:
    """One way to write the job.

    Attributes:
        variant: P: functions for each record, V: SQL and Arrow.
        fused: all steps in one pass and one checkpoint.
        store: the last step: ``writer``: the built-in ``ParquetFiles``; ``function``: an aggregator of the author's
            that takes a list of records; ``arrow``: a function of the author's that takes Arrow blocks.
        reads: P: each step says which columns it reads.
        shards: as the job's option.
    """

    variant: str = "P"
    fused: bool = False
    store: str = "writer"
    reads: bool = True
    shards: int | None = None


def missing(form: Form) -> str | None:
    """What this version of the project lacks for the form, or None."""
    if form.fused and "fuse_steps" not in inspect.signature(BatchJob.__init__).parameters:
        return "fuse_steps"
    wanted = ["sql_step", "arrow_step"] if form.variant == "V" else ["arrow_step"] if form.store == "arrow" else []
    return next((name for name in wanted if not hasattr(BatchJob, name)), None)


def orders_job(form: Form, customers: str, target: Path, source: Any = None) -> BatchJob:
    """The job; ``target`` is the folder that the step store writes to."""
    options: dict[str, Any] = {"fuse_steps": True} if form.fused else {}
    with BatchJob("orders", source, max_failed_records=-1, shards=form.shards, **options) as job:
        if form.variant == "V":
            _vectorised_steps(job, customers)
        else:
            _record_steps(job, form, customers)
        _store_step(job, form, target)
    return job


def _store_step(job: BatchJob, form: Form, target: Path) -> None:
    if form.store == "writer":
        files = ParquetFiles(str(target), columns=OUTPUT_COLUMNS, compression="snappy")
        job.write("store", files, size=GROUP, accept_expression=ACCEPT)
    elif form.store == "arrow":
        job.arrow_step(_load_block(target), name="store", accept_expression=ACCEPT, reads=OUTPUT_COLUMNS)
    else:
        options: dict[str, Any] = {"size": GROUP, "reads": OUTPUT_COLUMNS} if form.reads else {"size": GROUP}
        job.aggregator("store", accept_expression=ACCEPT, **options)(_load_group(target))


class _Customers(dict[int, Customer]):
    """The dimension, read when the first record asks for it: in the process that works, not in the parser."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def __missing__(self, key: int) -> Customer:
        if self:
            raise KeyError(key)
        self.update(load_customers(self._path))
        return self[key]


def _record_steps(job: BatchJob, form: Form, customers: str) -> None:
    first: dict[str, Any] = {"reads": VALIDATE_READS} if form.reads else {}
    second: dict[str, Any] = {"reads": ENRICH_READS} if form.reads else {}
    job.step(name="validate", **first)(validate)
    job.step(name="enrich", accept_expression=ACCEPT, **second)(make_enrich(_Customers(customers)))


def _vectorised_steps(job: BatchJob, customers: str) -> None:
    known: list[Any] = []

    def enrich(block: Any) -> Any:
        import pyarrow as pa

        from bench.orders.vectorised import Vectorised

        if not known:
            known.append(Vectorised(customers))
        return pa.table(known[0].columns(block))

    job.sql_step("validate", checks=CHECKS, assign=ASSIGN)
    job.arrow_step(enrich, name="enrich", accept_expression=ACCEPT, reads=ENRICH_READS)


def _load_group(target: Path) -> Callable[[list[Record]], None]:
    def load(records: list[Record]) -> None:
        import pyarrow as pa

        _write(pa.Table.from_pylist(records, schema=arrow_schema(OUTPUT_COLUMNS)), target)

    return load


def _load_block(target: Path) -> Callable[[Any], None]:
    def load(block: Any) -> None:
        import pyarrow as pa

        _write(pa.table(block).select(list(OUTPUT_COLUMNS)), target)

    return load


def _write(table: Any, target: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(table, target / f"{os.getpid()}-{uuid.uuid4().hex}.parquet")

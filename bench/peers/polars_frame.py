"""Polars: variant V is its streaming engine; P is map_elements, a Python function for each record of a block."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from bench.orders.functions import OUTPUT_COLUMNS, STATUS_COLUMNS, TYPES, Record, load_customers, make_enrich
from bench.orders.made import Counts
from bench.peers.contract import BLOCK, COMBINED_COLUMNS, Run, combined_record, parser, start


def vectorised(run: Run) -> Counts:
    """Two lazy queries over the same input, each streamed to its file."""
    import polars as pl

    column, literal = pl.col, pl.lit
    checked = pl.scan_parquet(run.orders).with_columns(number=column("amount").cast(pl.Float64, strict=False))
    checked = checked.with_columns(
        error=pl.when(column("customer").is_null() | (column("customer") == ""))
        .then(literal("customer missing"))
        .when(column("number").is_null())
        .then(pl.concat_str(literal("amount not a number: "), column("amount").fill_null("")))
        .when(column("qty") <= 0)
        .then(pl.concat_str(literal("qty must be > 0: "), column("qty").cast(pl.String)))
    ).with_columns(filtered=column("error").is_null() & column("sku").str.starts_with("TEST-"))
    worth = column("amount_cents") * column("qty") * (100 - column("discount_pct"))
    good = (
        checked.filter(column("error").is_null() & ~column("filtered"))
        .join(pl.scan_parquet(run.customers), on="customer_id", maintain_order="none")
        .with_columns(amount_cents=(column("number") * 100).round().cast(pl.Int64))
        .with_columns(net=worth // 100)
        .with_columns(tax=column("net") * column("tax_permille") // 1000)
        .with_columns(total=column("net") + column("tax"))
        .with_columns(
            href=(column("order_id") * 2654435761 + column("total") * 40503) % 4294967296,
            note_norm=column("note").str.to_lowercase().str.strip_chars().str.replace_all("  +", " "),
        )
        .select(OUTPUT_COLUMNS)
    )
    good.sink_parquet(run.target / "all.parquet", engine="streaming", maintain_order=False)
    failed, filtered = column("error").is_not_null(), column("filtered")
    status = checked.select(
        record_id="order_id",
        step=pl.when(failed)
        .then(literal("validate"))
        .when(filtered)
        .then(literal("enrich"))
        .otherwise(literal("store")),
        status=pl.when(failed)
        .then(literal("FAILED"))
        .when(filtered)
        .then(literal("FILTERED"))
        .otherwise(literal("SUCCESS")),
        error="error",
    )
    if run.status:
        status.sink_parquet(run.statuses / "all.parquet", engine="streaming", maintain_order=False)
        status = pl.scan_parquet(run.statuses / "all.parquet")
    rows = status.group_by("step", "status").agg(pl.len()).collect(engine="streaming").rows()
    return Counter({f"{step}/{outcome}": count for step, outcome, count in rows})


def by_record(run: Run) -> Counts:
    """A block at a time, so that memory is bounded."""
    import polars as pl

    kinds: dict[str, Any] = {"int64": pl.Int64, "string": pl.String, "timestamp[us]": pl.Datetime("us")}
    row_type = pl.Struct({name: kinds[TYPES[name]] for name in COMBINED_COLUMNS})
    enrich = make_enrich(load_customers(run.customers))

    def process(record: Record) -> Record:
        return combined_record(record, enrich)

    counts: Counts = Counter()
    batches = pl.scan_parquet(run.orders).collect_batches(chunk_size=BLOCK, maintain_order=False)
    for number, block in enumerate(batches):
        records = block.select(record=pl.struct(pl.all()))
        rows = records.select(pl.col("record").map_elements(process, return_dtype=row_type)).unnest("record")
        for step, outcome, count in rows.group_by("step", "status").len().rows():
            counts[f"{step}/{outcome}"] += count
        name = f"{number:05}.parquet"
        rows.filter(pl.col("status") == "SUCCESS").select(OUTPUT_COLUMNS).write_parquet(run.target / name)
        if run.status:
            rows.select(STATUS_COLUMNS).write_parquet(run.statuses / name)
    return counts


def main() -> None:
    """Run it."""
    run = start(parser(__doc__).parse_args())
    os.environ["POLARS_MAX_THREADS"] = str(run.workers)
    run.finish(vectorised(run) if run.variant == "V" else by_record(run))


if __name__ == "__main__":
    main()

"""Daft on its native runner: variant V is expressions, P a row-wise function that returns a struct."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from bench.orders.functions import (
    INPUT_COLUMNS,
    OUTPUT_COLUMNS,
    STATUS_COLUMNS,
    TYPES,
    load_customers,
    make_enrich,
)
from bench.peers.contract import COMBINED_COLUMNS, Run, combined_record, parser, start

_ENRICH: dict[str, Any] = {}


def vectorised(run: Run) -> tuple[Any, Any]:
    """Loaded rows and status rows as lazy frames."""
    import daft
    from daft import DataType, col, lit
    from daft import functions as f

    text = DataType.string()
    checked = daft.read_parquet(run.orders).with_column("number", f.try_cast(col("amount"), DataType.float64()))
    checked = checked.with_column(
        "error",
        f.when(col("customer").is_null() | (col("customer") == ""), lit("customer missing"))
        .when(col("number").is_null(), lit("amount not a number: ") + f.coalesce(col("amount"), lit("")))
        .when(col("qty") <= 0, lit("qty must be > 0: ") + col("qty").cast(text))
        .otherwise(lit(None).cast(text)),
    )
    checked = checked.with_column("filtered", col("error").is_null() & f.startswith(col("sku"), "TEST-"))
    good = checked.where(col("error").is_null() & ~col("filtered"))
    good = good.join(daft.read_parquet(run.customers), on="customer_id")
    whole = DataType.int64()
    good = good.with_column("amount_cents", (col("number") * 100).round().cast(whole))
    worth = col("amount_cents") * col("qty") * (100 - col("discount_pct"))
    good = good.with_column("net", (worth // 100).cast(whole))
    good = good.with_column("tax", (col("net") * col("tax_permille") // 1000).cast(whole))
    good = good.with_column("total", col("net") + col("tax"))
    good = good.with_column("href", (col("order_id") * 2654435761 + col("total") * 40503) % 4294967296)
    trimmed = f.rstrip(f.lstrip(f.lower(col("note"))))
    good = good.with_column("note_norm", f.regexp_replace(trimmed, "  +", " ")).select(*OUTPUT_COLUMNS)
    failed = col("error").not_null()
    step = f.when(failed, lit("validate")).when(col("filtered"), lit("enrich")).otherwise(lit("store"))
    outcome = f.when(failed, lit("FAILED")).when(col("filtered"), lit("FILTERED")).otherwise(lit("SUCCESS"))
    number = col("order_id").alias("record_id")
    return good, checked.select(number, step.alias("step"), outcome.alias("status"), col("error"))


def by_record(run: Run) -> tuple[Any, Any]:
    """The same two frames, by a Python function for each row."""
    import daft
    from daft import DataType, col

    kinds = {"int64": DataType.int64(), "string": DataType.string(), "timestamp[us]": DataType.timestamp("us")}
    row_type = DataType.struct({name: kinds[TYPES[name]] for name in COMBINED_COLUMNS})

    @daft.func(return_dtype=row_type)
    def process(  # type: ignore[no-untyped-def]  # noqa: ANN202, PLR0913, PLR0917  # Daft reads the signature
        order_id: Any,
        customer_id: Any,
        customer: Any,
        amount: Any,
        currency: Any,
        ordered_at: Any,
        sku: Any,
        qty: Any,
        note: Any,
    ):
        if not _ENRICH:
            _ENRICH["enrich"] = make_enrich(load_customers(run.customers))
        values = (order_id, customer_id, customer, amount, currency, ordered_at, sku, qty, note)
        return combined_record(dict(zip(INPUT_COLUMNS, values, strict=True)), _ENRICH["enrich"])

    made = daft.read_parquet(run.orders).select(process(*[col(name) for name in INPUT_COLUMNS]).alias("row"))
    rows = made.select(*[col("row")[name].alias(name) for name in COMBINED_COLUMNS]).collect()
    return rows.where(col("status") == "SUCCESS").select(*OUTPUT_COLUMNS), rows.select(*STATUS_COLUMNS)


def main() -> None:
    """Run it."""
    run = start(parser(__doc__).parse_args())
    os.environ.update(DAFT_PROGRESS_BAR="0", DAFT_ANALYTICS_ENABLED="0", DO_NOT_TRACK="1")
    import daft

    daft.set_runner_native(num_threads=run.workers)
    good, status = vectorised(run) if run.variant == "V" else by_record(run)
    good.write_parquet(str(run.target))
    if run.status:
        status.write_parquet(str(run.statuses))
        status = daft.read_parquet(f"{run.statuses}/*.parquet")
    rows = status.groupby("step", "status").agg(daft.col("record_id").count().alias("n")).to_pylist()
    run.finish(Counter({f"{row['step']}/{row['status']}": row["n"] for row in rows}))


if __name__ == "__main__":
    main()

"""PySpark in one machine: variant V is SQL expressions and a broadcast join, P mapInArrow with a loop over records."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

from bench.orders.functions import OUTPUT_COLUMNS, STATUS_COLUMNS, TYPES, arrow_schema, load_customers, make_enrich
from bench.peers.contract import BLOCK, COMBINED_COLUMNS, Run, combined_record, parser, start

_ERROR = """CASE WHEN customer IS NULL OR customer = '' THEN 'customer missing'
    WHEN number IS NULL THEN concat('amount not a number: ', coalesce(amount, ''))
    WHEN qty <= 0 THEN concat('qty must be > 0: ', qty) END"""


def session(run: Run) -> Any:
    """A session with as many threads as there are workers."""
    from pyspark.sql import SparkSession

    options = {
        "spark.ui.enabled": "false",
        "spark.driver.memory": "4g",
        "spark.sql.shuffle.partitions": str(run.workers),
        "spark.local.dir": str(run.work),
        "spark.sql.ansi.enabled": "false",
        "spark.sql.execution.arrow.maxRecordsPerBatch": str(BLOCK),
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.files.maxPartitionBytes": "32m",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.log.level": "ERROR",
    }
    builder = SparkSession.builder.master(f"local[{run.workers}]")
    for name, value in options.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


def vectorised(spark: Any, run: Run) -> tuple[Any, Any]:
    """Loaded rows and status rows as lazy frames."""
    from pyspark.sql import functions as f

    checked = spark.read.parquet(run.orders).withColumn("number", f.expr("try_cast(amount AS DOUBLE)"))
    checked = checked.withColumn("error", f.expr(_ERROR))
    checked = checked.withColumn("filtered", f.expr("error IS NULL AND startswith(sku, 'TEST-')"))
    good = checked.where("error IS NULL AND NOT filtered")
    good = good.join(f.broadcast(spark.read.parquet(run.customers)), "customer_id")
    for name, expression in {
        "amount_cents": "cast(round(number * 100) AS BIGINT)",
        "net": "(amount_cents * qty * (100 - discount_pct)) DIV 100",
        "tax": "(net * tax_permille) DIV 1000",
        "total": "net + tax",
        "href": "(order_id * 2654435761L + total * 40503L) % 4294967296L",
        "note_norm": "regexp_replace(trim(lower(note)), '  +', ' ')",
    }.items():
        good = good.withColumn(name, f.expr(expression))
    step = "CASE WHEN error IS NOT NULL THEN 'validate' WHEN filtered THEN 'enrich' ELSE 'store' END"
    outcome = "CASE WHEN error IS NOT NULL THEN 'FAILED' WHEN filtered THEN 'FILTERED' ELSE 'SUCCESS' END"
    status = checked.selectExpr("order_id AS record_id", f"{step} AS step", f"{outcome} AS status", "error")
    return good.select(*OUTPUT_COLUMNS), status


def by_record(spark: Any, run: Run) -> tuple[Any, Any]:
    """The same two frames, by a Python function for each record."""
    from pyspark import StorageLevel

    kinds = {"int64": "BIGINT", "string": "STRING", "timestamp[us]": "TIMESTAMP_NTZ"}
    schema = ", ".join(f"{name} {kinds[TYPES[name]]}" for name in COMBINED_COLUMNS)
    customers = run.customers

    def process(batches: Iterator[Any]) -> Iterator[Any]:
        import pyarrow as pa

        enrich = make_enrich(load_customers(customers))
        for batch in batches:
            rows = [combined_record(record, enrich) for record in batch.to_pylist()]
            yield pa.RecordBatch.from_pylist(rows, schema=arrow_schema(COMBINED_COLUMNS))

    rows = spark.read.parquet(run.orders).mapInArrow(process, schema).persist(StorageLevel.MEMORY_AND_DISK)
    return rows.where("status = 'SUCCESS'").select(*OUTPUT_COLUMNS), rows.select(*STATUS_COLUMNS)


def main() -> None:
    """Run it."""
    run = start(parser(__doc__).parse_args())
    os.environ["PYSPARK_PYTHON"] = sys.executable
    spark = session(run)
    good, status = vectorised(spark, run) if run.variant == "V" else by_record(spark, run)
    good.write.parquet(str(run.target), mode="overwrite")
    if run.status:
        status.write.parquet(str(run.statuses), mode="overwrite")
        status = spark.read.parquet(str(run.statuses))
    rows = status.groupBy("step", "status").count().collect()
    run.finish(Counter({f"{step}/{outcome}": count for step, outcome, count in rows}))
    spark.stop()


if __name__ == "__main__":
    main()

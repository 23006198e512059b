"""Ray Data: variant P is map over records, V map_batches over Arrow."""

from __future__ import annotations

import logging
import os
from collections import Counter
from typing import Any

from bench.orders.functions import OUTPUT_COLUMNS, STATUS_COLUMNS, Record, arrow_schema, load_customers, make_enrich
from bench.orders.made import Counts
from bench.peers.contract import BLOCK, COMBINED_COLUMNS, Run, combined_record, parser, start

_CACHE: dict[str, Any] = {}


def processed(dataset: Any, run: Run) -> Any:
    """One row for each record: loaded columns, then status columns."""
    customers = run.customers

    def by_record(record: Record) -> Record:
        if not _CACHE:
            _CACHE["enrich"] = make_enrich(load_customers(customers))
        return combined_record(record, _CACHE["enrich"])

    def by_block(table: Any) -> Any:
        import pyarrow as pa
        import pyarrow.compute as pc

        from bench.orders.vectorised import Vectorised

        if not _CACHE:
            _CACHE["vectorised"] = Vectorised(customers)
        made = _CACHE["vectorised"].process(table, status=True)
        succeeded = pc.equal(made.status["status"], "SUCCESS")
        top, rest = made.status.filter(succeeded), made.status.filter(pc.invert(succeeded))
        schema = arrow_schema(COMBINED_COLUMNS)
        empty = [pa.nulls(rest.num_rows, field.type) for field in arrow_schema(OUTPUT_COLUMNS)]
        first = pa.table([*made.good.columns, *top.columns], schema=schema)
        return pa.concat_tables([first, pa.table([*empty, *rest.columns], schema=schema)])

    # tasks, not actors: two actors on two processors would leave none for the tasks that read
    if run.variant == "P":
        return dataset.map(by_record)
    return dataset.map_batches(by_block, batch_format="pyarrow", batch_size=BLOCK, zero_copy_batch=True)


def succeeded(table: Any) -> Any:
    """The rows to load; a column of datetimes and None is a column of pickled objects for Ray."""
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = table.filter(pc.equal(table["status"], "SUCCESS")).select(list(OUTPUT_COLUMNS))
    column, kind = rows["ordered_at"], arrow_schema(("ordered_at",)).field(0).type
    if column.type != kind:
        values = pa.array(column.to_pylist(), kind)
        rows = rows.set_column(rows.column_names.index("ordered_at"), "ordered_at", values)
    return rows


def main() -> None:
    """Run it."""
    run = start(parser(__doc__).parse_args())
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(
        num_cpus=run.workers,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=2 << 30,
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel("ERROR")
    rows = processed(ray.data.read_parquet(run.orders), run).materialize()
    rows.map_batches(succeeded, batch_format="pyarrow", batch_size=None).write_parquet(str(run.target))
    status = rows.select_columns(list(STATUS_COLUMNS))
    if run.status:
        status.write_parquet(str(run.statuses))
    counts: Counts = Counter()
    for table in status.iter_batches(batch_format="pyarrow", batch_size=None):
        for row in table.group_by(["step", "status"]).aggregate([([], "count_all")]).to_pylist():
            counts[f"{row['step']}/{row['status']}"] += row["count_all"]
    run.finish(counts)
    ray.shutdown()


if __name__ == "__main__":
    main()

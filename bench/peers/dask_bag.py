"""Dask with its scheduler of processes: variant P is a bag of records, V a delayed call for each block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from bench.orders.functions import (
    OUTPUT_COLUMNS,
    STATUS_COLUMNS,
    Fate,
    Record,
    arrow_schema,
    load_customers,
    make_enrich,
    run_record,
)
from bench.orders.made import Counts
from bench.peers.contract import BLOCK, Run, parser, process_file, split, start, total

_ENRICH: dict[str, Any] = {}


def read_group(path: str, group: int) -> list[Record]:
    """One row group as records."""
    import pyarrow.parquet as pq

    return list(pq.ParquetFile(path).read_row_group(group).to_pylist())


def process(record: Record, customers: str) -> tuple[int, Record | None, Fate]:
    """One record."""
    if not _ENRICH:
        _ENRICH["enrich"] = make_enrich(load_customers(customers))
    number = record["order_id"]
    return number, *run_record(record, _ENRICH["enrich"])


def store(processed: Iterable[tuple[int, Record | None, Fate]], run: Run) -> list[Counts]:
    """Write the rows of one partition, in blocks."""
    import uuid

    import pyarrow as pa
    import pyarrow.parquet as pq

    counts: Counts = Counter()
    rows_of_partition = list(processed)
    for start_at in range(0, len(rows_of_partition), BLOCK):
        part = rows_of_partition[start_at : start_at + BLOCK]
        name = f"{uuid.uuid4().hex}.parquet"
        good = [record for _, record, _ in part if record is not None]
        pq.write_table(pa.Table.from_pylist(good, schema=arrow_schema(OUTPUT_COLUMNS)), run.target / name)
        counts.update(f"{fate.step}/{fate.status}" for _, _, fate in part)
        if run.status:
            rows = [dict(zip(STATUS_COLUMNS, (number, *fate), strict=True)) for number, _, fate in part]
            pq.write_table(pa.Table.from_pylist(rows, schema=arrow_schema(STATUS_COLUMNS)), run.statuses / name)
    return [counts]


def main() -> None:
    """Run it."""
    run = start(parser(__doc__).parse_args())
    import dask
    import pyarrow.parquet as pq

    options: dict[str, Any] = {"scheduler": "processes", "num_workers": run.workers}
    if run.variant == "P":
        import dask.bag

        groups = range(pq.ParquetFile(run.orders).num_row_groups)
        bag = dask.bag.from_delayed([dask.delayed(read_group)(run.orders, group) for group in groups])
        parts = bag.map(process, run.customers).map_partitions(store, run).compute(**options)
    else:
        parts = dask.compute(*[dask.delayed(process_file)(run, name) for name in split(run)], **options)
    run.finish(total(parts))


if __name__ == "__main__":
    main()

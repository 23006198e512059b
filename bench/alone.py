"""The author's functions alone: what a run cannot do without, whatever runs them.

Records are dicts already, nothing else is timed: validate, accept and enrich for each record, store for each group of
10,000. What this project takes beyond that, in one process, is its own cost.
"""

from __future__ import annotations

import argparse
import gc
import time

import pyarrow as pa
import pyarrow.parquet as pq

from bench.environments import BENCH
from bench.orders.functions import OUTPUT_COLUMNS, accept, arrow_schema, load_customers, make_enrich, validate
from bench.orders.generate import customers_file, orders_file
from bench.orders.job import GROUP
from bench.results import keep


def seconds(records: int) -> dict[str, float]:
    """Seconds of each function over N records; the cyclic collector is off, as in the engine."""
    enrich = make_enrich(load_customers(str(customers_file())))
    target = BENCH / "work" / "alone.parquet"
    target.parent.mkdir(exist_ok=True)
    found = dict.fromkeys(("validate", "accept", "enrich", "store"), 0.0)
    for batch in pq.ParquetFile(orders_file(records)).iter_batches(GROUP):
        rows = batch.to_pylist()
        gc.collect()
        gc.disable()
        at = time.perf_counter()
        valid = []
        for record in rows:
            try:
                record.update(validate(record))
                valid.append(record)
            except ValueError:
                pass
        at = _add(found, "validate", at)
        taken = [record for record in valid if accept(record)]
        at = _add(found, "accept", at)
        for record in taken:
            record.update(enrich(record))
        at = _add(found, "enrich", at)
        pq.write_table(pa.Table.from_pylist(taken, schema=arrow_schema(OUTPUT_COLUMNS)), target)
        _add(found, "store", at)
        gc.enable()
    target.unlink()
    return found


def _add(found: dict[str, float], name: str, since: float) -> float:
    now = time.perf_counter()
    found[name] += now - since
    return time.perf_counter()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    options = parser.parse_args()
    found = seconds(options.records)
    whole = sum(found.values())
    for name, value in found.items():
        print(f"{name:10}{value:8.2f} s {value / options.records * 1e6:8.2f} µs a record")
    print(f"{'all':10}{whole:8.2f} s {whole / options.records * 1e6:8.2f} µs a record")
    keep("alone", {"records": options.records, "seconds": round(whole, 3), **found})


if __name__ == "__main__":
    main()

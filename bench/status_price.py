"""What the status of every record costs this project, which has no switch to leave it out.

Runs the workload once, then encodes each checkpoint of it as it is and without the columns of status (number,
outcome, epochs, error), best of three; to the difference comes the time in which on-complete makes ledger and report.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batch_provider.domain.tally import Tally
from batch_provider.storage.reading.checkpoint_file import Footer, encode
from bench import ours
from bench.environments import BENCH
from bench.orders.generate import customers_file, orders_file
from bench.results import keep

OWN = ("_id", "_status", "_in", "_out", "_error")


def price(store: Path) -> tuple[float, int]:
    """Seconds and bytes that the columns of status take in all checkpoints of a store."""
    seconds, size = 0.0, 0
    for path in store.rglob("steps/**/*.parquet"):
        table = pq.ParquetFile(path).read(use_threads=False)
        without = table.drop_columns([name for name in OWN if name in table.column_names])
        took_all, size_all = _encode(table)
        took_rest, size_rest = _encode(without) if without.column_names else (0.0, 0)
        seconds += took_all - took_rest
        size += size_all - size_rest
    return seconds, size


def _encode(table: pa.Table) -> tuple[float, int]:
    took: list[float] = []
    for _ in range(3):
        began = time.perf_counter()
        buffer, _ = encode(table, Footer("price", {}, Tally()))
        took.append(time.perf_counter() - began)
    return min(took), buffer.size


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--form", choices=("step", "fused"), default="step")
    parser.add_argument("--variant", choices=("P", "V"), default="P")
    options = parser.parse_args()
    out = BENCH / "work" / "price"
    shutil.rmtree(out, ignore_errors=True)
    arguments = ours.parser().parse_args(
        [
            *("--orders", str(orders_file(options.records)), "--customers", str(customers_file())),
            *("--out", str(out), "--variant", options.variant, "--form", options.form, "--workers", "1"),
        ]
    )
    summary = ours.run(arguments)
    seconds, size = price(out / "store")
    complete = summary["phases"]["complete"]
    shutil.rmtree(out)
    whole = summary["seconds"]
    row = {
        "variant": options.variant,
        "form": options.form,
        "records": options.records,
        "seconds": whole,
        "columns": round(seconds, 3),
        "bytes": size,
        "complete": complete,
    }
    keep("price", row)
    print(
        f"{options.records:,} records in {whole:.2f} s; the columns of status take {seconds:.2f} s "
        f"({seconds / whole:.1%}) and {size / 1e6:.2f} MB; on-complete takes {complete:.2f} s ({complete / whole:.1%})"
    )


if __name__ == "__main__":
    main()

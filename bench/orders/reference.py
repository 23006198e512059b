"""What a correct run of `orders` gives, and the check of a run against it.

Counts of every status and error, and checksums of the columns, from a pass of plain Python that shares no engine
with anybody. For more than a million records SQL takes the place of plain Python; the two agree on a million.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from bench.orders.functions import load_customers, make_enrich, run_record
from bench.orders.generate import DATA, customers_file, orders_file
from bench.orders.sql import CHECKED, GOOD, STATUS

_IN_PYTHON = 1_000_000
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  # the column has no zone

TARGET_SQL = """
SELECT count(*), count(DISTINCT order_id), sum(amount_cents)::HUGEINT, sum(net)::HUGEINT, sum(tax)::HUGEINT,
    sum(total)::HUGEINT, sum(href)::HUGEINT, sum(length(note_norm))::HUGEINT, sum(length(tier || country))::HUGEINT,
    sum(length(customer || currency || sku))::HUGEINT, sum(customer_id * qty)::HUGEINT,
    sum(epoch_us(ordered_at) // 1000000)::HUGEINT
FROM {source}
"""
STATUS_SQL = """
SELECT count(*), count(DISTINCT record_id), count(*) FILTER (status = 'FAILED' AND step = 'validate'),
    count(*) FILTER (error = 'customer missing'), count(*) FILTER (error LIKE 'amount not a number%'),
    count(*) FILTER (error LIKE 'qty must be > 0%'), count(*) FILTER (status = 'FILTERED' AND step = 'enrich'),
    count(*) FILTER (status = 'SUCCESS' AND step = 'store')
FROM {source}
"""


@dataclass(frozen=True)
class Target:
    """Counts and sums over the rows that were loaded."""

    rows: int = 0
    different: int = 0
    amount_cents: int = 0
    net: int = 0
    tax: int = 0
    total: int = 0
    href: int = 0
    note_norm: int = 0
    tier_country: int = 0
    texts: int = 0
    customer_qty: int = 0
    ordered_at: int = 0


@dataclass(frozen=True)
class Status:
    """Counts over the status rows."""

    rows: int = 0
    different: int = 0
    failed: int = 0
    no_customer: int = 0
    no_number: int = 0
    no_quantity: int = 0
    filtered: int = 0
    success: int = 0


@dataclass(frozen=True)
class Reference:
    """What a run must have made."""

    target: Target
    status: Status


def reference(count: int) -> Reference:
    """Of N orders; computed once and kept."""
    path = DATA / f"reference_{count}.json"
    if not path.exists():
        found = _by_python(count) if count <= _IN_PYTHON else _by_sql(count)
        path.write_text(json.dumps({"target": asdict(found.target), "status": asdict(found.status)}))
    data = json.loads(path.read_text())
    return Reference(Target(**data["target"]), Status(**data["status"]))


def _by_python(count: int) -> Reference:
    enrich = make_enrich(load_customers(str(customers_file())))
    target = dict.fromkeys((field.name for field in fields(Target)), 0)
    status = dict.fromkeys((field.name for field in fields(Status)), 0)
    for batch in pq.ParquetFile(orders_file(count)).iter_batches(20_000):
        for record in batch.to_pylist():
            good, fate = run_record(record, enrich)
            status["rows"] += 1
            status["failed"] += fate.status == "FAILED"
            status["filtered"] += fate.status == "FILTERED"
            status["success"] += fate.status == "SUCCESS"
            error = fate.error or ""
            status["no_customer"] += error == "customer missing"
            status["no_number"] += error.startswith("amount")
            status["no_quantity"] += error.startswith("qty")
            if good is None:
                continue
            target["rows"] += 1
            for name in ("amount_cents", "net", "tax", "total", "href"):
                target[name] += good[name]
            target["note_norm"] += len(good["note_norm"])
            target["tier_country"] += len(good["tier"] + good["country"])
            target["texts"] += len(good["customer"] + good["currency"] + good["sku"])
            target["customer_qty"] += good["customer_id"] * good["qty"]
            target["ordered_at"] += round((good["ordered_at"] - _EPOCH).total_seconds())
    target["different"], status["different"] = target["rows"], status["rows"]  # numbered by the generator
    return Reference(Target(**target), Status(**status))


def _by_sql(count: int) -> Reference:
    with duckdb.connect() as connection:
        connection.execute(CHECKED.format(orders=f"read_parquet('{orders_file(count)}')"))
        good = f"({GOOD.format(customers=customers_file())})"
        return Reference(target_of(connection, good), status_of(connection, f"({STATUS})"))


def target_of(connection: duckdb.DuckDBPyConnection, source: str) -> Target:
    """Sums over loaded rows."""
    row = connection.execute(TARGET_SQL.format(source=source)).fetchone()
    return Target(*(int(value or 0) for value in row or ()))


def status_of(connection: duckdb.DuckDBPyConnection, source: str) -> Status:
    """Counts over status rows."""
    row = connection.execute(STATUS_SQL.format(source=source)).fetchone()
    return Status(*(int(value or 0) for value in row or ()))


def verify(out: Path, count: int, *, with_status: bool = True) -> list[str]:
    """What is wrong with the output of a run; nothing if it is right."""
    wanted = reference(count)
    wrong: list[str] = []
    with duckdb.connect() as connection:
        target = target_of(connection, _files(out / "target"))
        if target != wanted.target:
            wrong.append(f"loaded {target}, wanted {wanted.target}")
        if with_status:
            status = status_of(connection, _files(out / "status"))
            if status != wanted.status:
                wrong.append(f"status {status}, wanted {wanted.status}")
    return wrong


def _files(folder: Path) -> str:
    return f"read_parquet('{folder}/**/*.parquet', hive_partitioning = false)"


def main() -> None:
    """Show the reference of some sizes, or check a run's output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", nargs="*", type=int, default=[100])
    parser.add_argument("--out", type=Path, help="the output of a run, to be checked")
    options = parser.parse_args()
    for count in options.counts:
        print(count, reference(count))
        if options.out:
            print(verify(options.out, count) or "correct")


if __name__ == "__main__":
    main()

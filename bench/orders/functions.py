"""The author's functions of the workload `orders`, written once and used by this project and by every peer.

Only the standard library is imported here: a peer's environment need not have more. Each function takes a record
(a dict) and returns a patch, the fields that it adds; a peer that needs whole records merges them itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

Record = dict[str, Any]
Customer = tuple[str, str, int, int]
"""Tier, country, discount in percent, tax in permille."""

INPUT_COLUMNS = ("order_id", "customer_id", "customer", "amount", "currency", "ordered_at", "sku", "qty", "note")
OUTPUT_COLUMNS = (
    "order_id",
    "customer_id",
    "customer",
    "amount_cents",
    "currency",
    "ordered_at",
    "sku",
    "qty",
    "tier",
    "country",
    "net",
    "tax",
    "total",
    "href",
    "note_norm",
)
STATUS_COLUMNS = ("record_id", "step", "status", "error")
TYPES = {
    "order_id": "int64",
    "customer_id": "int64",
    "customer": "string",
    "amount": "string",
    "amount_cents": "int64",
    "currency": "string",
    "ordered_at": "timestamp[us]",
    "sku": "string",
    "qty": "int64",
    "note": "string",
    "tier": "string",
    "country": "string",
    "net": "int64",
    "tax": "int64",
    "total": "int64",
    "href": "int64",
    "note_norm": "string",
    "record_id": "int64",
    "step": "string",
    "status": "string",
    "error": "string",
}

VALIDATE_READS = ("customer", "amount", "qty")
ENRICH_READS = ("order_id", "customer_id", "qty", "note", "amount_cents")
ACCEPT = "sku NOT LIKE 'TEST-%'"


class Fate(NamedTuple):
    """What became of a record in a system that has no notion of it: the last step, the status and the error."""

    step: str
    status: str
    error: str | None


def validate(record: Record) -> Record:
    """Refuse what is no order; the amount becomes cents."""
    if not record["customer"]:
        raise ValueError("customer missing")
    try:
        amount = float(record["amount"])
    except (TypeError, ValueError):
        raise ValueError(f"amount not a number: {record['amount']}") from None
    if record["qty"] <= 0:
        raise ValueError(f"qty must be > 0: {record['qty']}")
    return {"amount_cents": round(amount * 100)}


def accept(record: Record) -> bool:
    """Which records enrich and store take; the same as ``ACCEPT``."""
    return not record["sku"].startswith("TEST-")


def make_enrich(customers: dict[int, Customer]) -> Callable[[Record], Record]:
    """The function that looks the customer up and computes what an order is worth."""

    def enrich(record: Record) -> Record:
        tier, country, discount, permille = customers[record["customer_id"]]
        net = record["amount_cents"] * record["qty"] * (100 - discount) // 100
        tax = net * permille // 1000
        total = net + tax
        return {
            "tier": tier,
            "country": country,
            "net": net,
            "tax": tax,
            "total": total,
            "href": (record["order_id"] * 2654435761 + total * 40503) % 4294967296,
            "note_norm": " ".join(record["note"].lower().split()),
        }

    return enrich


def run_record(record: Record, enrich: Callable[[Record], Record]) -> tuple[Record | None, Fate]:
    """What a hand-written script does with one record: both functions, each failure caught and named."""
    try:
        record.update(validate(record))
    except Exception as error:  # noqa: BLE001  # as a batch must
        return None, Fate("validate", "FAILED", str(error))
    try:
        if not accept(record):
            return None, Fate("enrich", "FILTERED", None)
        record.update(enrich(record))
    except Exception as error:  # noqa: BLE001  # as a batch must
        return None, Fate("enrich", "FAILED", str(error))
    return record, Fate("store", "SUCCESS", None)


def load_customers(path: str) -> dict[int, Customer]:
    """The dimension as a dict."""
    import pyarrow.parquet as pq

    names = ("customer_id", "tier", "country", "discount_pct", "tax_permille")
    table = pq.ParquetFile(path).read(columns=list(names))
    columns = [table[name].to_pylist() for name in names]
    return {key: (tier, country, discount, tax) for key, tier, country, discount, tax in zip(*columns, strict=True)}


def arrow_schema(names: tuple[str, ...]) -> Any:
    """The Arrow schema of these columns."""
    import pyarrow as pa

    kinds = {"int64": pa.int64(), "string": pa.string(), "timestamp[us]": pa.timestamp("us")}
    return pa.schema([(name, kinds[TYPES[name]]) for name in names])

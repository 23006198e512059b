"""The workload `orders` with pyarrow.compute, a block at a time: variant V of every peer that takes Arrow."""

from __future__ import annotations

from collections import Counter
from typing import Any

from bench.orders.functions import OUTPUT_COLUMNS, STATUS_COLUMNS, arrow_schema
from bench.orders.made import Made

_NUMBER = r"^-?\d+(\.\d*)?$"


class Vectorised:
    """Both steps over blocks.

    Args:
        customers: the dimension, a Parquet file.
    """

    def __init__(self, customers: str) -> None:
        import pyarrow.parquet as pq

        self._customers = pq.ParquetFile(customers).read().combine_chunks()

    def process(self, batch: Any, *, status: bool) -> Made:
        """Loaded rows, status rows and counts of one block."""
        import pyarrow as pa
        import pyarrow.compute as pc

        table = pa.table(batch)
        no_customer = pc.fill_null(pc.equal(table["customer"], ""), True)
        is_number = pc.fill_null(pc.match_substring_regex(table["amount"], _NUMBER), False)
        no_quantity = pc.less_equal(table["qty"], 0)
        failed = pc.or_(pc.or_(no_customer, pc.invert(is_number)), no_quantity)
        filtered = pc.and_not(pc.starts_with(table["sku"], "TEST-"), failed)
        good = pc.invert(pc.or_(failed, filtered))
        failures, skipped = pc.sum(failed).as_py() or 0, pc.sum(filtered).as_py() or 0
        counts = Counter(
            {
                "validate/FAILED": failures,
                "enrich/FILTERED": skipped,
                "store/SUCCESS": table.num_rows - failures - skipped,
            }
        )
        rows = None
        if status:
            error = pc.case_when(
                pc.make_struct(no_customer, pc.invert(is_number), no_quantity),
                "customer missing",
                pc.binary_join_element_wise("amount not a number: ", pc.fill_null(table["amount"], ""), ""),
                pc.binary_join_element_wise("qty must be > 0: ", pc.cast(table["qty"], pa.string()), ""),
            )
            step = pc.if_else(failed, "validate", pc.if_else(filtered, "enrich", "store"))
            outcome = pc.if_else(failed, "FAILED", pc.if_else(filtered, "FILTERED", "SUCCESS"))
            rows = pa.table([table["order_id"], step, outcome, error], schema=arrow_schema(STATUS_COLUMNS))
        return Made(self.enrich(cents(table.filter(good))), rows, counts)

    def columns(self, table: Any) -> dict[str, Any]:
        """What the step enrich adds to validated records."""
        import pyarrow as pa
        import pyarrow.compute as pc

        found = self._customers.take(pc.index_in(table["customer_id"], self._customers["customer_id"]))
        worth = pc.multiply(pc.multiply(table["amount_cents"], table["qty"]), pc.subtract(100, found["discount_pct"]))
        net = pc.divide(worth, 100)
        tax = pc.divide(pc.multiply(net, found["tax_permille"]), 1000)
        total = pc.add(net, tax)
        mixed = pc.add(pc.multiply(table["order_id"], 2654435761), pc.multiply(total, 40503))
        note = pc.utf8_trim_whitespace(pc.utf8_lower(table["note"]))
        return {
            "tier": found["tier"],
            "country": found["country"],
            "net": net,
            "tax": tax,
            "total": total,
            "href": pc.bit_wise_and(mixed, pa.scalar(4294967295, pa.int64())),
            "note_norm": pc.replace_substring_regex(note, "  +", " "),
        }

    def enrich(self, table: Any) -> Any:
        """The rows to load, of validated records."""
        import pyarrow as pa

        columns = {name: table[name] for name in table.column_names} | self.columns(table)
        return pa.table([columns[name] for name in OUTPUT_COLUMNS], schema=arrow_schema(OUTPUT_COLUMNS))


def cents(table: Any) -> Any:
    """The table with the column that validate adds; every amount is a number."""
    import pyarrow as pa
    import pyarrow.compute as pc

    amount = pc.cast(table["amount"], pa.float64())
    return table.append_column("amount_cents", pc.cast(pc.round(pc.multiply(amount, 100.0)), pa.int64()))

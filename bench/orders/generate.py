"""Generate the input of the workload `orders`: N orders, and the customers they are of.

Deterministic: the seed of each 100,000 records is their number. About 1 % cannot be processed (0.4 % have an
amount that is no number, 0.3 % a quantity of 0 or less, 0.3 % no customer) and 0.5 % are test articles, which the
step enrich does not accept. Amounts are text, so that they can be wrong; notes have 40 to 200 bytes.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.orders.functions import INPUT_COLUMNS, arrow_schema

DATA = Path(__file__).resolve().parents[1] / "data"
CUSTOMERS = 100_000
PIECE = 100_000
_NOTES = 5_000
_WORDS = re.split(
    " ",
    "Please deliver fragile urgent  gift wrap Invoice ring bell leave at door CALL before arrival "
    "customer asked for refund previous ORDER late  é über reception blue large box second floor "
    "thank you priority handle with care no substitution",
)
_BAD_AMOUNTS = np.array(["N/A", "12,50", "abc", "--", ""], dtype=object)
_TAX = {"DE": 190, "FR": 200, "US": 70, "GB": 200, "IN": 180, "BR": 170}
_CURRENCIES = np.array(["EUR", "USD", "GBP", "INR"], dtype=object)
_START = np.datetime64("2026-01-01T00:00:00", "us")


def customers() -> pa.Table:
    """The dimension: 100,000 customers."""
    random = np.random.default_rng(7)
    tier = random.choice(["gold", "silver", "bronze"], CUSTOMERS, p=[0.1, 0.3, 0.6])
    country = random.choice(list(_TAX), CUSTOMERS)
    discount = np.select([tier == "gold", tier == "silver"], [15, 5], 0)
    return pa.table(
        {
            "customer_id": pa.array(np.arange(1, CUSTOMERS + 1)),
            "tier": pa.array(tier.tolist()),
            "country": pa.array(country.tolist()),
            "discount_pct": pa.array(discount.astype(np.int64)),
            "tax_permille": pa.array(np.array([_TAX[name] for name in country], dtype=np.int64)),
        }
    )


def notes() -> list[str]:
    """Texts to choose from; some begin with spaces, some words are two spaces apart."""
    random = np.random.default_rng(3)
    found: list[str] = []
    while len(found) < _NOTES:
        words = " ".join(_WORDS[index] for index in random.integers(0, len(_WORDS), 40))
        text = words[: int(random.integers(36, 188))]
        found.append(("  " if random.random() < 0.3 else "") + text)
    return found


def orders(start: int, count: int, texts: list[str]) -> pa.Table:
    """The orders after number ``start``."""
    random = np.random.default_rng(1_000 + start)
    number = np.arange(start + 1, start + count + 1)
    customer_id = random.integers(1, CUSTOMERS + 1, count)
    cents = random.integers(100, 500_000, count)
    amount = np.array([f"{value // 100}.{value % 100:02}" for value in cents.tolist()], dtype=object)
    fault = random.random(count)
    no_number = fault < 0.004
    amount[no_number] = _BAD_AMOUNTS[random.integers(0, len(_BAD_AMOUNTS), no_number.sum())]
    quantity = random.integers(1, 20, count)
    no_quantity = (fault >= 0.004) & (fault < 0.007)
    quantity[no_quantity] = -random.integers(0, 5, no_quantity.sum())
    customer = np.array([f"Customer {value}" for value in customer_id.tolist()], dtype=object)
    customer[(fault >= 0.007) & (fault < 0.010)] = None
    sku = np.array([f"SKU-{value}" for value in random.integers(1, 50_000, count).tolist()], dtype=object)
    test = random.random(count) < 0.005
    sku[test] = [f"TEST-{value}" for value in random.integers(1, 999, test.sum()).tolist()]
    chosen = random.integers(0, len(texts), count)
    seconds = random.integers(0, 300 * 86_400, count).astype("timedelta64[s]")
    columns = {
        "order_id": number,
        "customer_id": customer_id,
        "customer": customer,
        "amount": amount,
        "currency": _CURRENCIES[random.integers(0, len(_CURRENCIES), count)],
        "ordered_at": _START + seconds,
        "sku": sku,
        "qty": quantity,
        # with the number of the order, so that no dictionary encoding removes them
        "note": [f"{texts[index]} #{order}" for index, order in zip(chosen.tolist(), number.tolist(), strict=True)],
    }
    schema = arrow_schema(INPUT_COLUMNS)
    return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


def customers_file() -> Path:
    """The dimension as a Parquet file, made if it is not there."""
    path = DATA / "customers.parquet"
    if not path.exists():
        DATA.mkdir(exist_ok=True)
        pq.write_table(customers(), path)
    return path


def orders_file(count: int) -> Path:
    """N orders as a Parquet file, made if it is not there."""
    path = DATA / f"orders_{count}.parquet"
    if path.exists():
        return path
    DATA.mkdir(exist_ok=True)
    texts, schema = notes(), arrow_schema(INPUT_COLUMNS)
    unfinished = path.with_suffix(".tmp")
    with pq.ParquetWriter(unfinished, schema) as writer:
        for start in range(0, count, PIECE):
            writer.write_table(orders(start, min(PIECE, count - start), texts), row_group_size=PIECE)
    unfinished.rename(path)
    return path


def csv_bytes(count: int) -> int:
    """The size of the same orders as CSV, which the size of a store is compared with; measured on 100,000."""
    import pyarrow.csv as pc

    sample = orders(0, min(count, PIECE), notes())
    sink = pa.BufferOutputStream()
    pc.write_csv(sample, sink)
    size: int = sink.getvalue().size
    return size * count // int(sample.num_rows)


def main() -> None:
    """Make the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", nargs="*", type=int, default=[100, 100_000, 1_000_000], help="records of each file")
    options = parser.parse_args()
    for path in (customers_file(), *map(orders_file, options.counts)):
        print(f"{path.name}: {path.stat().st_size / 1e6:,.1f} MB")


if __name__ == "__main__":
    main()

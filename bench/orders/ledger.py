"""The check of a run of this project: the status of every record, out of the ledger it leaves."""

from __future__ import annotations

from pathlib import Path

import duckdb

from bench.orders.reference import reference, status_of

_STATUS = """(
SELECT record_id, coalesce(failures.step, CASE WHEN bool_or(outcome = 'SKIPPED' AND outcomes.step = 'enrich')
        THEN 'enrich' ELSE 'store' END) AS step,
    CASE WHEN bool_or(outcome = 'FAILED') THEN 'FAILED'
        WHEN bool_or(outcome = 'SKIPPED' AND outcomes.step = 'enrich') THEN 'FILTERED'
        WHEN bool_and(outcome = 'SUCCEEDED') THEN 'SUCCESS' ELSE 'LOST' END AS status,
    any_value(message) AS error
FROM outcomes LEFT JOIN failures USING (record_id)
GROUP BY record_id, failures.step
)"""


def verify_ledger(store: Path, count: int) -> list[str]:
    """What is wrong with the ledger in a store; nothing if it is right."""
    found = list(store.rglob("ledger*.duckdb"))
    if len(found) != 1:
        return [f"{len(found)} ledgers in the store"]
    with duckdb.connect(str(found[0]), read_only=True) as connection:
        status = status_of(connection, _STATUS)
    wanted = reference(count).status
    return [] if status == wanted else [f"ledger {status}, wanted {wanted}"]

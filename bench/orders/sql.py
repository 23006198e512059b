"""The workload `orders` as SQL: for DuckDB as a peer, and for the reference of large inputs."""

from __future__ import annotations

CHECKED = """
CREATE OR REPLACE VIEW checked AS
SELECT *, CASE
    WHEN customer IS NULL OR customer = '' THEN 'customer missing'
    WHEN number IS NULL THEN 'amount not a number: ' || coalesce(amount, '')
    WHEN qty <= 0 THEN 'qty must be > 0: ' || qty
    END AS error
FROM (SELECT *, try_cast(amount AS DOUBLE) AS number FROM {orders})
"""

GOOD = """
SELECT order_id, customer_id, customer, amount_cents, currency, ordered_at, sku, qty, tier, country, net, tax,
    net + tax AS total, (order_id * 2654435761 + (net + tax) * 40503) % 4294967296 AS href, note_norm
FROM (SELECT *, net * tax_permille // 1000 AS tax
    FROM (SELECT *, amount_cents * qty * (100 - discount_pct) // 100 AS net
        FROM (SELECT checked.*, tier, country, discount_pct, tax_permille,
                cast(round(number * 100) AS BIGINT) AS amount_cents,
                regexp_replace(trim(lower(note)), '  +', ' ', 'g') AS note_norm
            FROM checked JOIN read_parquet('{customers}') USING (customer_id)
            WHERE error IS NULL AND NOT starts_with(sku, 'TEST-'))))
"""

STATUS = """
SELECT order_id AS record_id,
    CASE WHEN error IS NOT NULL THEN 'validate' WHEN starts_with(sku, 'TEST-') THEN 'enrich' ELSE 'store' END AS step,
    CASE WHEN error IS NOT NULL THEN 'FAILED' WHEN starts_with(sku, 'TEST-') THEN 'FILTERED' ELSE 'SUCCESS' END
        AS status,
    error
FROM checked
"""

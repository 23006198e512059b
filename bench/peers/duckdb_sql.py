"""DuckDB: variant V is one SQL statement for each output; P reads with DuckDB and loops over records."""

from __future__ import annotations

import duckdb

from bench.orders.sql import CHECKED, GOOD, STATUS
from bench.peers.contract import BLOCK, Run, parser, start, total, worker


def connect(run: Run) -> duckdb.DuckDBPyConnection:
    """A connection with as many threads as there are workers."""
    connection = duckdb.connect(config={"threads": run.workers, "temp_directory": str(run.work)})
    connection.execute("SET preserve_insertion_order = false")
    # the filter on a CASE makes the planner build the hash table on the orders, and one core does all the work
    connection.execute("SET disabled_optimizers = 'build_side_probe_side'")
    return connection


def vectorised(run: Run) -> dict[str, int]:
    """All of it in SQL."""
    with connect(run) as connection:
        connection.execute(CHECKED.format(orders=f"read_parquet('{run.orders}')"))
        good = GOOD.format(customers=run.customers)
        connection.execute(f"COPY ({good}) TO '{run.target}/all.parquet' (FORMAT parquet)")
        source = f"({STATUS})"
        if run.status:
            connection.execute(f"COPY ({STATUS}) TO '{run.statuses}/all.parquet' (FORMAT parquet)")
            source = f"'{run.statuses}/all.parquet'"
        rows = connection.execute(f"SELECT step || '/' || status, count(*) FROM {source} GROUP BY ALL").fetchall()  # noqa: S608  # its own text
    return {str(name): int(count) for name, count in rows}


def by_record(run: Run) -> dict[str, int]:
    """The reader of DuckDB, and Python for each record."""
    with connect(run) as connection:
        reader = connection.sql(f"SELECT * FROM read_parquet('{run.orders}')").to_arrow_reader(BLOCK)  # noqa: S608  # a path
        return total(worker(run).process(batch) for batch in reader)


def main() -> None:
    """Run it."""
    run = start(parser(__doc__).parse_args())
    run.finish(vectorised(run) if run.variant == "V" else by_record(run))


if __name__ == "__main__":
    main()

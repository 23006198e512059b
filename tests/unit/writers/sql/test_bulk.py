"""Rows that go in bulk arrive as those that go one by one, and fail alone as they do."""

from __future__ import annotations

import math
import sqlite3
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal

import pyarrow as pa
import pytest

from batch_provider import BatchJob, JobState, SqlTable
from batch_provider.domain.layout import ClaimId
from batch_provider.engine.ports.writing import Rows
from batch_provider.sources.access import LocalAccess
from batch_provider.testing import LocalRun
from batch_provider.writers.sql import bulk
from batch_provider.writers.sql.dialect import SQLITE

EAST = timezone(timedelta(hours=5, minutes=30))
SINGAPORE = datetime(2030, 1, 2, 3, 4, 5, 678, tzinfo=EAST)

KINDS = {
    "int": [0, -1, 2**31, None],
    "small int": [1, 2, None],
    "big int": [2**63 - 1, -(2**63)],
    "unsigned": pa.array([2**64 - 1, 0], pa.uint64()),
    "float": [0.1, 1e300, -0.0, None, math.nan, math.inf, -math.inf, 1e-7],
    "single": pa.array([0.1, 16777217.0], pa.float32()),
    "whole float": [1.0, 2.0, None],
    "bool": [True, False, None],
    "text": [
        "",
        "é 漢 🙂",
        'a "quoted" one',
        "comma, and\nnewline\r\n",
        "\\N",
        "\\.",
        "null",
        "'; drop table t --",
        None,
    ],
    "short text": ["ab", None],
    "digits": ["12", "-7", None],
    "decimal": [Decimal("1.50"), Decimal("-0.0000001"), Decimal("12345678901234567890.12"), None],
    "date": [date(2030, 1, 2), date(1, 1, 1), date(9999, 12, 31), None],
    "instant": [SINGAPORE, datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC), None],
    "eastern": pa.array([SINGAPORE, None], pa.timestamp("us", "Asia/Kolkata")),
    "nanoseconds": pa.array([1_900_000_000_123_456_789, None], pa.timestamp("ns")),
    "timestamp": pa.array([1_900_000_000_000_000, 1_900_000_000_000_060, None], pa.timestamp("us")),
    "time": [time(3, 4, 5), time(3, 4, 5, 7), None],
    "duration": [timedelta(days=1, seconds=5), timedelta(microseconds=-1), None],
    "bytes": [b"", b"\x00\xff'\\", None],
    "struct": [{"a": 1, "b": [date(2030, 1, 2)]}, {"a": None, "b": []}, None],
    "list": [["x", 'y"z'], [], None],
    "nothing": [None, None],
    "category": pa.array(["x", "y", None]).dictionary_encode(),
}
TARGETS = {
    "int": ["bigint", "text", "numeric", "double precision"],
    "small int": ["smallint", "integer", "text"],
    "big int": ["bigint", "numeric"],
    "unsigned": ["numeric", "text"],
    "float": ["double precision", "text", "numeric"],
    "single": ["double precision", "real", "text"],
    "whole float": ["integer", "text", "numeric(9, 2)"],
    "bool": ["boolean", "text"],
    "text": ["text", "varchar(40)", "char(40)"],
    "short text": ["varchar(2)", "char(4)", "mood"],
    "digits": ["integer", "numeric(9, 2)", "double precision", "text"],
    "decimal": ["numeric", "text", "numeric(30, 1)", "double precision"],
    "date": ["date", "text", "timestamptz"],
    "instant": ["timestamptz", "timestamp", "text", "date"],
    "eastern": ["timestamptz", "timestamp", "text"],
    "nanoseconds": ["timestamp", "timestamptz", "text"],
    "timestamp": ["timestamp", "timestamptz", "date", "text"],
    "time": ["time", "text"],
    "duration": ["interval", "text"],
    "bytes": ["bytea"],
    "struct": ["json", "jsonb", "text"],
    "list": ["jsonb", "text"],
    "nothing": ["integer", "text", "jsonb", "bytea"],
    "category": ["text", "varchar(3)"],
}


def column(kind):
    values = KINDS[kind]
    return values if isinstance(values, pa.Array) else pa.array(values)


def claim(step="store", shard="01"):
    from batch_provider.domain.instance import AttemptInfo, Claim

    return Claim(
        id=ClaimId.next(None), step=step, shard=shard, since=1, adopted=(), upstream=None, round=0,
        info=AttemptInfo(), started_at="",
    )  # fmt: skip


def write_in_groups(database, target, table, size, step):
    session = target.open(database.access, "instance", "g1-00000000", claim(step))
    try:
        for start in range(0, table.num_rows, size):
            part = table.slice(start, size)
            ids = range(start, start + part.num_rows)
            assert session.write(Rows(ids, [1] * len(ids), part)) == {}
    finally:
        session.close()


@pytest.mark.parametrize(
    ("kind", "target"), [pytest.param(k, t, id=f"{k} to {t}") for k, targets in TARGETS.items() for t in targets]
)
def test_a_value_arrives_in_postgres_as_a_parameter_does(shared_database, kind, target):
    """The server's time zone is not UTC, so that a conversion which ignores a zone would be seen."""
    db = shared_database
    db.run("DROP TABLE IF EXISTS one", "DROP TABLE IF EXISTS many", "DROP TYPE IF EXISTS mood")
    db.run("CREATE TYPE mood AS ENUM ('ab', 'cd')")
    db.run(*(f'CREATE TABLE {name} (n integer, "V" {target})' for name in ("one", "many")))
    values = column(kind)
    count = bulk.MINIMUM + len(values)
    table = pa.table({"n": range(count), "V": values.take(pa.array([n % len(values) for n in range(count)]))})

    write_in_groups(db, SqlTable("warehouse", "one"), table, bulk.MINIMUM - 1, f"one {kind} {target}")
    write_in_groups(db, SqlTable("warehouse", "many"), table, count, f"many {kind} {target}")

    shown = 'n, CAST("V" AS text), pg_typeof("V")::text'
    assert db.run(f"SELECT {shown} FROM many ORDER BY n") == db.run(f"SELECT {shown} FROM one ORDER BY n")


# SQLite has no integers of 64 bits without a sign: such a record fails, with or without bulk
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "unsigned"])
def test_a_value_arrives_in_sqlite_as_a_parameter_does(kind):
    table = pa.table({"v": column(kind)})
    rows = Rows(range(table.num_rows), [1] * table.num_rows, table)
    one_by_one = [(SQLITE.value(record["v"]),) for record in rows.records(range(table.num_rows))]

    found = bulk.tuples_of(table, SQLITE)

    with sqlite3.connect(":memory:") as connection:
        assert [shown(connection, row) for row in found] == [shown(connection, row) for row in one_by_one]


def shown(connection, row):
    return connection.execute("SELECT typeof(?1), quote(?1)", row).fetchone()


def run(database, records, *, key=(), size=1_000, **options):
    with BatchJob("job", max_failed_records=-1) as job:
        job.write("store", SqlTable("warehouse", "t", key=key, **options), size=size)
    return LocalRun(job.spec, access=database.access).run(records)


def test_a_record_that_is_refused_fails_alone_among_many(database):
    database.run("CREATE TABLE t (n INTEGER CHECK (n <> 777 AND n <> 778), m TEXT)")

    result = run(database, [{"n": n, "m": f"row {n}"} for n in range(1_000)])

    assert (result.successful_records, result.failed_records) == (998, 2)
    assert "violates check" in result.errors[0].sample or "CHECK constraint" in result.errors[0].sample
    assert database.rows() == [(n, f"row {n}") for n in range(1_000) if n not in (777, 778)]


def test_a_value_that_the_column_cannot_hold_fails_alone(postgres_database):
    postgres_database.run("CREATE TABLE t (n INTEGER, m VARCHAR(3))")
    records = [{"n": n, "m": "abc"} for n in range(500)]
    records[100]["m"], records[200]["m"], records[300]["n"] = "abcd", "a\x00b", 2**40

    result = run(postgres_database, records)

    assert (result.successful_records, result.failed_records) == (497, 3)
    assert {n for n, m in postgres_database.rows()} == set(range(500)) - {100, 200, 300}
    assert {m for n, m in postgres_database.rows()} == {"abc"}, "nothing is cut off"


def test_the_last_of_several_records_with_one_key_stays(database):
    database.run("CREATE TABLE t (n INTEGER PRIMARY KEY, m INTEGER)")
    records = [{"n": n % 150, "m": n} for n in range(450)]

    result = run(database, records, key=["n"])

    assert result.failed_records == 0
    assert database.rows() == [(n, 300 + n) for n in range(150)]


def test_keys_that_only_the_database_finds_equal_are_written_one_by_one(postgres_database):
    postgres_database.run("CREATE TABLE t (n NUMERIC(9, 0) PRIMARY KEY, m INTEGER)")
    records = [{"n": Decimal(n) / 10, "m": n} for n in range(0, 4_000, 4)]

    result = run(postgres_database, records, key=["n"])

    assert result.failed_records == 0
    assert len(postgres_database.rows()) == 401


def test_values_that_stand_beside_their_column_are_written_too(database):
    """A step made numbers of a text column; the records that failed in it still have their text (ADR 0007)."""
    database.run("CREATE TABLE t (n INTEGER, m TEXT)")
    with BatchJob("job", max_failed_records=-1) as job:

        @job.step
        def numbers(record):
            return {"m": int(record["m"])}

        job.write("store", SqlTable("warehouse", "t"), size=1_000, accept_policy="ALL")

    records = [{"n": n, "m": "seven" if n == 5 else str(n)} for n in range(300)]
    result = LocalRun(job.spec, access=database.access).run(records)

    assert result.state is JobState.SUCCESSFUL
    assert database.rows() == sorted((n, "seven" if n == 5 else str(n)) for n in range(300))


def test_a_role_that_may_make_no_temporary_table_writes_row_by_row(postgres_database):
    db = postgres_database
    db.run("CREATE TABLE t (n INTEGER)", "REVOKE TEMPORARY ON DATABASE " + db.database + " FROM PUBLIC")
    db.run("DROP ROLE IF EXISTS writer", "CREATE ROLE writer LOGIN", "GRANT ALL ON SCHEMA public TO writer")
    db.run("GRANT ALL ON t TO writer")

    result = run(db.as_role("writer"), [{"n": n} for n in range(300)])

    assert result.successful_records == 300
    assert db.rows() == [(n,) for n in range(300)]


def test_a_table_without_a_column_of_the_records_is_an_error_of_the_statement(postgres_database):
    from batch_provider.domain.errors import StorageError

    postgres_database.run("CREATE TABLE t (n INTEGER)")

    with pytest.raises(StorageError, match='column "m" of relation "t" does not exist'):
        run(postgres_database, [{"n": n, "m": "x"} for n in range(300)])


def test_many_rows_go_through_one_copy(postgres_database):
    import psycopg

    copied = []

    class Counting(psycopg.Cursor):
        def copy(self, statement, *args, **kwargs):
            copied.append(statement)
            return super().copy(statement, *args, **kwargs)

    def connect():
        connection = postgres_database.connect()
        connection.cursor_factory = Counting
        return connection

    postgres_database.run("CREATE TABLE t (n INTEGER)")
    with BatchJob("job") as job:
        job.write("store", SqlTable("warehouse", "t"), size=1_000)

    LocalRun(job.spec, access=LocalAccess({"warehouse": connect})).run([{"n": n} for n in range(2_050)])

    assert len(copied) == 2, "two groups of a thousand; fifty rows are not worth it"
    assert len(postgres_database.rows()) == 2_050

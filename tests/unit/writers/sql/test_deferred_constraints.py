"""Constraints that wait for the commit: a bad row fails alone, and a row that needs another one is tried after it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from batch_provider import BatchJob, SqlTable
from batch_provider.sources.access import LocalAccess
from batch_provider.testing import LocalRun

DEFERRED = "DEFERRABLE INITIALLY DEFERRED"
TREE = f"CREATE TABLE t (n INTEGER PRIMARY KEY CHECK (n <> 13), up INTEGER REFERENCES t (n) {DEFERRED})"


@pytest.fixture
def heeded(database):
    """A database that heeds foreign keys: SQLite has to be told."""
    connect = database.connect

    def connect_and_heed():
        connection = connect()
        if database.name == "sqlite":
            connection.execute("PRAGMA foreign_keys = ON")
        return connection

    database.connect, database.access = connect_and_heed, LocalAccess({"warehouse": connect_and_heed})
    return database


def write(database, records, *, size=1_000, **options):
    with BatchJob("job", max_failed_records=-1) as job:
        job.write("store", SqlTable("warehouse", "t", **options), size=size)
    return LocalRun(job.spec, access=database.access).run(records)


def tree(pairs):
    return [{"n": n, "up": up} for n, up in pairs]


def noted(database):
    ranges = database.run("SELECT first_id, last_id FROM _batch_commits")
    return sorted(number for first, last in ranges for number in range(first, last + 1))


@pytest.mark.parametrize("count", [pytest.param(12, id="few rows"), pytest.param(250, id="many rows")])
@pytest.mark.parametrize("options", [{}, {"key": ["n"]}], ids=["insert", "upsert"])
def test_a_row_without_its_parent_fails_alone(heeded, count, options):
    heeded.run(TREE)
    records = tree((n, 999 if n in (2, 7) else None) for n in range(20, 20 + count))
    records[2]["up"] = records[7]["up"] = 999

    result = write(heeded, records, **options)

    assert (result.successful_records, result.failed_records) == (count - 2, 2)
    assert "foreign key" in result.errors[0].sample.lower()
    assert heeded.rows() == [(20 + n, None) for n in range(count) if n not in (2, 7)]
    assert noted(heeded) == [n for n in range(count) if n not in (2, 7)]


def test_a_child_that_comes_before_its_parent_is_written(heeded):
    heeded.run(TREE)

    assert write(heeded, tree([(3, 2), (2, 1), (1, None)])).successful_records == 3


@pytest.mark.parametrize("bad", [(13, None), (14, 999)], ids=["refused at once", "refused at the commit"])
@pytest.mark.parametrize("at", [0, 4, 8])
def test_rows_in_the_wrong_order_are_written_beside_a_bad_one(heeded, bad, at):
    heeded.run(TREE)
    pairs = [(n, n - 1 if n > 1 else None) for n in range(8, 0, -1)]
    pairs.insert(at, bad)

    result = write(heeded, tree(pairs))

    assert (result.successful_records, result.failed_records) == (8, 1)
    assert [n for n, _ in heeded.rows()] == list(range(1, 9))
    assert noted(heeded) == [n for n in range(9) if n != at]


def test_rows_that_name_each_other_are_written_beside_a_bad_one(heeded):
    heeded.run(TREE)

    result = write(heeded, tree([(1, 2), (13, None), (2, 1), (4, None)]))

    assert (result.successful_records, result.failed_records) == (3, 1)


def test_of_two_rows_with_one_key_the_last_stays_although_the_first_had_to_wait(heeded):
    heeded.run(TREE)

    result = write(heeded, tree([(1, 5), (13, None), (1, None), (5, None)]), key=["n"])

    assert heeded.rows() == [(1, None), (5, None)]
    assert result.failed_records == (1 if heeded.name == "sqlite" else 2), "SQLite looks when the later one is there"


def test_a_key_that_gets_free_by_another_row_is_written(heeded):
    heeded.run("CREATE TABLE t (n INTEGER PRIMARY KEY, up INTEGER UNIQUE)", "INSERT INTO t VALUES (1, 10), (2, 20)")

    result = write(heeded, tree([(1, 20), (2, 30)]), key=["n"])

    assert result.failed_records == 0
    assert heeded.rows() == [(1, 20), (2, 30)]


def test_two_rows_with_one_value_of_a_deferred_unique_column(postgres_database):
    postgres_database.run(f"CREATE TABLE t (n INTEGER PRIMARY KEY, up INTEGER UNIQUE {DEFERRED})")

    result = write(postgres_database, tree([(1, 1), (2, 1), (3, 3)]))

    assert [(error.exception, error.count) for error in result.errors] == [("UniqueViolation", 1)]
    assert postgres_database.rows() == [(1, 1), (3, 3)]


def test_a_constraint_trigger_that_waits_for_the_commit(postgres_database):
    db = postgres_database
    db.run("CREATE TABLE t (n INTEGER, up INTEGER)")
    db.run(
        "CREATE FUNCTION check_up() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF NEW.up = 999 THEN RAISE EXCEPTION 'not %', NEW.n; END IF; RETURN NULL; END $$",
        f"CREATE CONSTRAINT TRIGGER c AFTER INSERT ON t {DEFERRED} FOR EACH ROW EXECUTE FUNCTION check_up()",
    )

    result = write(db, tree((n, 999 if n == 150 else n) for n in range(300)))

    assert [error.sample for error in result.errors] == [
        "not 150\nCONTEXT:  PL/pgSQL function check_up() line 1 at RAISE"
    ]
    assert len(db.rows()) == 299


def test_what_was_refused_is_not_tried_for_ever(heeded):
    heeded.run(TREE)

    result = write(heeded, tree((n, 999) for n in range(20, 60)))

    assert result.failed_records == 40
    assert heeded.rows() == []


def test_a_commit_that_sqlite_refuses_leaves_the_next_group_its_transaction(tmp_path):
    path = Path(tmp_path / "warehouse.db")

    def connect():
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    connection = connect()
    connection.execute(TREE)
    connection.close()
    with BatchJob("job", max_failed_records=-1) as job:
        job.write("store", SqlTable("warehouse", "t"), size=1)

    result = LocalRun(job.spec, access=LocalAccess({"warehouse": connect})).run(tree([(1, 9), (2, None)]))

    assert (result.successful_records, result.failed_records) == (1, 1)

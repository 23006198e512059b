"""Written means written: a row that the database takes without an error and does not write is its record's failure."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from batch_provider import BatchJob, BatchJobResult, InvalidOptionError, SqlTable
from batch_provider.domain.errors import StorageError
from batch_provider.engine.complete.report import render_report
from batch_provider.testing import LocalRun

few_and_many = pytest.mark.parametrize("count", [pytest.param(12, id="few rows"), pytest.param(300, id="many rows")])


def new_run(database, *, size=1_000, run_id="run", **options):
    with BatchJob("job", max_failed_records=-1) as job:
        job.write("store", SqlTable("warehouse", "t", **options), size=size)
    return LocalRun(job.spec, access=database.access, run_id=run_id)


def write(database, records, **options):
    return new_run(database, **options).run(records)


def numbers(*found):
    return [{"n": n, "m": n} for n in found]


def swallowing(database, condition, event="INSERT"):
    """A trigger that lets rows vanish."""
    if database.name == "sqlite":
        database.run(
            f"CREATE TRIGGER swallow BEFORE {event} ON t WHEN {condition} BEGIN SELECT raise(ignore); END",
        )
        return
    body = f"BEGIN IF {condition} THEN RETURN NULL; END IF; RETURN NEW; END"
    database.run(
        f"CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$",
        f"CREATE TRIGGER swallow BEFORE {event} ON t FOR EACH ROW EXECUTE FUNCTION swallow()",
    )


@few_and_many
@pytest.mark.parametrize("options", [{}, {"key": ["n"]}], ids=["insert", "upsert"])
def test_a_row_that_a_trigger_swallows_fails_alone(database, count, options):
    database.run("CREATE TABLE t (n INTEGER PRIMARY KEY, m INTEGER)")
    swallowing(database, "NEW.n IN (2, 7)")

    result = write(database, numbers(*range(count)), **options)

    assert (result.successful_records, result.failed_records) == (count - 2, 2)
    assert [error.exception for error in result.errors] == ["NotWrittenError"]
    assert "uncounted='allow'" in result.errors[0].sample
    assert database.rows() == [(n, n) for n in range(count) if n not in (2, 7)]


@few_and_many
def test_a_change_that_a_trigger_swallows_fails_alone(database, count):
    database.run("CREATE TABLE t (n INTEGER PRIMARY KEY, m INTEGER)", "INSERT INTO t VALUES (2, -1), (7, 7), (8, -1)")
    swallowing(database, "OLD.n IN (2, 7)", "UPDATE")

    result = write(database, numbers(*range(count)), key=["n"])

    assert (result.successful_records, result.failed_records) == (count - 1, 1)
    assert database.rows() == [(n, -1 if n == 2 else n) for n in range(count)], "the row of 7 was equal already"


@pytest.mark.parametrize("clause", ["IGNORE", "REPLACE", "ROLLBACK", "FAIL"])
@pytest.mark.parametrize("column", ["n INTEGER PRIMARY KEY ON CONFLICT", "n INTEGER UNIQUE ON CONFLICT"])
def test_the_conflict_clauses_of_a_sqlite_table_let_no_row_vanish(sqlite_database, column, clause):
    sqlite_database.run(f"CREATE TABLE t ({column} {clause}, m INTEGER)", "INSERT INTO t VALUES (3, -3)")

    result = write(sqlite_database, [*numbers(*range(6)), {"n": 4, "m": -4}])

    assert (result.successful_records, result.failed_records) == (5, 2)
    assert sqlite_database.rows() == [(n, -3 if n == 3 else n) for n in range(6)]


@pytest.mark.parametrize("clause", ["IGNORE", "REPLACE", "ROLLBACK"])
def test_a_second_unique_column_of_an_upsert_lets_no_row_vanish(sqlite_database, clause):
    sqlite_database.run(f"CREATE TABLE t (n INTEGER PRIMARY KEY, m INTEGER UNIQUE ON CONFLICT {clause})")

    result = write(sqlite_database, [*numbers(*range(6)), {"n": 9, "m": 4}], key=["n"])

    assert (result.successful_records, result.failed_records) == (6, 1)
    assert sqlite_database.rows() == [(n, n) for n in range(6)]


def test_a_null_is_not_replaced_in_silence(sqlite_database):
    sqlite_database.run("CREATE TABLE t (n INTEGER, m INTEGER NOT NULL ON CONFLICT REPLACE DEFAULT 7)")

    result = write(sqlite_database, [{"n": 1, "m": 1}, {"n": 2, "m": None}])

    assert result.failed_records == 1
    assert sqlite_database.rows() == [(1, 1)]


def test_what_the_triggers_of_a_sqlite_table_ignore_is_their_own_affair(sqlite_database):
    """``INSERT OR ABORT`` would override the clause in the trigger."""
    sqlite_database.run("CREATE TABLE t (n INTEGER, m INTEGER)", "CREATE TABLE seen (m INTEGER UNIQUE)")
    sqlite_database.run(
        "CREATE TRIGGER note AFTER INSERT ON t BEGIN INSERT OR IGNORE INTO seen VALUES (NEW.m); END",
    )

    result = write(sqlite_database, [{"n": n, "m": 1} for n in range(5)])

    assert result.successful_records == 5
    assert sqlite_database.rows("seen") == [(1,)]


@pytest.mark.parametrize("when", ["BEFORE", "AFTER"])
def test_a_trigger_that_rolls_back_takes_no_other_row_with_it(sqlite_database, when):
    sqlite_database.run("CREATE TABLE t (n INTEGER, m INTEGER)")
    sqlite_database.run(
        f"CREATE TRIGGER no {when} INSERT ON t WHEN NEW.n IN (3, 8) BEGIN SELECT raise(rollback, 'never'); END"
    )

    result = write(sqlite_database, numbers(*range(20)))

    assert (result.successful_records, result.failed_records) == (18, 2)
    assert result.errors[0].sample == "never"
    assert sqlite_database.rows() == [(n, n) for n in range(20) if n not in (3, 8)]
    assert noted(sqlite_database) == [n for n in range(20) if n not in (3, 8)]


def noted(database):
    ranges = database.run("SELECT first_id, last_id FROM _batch_commits")
    return sorted(number for first, last in ranges for number in range(first, last + 1))


# --- rows that are there already ---------------------------------------------------------------------------------

RECORD = {
    "price": Decimal("1.50"),
    "weight": 0.1,
    "name": "é",
    "code": "ab",
    "data": {"a": [1]},
    "at": datetime(2030, 1, 2, 3, 4, tzinfo=UTC),
    "local": datetime(2030, 1, 2, 3, 4, tzinfo=UTC),
    "empty": None,
    "whole": 2.0,
    "blob": b"\x00'",
    "place": "(1,2)",
}
COLUMNS = (
    "price numeric, weight double precision, name text, code char(4), data json, at timestamptz, local timestamp,"
    " empty text, whole integer, blob bytea, place point"
)


@few_and_many
def test_a_row_that_is_equal_already_is_written_although_a_trigger_leaves_it_out(postgres_database, count):
    db = postgres_database
    db.run(f"CREATE TABLE t (n integer PRIMARY KEY, m varchar(9), {COLUMNS})")
    db.run("CREATE TRIGGER z BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()")
    records = [{"n": n, "m": "x", **RECORD} for n in range(count)]
    run = new_run(db, key=["n"])
    assert run.run(records).failed_records == 0
    before = db.run("SELECT n, xmin::text FROM t ORDER BY n")
    records[3]["m"] = "changed"
    run.next_round()

    result = run.run(records)

    assert result.successful_records == count
    after = db.run("SELECT n, xmin::text FROM t ORDER BY n")
    assert [n for n, (old, new) in enumerate(zip(before, after, strict=True)) if old != new] == [3]


def test_equal_is_what_the_type_of_the_column_calls_so(postgres_database):
    db = postgres_database
    db.run("CREATE TABLE t (n integer PRIMARY KEY, m numeric)", "INSERT INTO t VALUES (1, 1.00)")
    swallowing(db, "NEW IS NOT DISTINCT FROM OLD", "UPDATE")

    assert write(db, [{"n": 1, "m": Decimal("1.0")}], key=["n"]).successful_records == 1


@few_and_many
def test_a_row_all_of_whose_columns_are_the_key_is_written_again(database, count):
    database.run("CREATE TABLE t (n INTEGER, m INTEGER, PRIMARY KEY (n, m))", "INSERT INTO t VALUES (1, 1), (2, 2)")

    result = write(database, numbers(*range(count)), key=["n", "m"])

    assert result.successful_records == count
    assert database.rows() == [(n, n) for n in range(count)]


def test_a_key_that_is_only_equal_stays_as_it_is(sqlite_database):
    sqlite_database.run("CREATE TABLE t (n TEXT PRIMARY KEY COLLATE NOCASE)", "INSERT INTO t VALUES ('a')")

    assert write(sqlite_database, [{"n": "A"}], key=["n"]).successful_records == 1

    assert sqlite_database.rows() == [("a",)]


# --- rows that are put elsewhere ---------------------------------------------------------------------------------


def routed(database):
    """A table whose rows stand in another one: the database counts none."""
    database.run("CREATE TABLE part (n INTEGER, m INTEGER)")
    if database.name == "sqlite":
        database.run("CREATE VIEW t AS SELECT n, m FROM part")
        database.run("CREATE TRIGGER r INSTEAD OF INSERT ON t BEGIN INSERT INTO part VALUES (NEW.n, NEW.m); END")
        return
    database.run("CREATE TABLE t (n INTEGER, m INTEGER)")
    database.run(
        "CREATE FUNCTION route() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO part VALUES (NEW.n, NEW.m); RETURN NULL; END $$",
        "CREATE TRIGGER route BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION route()",
    )


@few_and_many
def test_rows_that_are_put_elsewhere_fail_and_the_error_says_what_to_do(database, count):
    routed(database)

    result = write(database, numbers(*range(count)))

    assert result.failed_records == count
    assert "put it elsewhere" in result.errors[0].sample
    assert "uncounted='allow'" in result.errors[0].sample
    assert database.rows("part") == []


@few_and_many
def test_what_the_error_says_to_do_helps(database, count):
    routed(database)

    result = write(database, numbers(*range(count)), uncounted="allow")

    assert result.successful_records == count
    assert database.rows("part") == [(n, n) for n in range(count)]


def test_the_report_says_that_rows_are_not_counted(sqlite_database):
    routed(sqlite_database)

    counted, uncounted = (
        write(sqlite_database, numbers(1), run_id=word, uncounted=word) for word in ("refuse", "allow")
    )

    assert "uncounted='allow'" not in render_report(replace(counted, errors=()))
    assert "Step store: rows of table t of connection warehouse count as written" in render_report(uncounted)
    assert BatchJobResult.from_json(uncounted.to_json()) == uncounted


def test_a_rule_that_puts_some_rows_elsewhere(postgres_database):
    postgres_database.run("CREATE TABLE t (n INTEGER, m INTEGER)", "CREATE TABLE part (n INTEGER, m INTEGER)")
    postgres_database.run("CREATE RULE r AS ON INSERT TO t WHERE n < 2 DO INSTEAD INSERT INTO part VALUES (NEW.*)")

    refused = write(postgres_database, numbers(*range(5)), run_id="one")
    allowed = write(postgres_database, numbers(0, 1), run_id="two", uncounted="allow")

    assert (refused.failed_records, allowed.failed_records) == (2, 0)
    assert postgres_database.rows() == [(2, 2), (3, 3), (4, 4)]
    assert postgres_database.rows("part") == [(0, 0), (1, 1)]


def test_another_word_for_uncounted_is_refused():
    with pytest.raises(InvalidOptionError, match="uncounted"):
        SqlTable("warehouse", "t", uncounted="ignore")


def test_older_rows_that_a_trigger_keeps_are_not_doubled(database):
    database.run("CREATE TABLE t (n INTEGER, m INTEGER, run VARCHAR(300))")
    options = {"mode": "replace_run", "run_column": "run"}
    run = new_run(database, **options)
    run.run(numbers(1, 2))
    if database.name == "sqlite":
        database.run("CREATE TRIGGER keep BEFORE DELETE ON t BEGIN SELECT raise(ignore); END")
    else:
        database.run("CREATE RULE keep AS ON DELETE TO t DO INSTEAD NOTHING")
    run.next_round()
    run.load(numbers(1, 2))

    with pytest.raises(StorageError, match="are still there after the DELETE"):
        run.process_all()
    assert len(database.rows()) == 2


# --- functions that fail in a row, on SQLite ----------------------------------------------------------------------


def test_a_row_that_a_function_of_a_trigger_cannot_take_fails_alone(sqlite_database):
    sqlite_database.run("CREATE TABLE t (n INTEGER, m TEXT)")
    sqlite_database.run("CREATE TRIGGER j BEFORE INSERT ON t BEGIN SELECT json_extract(NEW.m, '$.a'); END")

    result = write(sqlite_database, [{"n": n, "m": "{" if n == 3 else "{}"} for n in range(6)])

    assert (result.successful_records, result.failed_records) == (5, 1)
    assert "malformed JSON" in result.errors[0].sample


def test_a_trigger_that_cannot_be_compiled_is_an_error_of_the_statement(sqlite_database):
    sqlite_database.run("CREATE TABLE t (n INTEGER, m TEXT)", "CREATE TABLE gone (n INTEGER)")
    sqlite_database.run("CREATE TRIGGER j BEFORE INSERT ON t BEGIN INSERT INTO gone VALUES (1); END", "DROP TABLE gone")
    run = new_run(sqlite_database)
    run.load(numbers(1))

    with pytest.raises(StorageError, match=r"no such table: main\.gone"):
        run.process_all()

import sqlite3
from datetime import date
from decimal import Decimal

import pytest

from batch_provider.domain.errors import InvalidOptionError, SourceError
from batch_provider.engine.ports.store import Source
from batch_provider.sources import LocalAccess, Sql
from batch_provider.sources.sql_text import selects_everything
from tests.unit.sources.source_reading import batches, read, types


@pytest.fixture
def access(tmp_path):
    path = tmp_path / "in.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE flights (id INTEGER, carrier TEXT, delay REAL)")
        rows = [(n, "UA" if n % 2 else None, n / 2) for n in range(25)]
        connection.executemany("INSERT INTO flights VALUES (?, ?, ?)", rows)
    connection.close()
    return LocalAccess({"db": lambda: sqlite3.connect(path)})


def test_rows_are_streamed_by_name(access):
    source = Sql("db", "SELECT id, carrier AS who FROM flights ORDER BY id", batch_size=10)

    pieces = batches(source, access)

    assert [piece.num_rows for piece in pieces] == [10, 10, 5]
    assert read(source, access)[0][:2] == [{"id": 0, "who": None}, {"id": 1, "who": "UA"}]
    assert types(source, access) == {"id": "int64", "who": "string"}


def test_parameters_are_bound(access):
    assert read(Sql("db", "SELECT id FROM flights WHERE id > ?", parameters=[23]), access)[0] == [{"id": 24}]
    named = Sql("db", "SELECT id FROM flights WHERE id > :n", parameters={"n": 23})
    assert read(named, access)[0] == [{"id": 24}]


def test_no_rows_are_no_error_and_tell_their_columns(access):
    (batch,) = batches(Sql("db", "SELECT id, carrier FROM flights WHERE id < 0"), access)

    assert (batch.num_rows, batch.schema.names) == (0, ["id", "carrier"])


def test_a_full_last_batch_is_not_followed_by_an_empty_one(access):
    pieces = batches(Sql("db", "SELECT id FROM flights", batch_size=5), access)

    assert [piece.num_rows for piece in pieces] == [5] * 5


def test_types_that_drift_fail_the_records_that_cause_it(access):
    query = "SELECT CASE WHEN id = 12 THEN 'x' WHEN id = 20 THEN 0.5 ELSE id END AS v FROM flights ORDER BY id"

    rows, malformed = read(Sql("db", query, batch_size=10), access)

    assert [row["v"] for row in rows] == [*range(12), *range(13, 20), 0.5, *range(21, 25)]
    assert [(bad.line, bad.raw) for bad in malformed] == [(13, '{"v": "x"}')]


def test_a_contract_coerces(access):
    source = Sql(
        "db",
        "SELECT * FROM (SELECT id, '1.25' AS price, '2024-02-29' AS day FROM flights WHERE id = 1)",
        schema={"id": "int32", "price": "decimal128(6, 2)", "day": "date32"},
        extra_columns="refuse",
    )

    assert read(source, access)[0] == [{"id": 1, "price": Decimal("1.25"), "day": date(2024, 2, 29)}]


@pytest.mark.parametrize(
    ("query", "told", "retryable"),
    [
        pytest.param("SELECT id, carrier AS id FROM flights", "'id' is there twice", False, id="same-name"),
        pytest.param("SELECT id AS _id FROM flights", "reserved", False, id="reserved-name"),
        pytest.param("SELECT nope FROM flights", "no such column", True, id="refused"),
        pytest.param("SELECT id FROM flights WHERE id = ?", "Correct the query", False, id="unbound"),
        pytest.param("DELETE FROM flights", "gives no rows", False, id="no-select"),
    ],
)
def test_a_query_that_cannot_be_read_is_told(access, query, told, retryable):
    with pytest.raises(SourceError, match=told) as raised:
        read(Sql("db", query), access)

    assert raised.value.retryable is retryable


def test_connecting_is_tried_again(tmp_path):
    attempts = []

    def connect():
        attempts.append(1)
        if len(attempts) < 3:
            raise sqlite3.OperationalError("unable to open database file")
        return sqlite3.connect(":memory:")

    assert read(Sql("db", "SELECT 1 AS a"), LocalAccess({"db": connect}))[0] == [{"a": 1}]


def test_a_connection_without_airflow_is_told():
    with pytest.raises(SourceError, match="connections need Airflow"):
        read(Sql("warehouse", "SELECT 1 AS a"))


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM t",
        "select\n*\nfrom t",
        "SELECT DISTINCT * FROM t",
        "SELECT a, t.* FROM t",
        "SELECT a, * FROM t",
        "SELECT TOP 10 * FROM t",
        "SELECT /* all */ * FROM t -- done",
        "WITH x AS (SELECT a FROM t) SELECT * FROM x",
        "(SELECT * FROM t) UNION ALL (SELECT a FROM u)",
        "SELECT a FROM t UNION ALL SELECT * FROM u",
        "SELECT * EXCEPT (a) FROM t",
        "FROM t",
        "SELECT *, {{ columns }} FROM t",
    ],
)
def test_a_star_is_refused_without_a_schema(query):
    assert selects_everything(query)
    with pytest.raises(InvalidOptionError, match="names of the columns"):
        Sql("db", query)
    Sql("db", query, schema={"a": "int64"})


@pytest.mark.parametrize(
    "query",
    [
        "SELECT a, count(*) AS n FROM t GROUP BY a",
        "SELECT a * b AS c, 2 * (a) AS d FROM t",
        "SELECT a FROM (SELECT * FROM t) x",
        "WITH x AS (SELECT * FROM t) SELECT a FROM x",
        "SELECT a FROM t WHERE EXISTS (SELECT * FROM u)",
        "SELECT '* FROM' AS a, \"*\" AS b FROM t",
        "SELECT a -- , *\nFROM t /* SELECT * */",
        "SELECT {{ columns }} FROM t",
        "SELECT $x$ , * $x$ AS a FROM t",
    ],
)
def test_other_stars_are_fine(query):
    assert Sql("db", query).query == query


def test_query_and_parameters_are_templated_and_checked_again():
    source = Sql("db", "SELECT {{ c }} FROM t", parameters=["{{ ds }}"])

    assert source.template_values() == {"query": "SELECT {{ c }} FROM t", "parameters": ["{{ ds }}"]}
    assert source.with_template_values({"query": "SELECT a FROM t", "parameters": ["x"]}).parameters == ["x"]
    with pytest.raises(InvalidOptionError):
        source.with_template_values({"query": "SELECT * FROM t", "parameters": None})


def test_parameters_are_never_shown():
    source = Sql("db", "SELECT a FROM t WHERE b = ?", parameters=["s3cret"], batch_size=5)

    assert isinstance(source, Source)
    assert repr(source) == "Sql('db', 'SELECT a FROM t WHERE b = ?', batch_size=5)"
    assert source.describe() == "query on connection 'db'"


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"conn_id": ""}, id="conn_id"),
        pytest.param({"query": " "}, id="query"),
        pytest.param({"parameters": "x"}, id="parameters"),
        pytest.param({"batch_size": 0}, id="batch_size"),
        pytest.param({"extra_columns": "no"}, id="extra_columns"),
    ],
)
def test_options_that_cannot_work_are_refused_when_declared(options):
    with pytest.raises(InvalidOptionError, match=next(iter(options))):
        Sql(**{"conn_id": "db", "query": "SELECT a FROM t"} | options)

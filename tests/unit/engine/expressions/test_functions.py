"""Which functions an expression may call, over DuckDB's whole catalogue and from its oldest version to the newest.

``catalogue/duckdb-<version>.txt`` holds the verdict on every name of the oldest version that pyproject.toml admits.
A newer DuckDB that changes the verdict on a name, or adds one, fails here with that name: look at it, then list it.
"""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import duckdb
import pytest

from batch_provider.domain.errors import InvalidExpressionError
from batch_provider.engine.expressions.evaluate import ExpressionEvaluator, check_expression
from batch_provider.engine.expressions.functions import function_kinds, why_not

_OLDEST = Path(__file__).with_name("catalogue") / "duckdb-2.0.0.txt"

CHANGED: dict[str, dict[str, str]] = {
    "2.0.0": {},
    # Table functions and a macro; what an expression may call is the same.
    "2.0.1": {
        "add_grammar_extension": "refused",
        "duckdb_live_query_metrics": "refused",
        "map_type_id_to_pg_oid": "refused",
        "parquet_page_index": "refused",
        "remove_grammar_extension": "refused",
    },
}
"""For each version of DuckDB: the names whose verdict differs from the oldest version's, with the verdict there."""


def _recorded() -> dict[str, str]:
    return dict(line.rsplit(maxsplit=1) for line in _OLDEST.read_text(encoding="utf-8").splitlines())


def _verdicts() -> dict[str, str]:
    return {name: "refused" if why_not(name) else "allowed" for name in function_kinds()}


def test_the_oldest_recorded_version_is_the_floor_of_the_project():
    floor = re.search(r'"duckdb>=([\d.]+)', Path("pyproject.toml").read_text(encoding="utf-8"))

    assert floor is not None
    assert f"duckdb-{floor[1]}" in {_OLDEST.stem, _OLDEST.stem.removesuffix(".0")}


def test_every_name_whose_verdict_differs_from_the_oldest_version_is_listed():
    recorded, verdicts = _recorded(), _verdicts()
    differ = {
        name: verdicts.get(name, "gone")
        for name in sorted(recorded.keys() | verdicts)
        if recorded.get(name) != verdicts.get(name)
    }
    installed = version("duckdb")
    newest_listed = max(CHANGED, key=lambda text: [int(part) for part in text.split(".")])

    assert differ == CHANGED.get(installed, CHANGED[newest_listed]), f"of DuckDB {installed}"


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("n + 1", 4),
        ("5 - n", 2),
        ("- n", -3),
        ("range(3)", [0, 1, 2]),
        ("generate_series(1, 3)", [1, 2, 3]),
        ("year(since)", 2024),
        ("date_part('hour', since)", 23),
        ("date_trunc('day', since)::VARCHAR", "2024-02-29 00:00:00+00"),
        ("date_diff('day', since, since + INTERVAL 2 DAY)", 2),
        ("strftime(since, '%H:%M %Z')", "23:30 UTC"),
        ("timezone('America/New_York', since)::VARCHAR", "2024-02-29 18:30:00"),
        ("epoch(make_timestamptz(2024, 2, 29, 23, 30, 0.0)) = epoch(since)", True),
        ("fmod(7.5, n)", 1.5),
    ],
)
def test_what_depends_on_the_time_zone_alone_is_allowed_and_sees_utc(monkeypatch, expression, expected):
    monkeypatch.setenv("TZ", "America/New_York")
    check_expression(expression)
    evaluator = ExpressionEvaluator()
    at = "TIMESTAMPTZ '2024-02-29 23:30:00+00'"
    table = duckdb.sql(f"SELECT 3 AS n, {at} AS since").to_arrow_table()
    try:
        (value,) = evaluator.evaluate(expression, table).values.to_pylist()
    finally:
        evaluator.close()

    assert value == expected


@pytest.mark.parametrize(
    "name",
    [
        "now", "today", "transaction_timestamp", "get_current_timestamp", "current_localtime", "current_localtimestamp",
        "random", "uuid", "setseed", "nextval", "current_setting", "getvariable", "txid_current", "age",
        "current_database", "current_user", "version", "in_search_path",
    ],
)  # fmt: skip
def test_what_depends_on_more_than_the_record_is_refused(name):
    assert why_not(name) == f"{name}() is not allowed, it depends on more than the record"


def test_an_aggregate_and_an_unknown_name_are_told_apart():
    with pytest.raises(InvalidExpressionError, match=r"sum\(\) needs many records"):
        check_expression("sum(n) > 1")
    with pytest.raises(InvalidExpressionError, match=r"there is no function summ\(\)"):
        check_expression("summ(n) > 1")

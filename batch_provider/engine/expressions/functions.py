"""Which of DuckDB's functions an expression may call: those whose answer depends on their arguments alone."""

from __future__ import annotations

import re
from functools import lru_cache

from batch_provider.engine.expressions.sandbox import shared

_MACROS = {"date_add", "days_in_month", "fdiv", "fmod", "if", "nullif", "split_part"}
_NEVER = re.compile(r"__.*|json_(de)?serialize_.*|current_.*|version|age|invoke")  # DuckDB calls them constant


def why_not(name: str) -> str | None:
    """The reason why an expression may not call the function of this (folded) name; ``None``: it may."""
    kinds = function_kinds().get(name)
    if kinds is None:
        return f"there is no function {name}()"
    if "scalar" in kinds:
        return None
    if "aggregate" in kinds:
        return f"{name}() needs many records, it sees one record at a time"
    return f"{name}() is not allowed, it depends on more than the record"


@lru_cache(maxsize=1)
def function_kinds() -> dict[str, frozenset[str]]:
    """The kinds of every function of DuckDB's catalogue, by folded name; ``scalar`` for those that may be used."""
    query = "SELECT function_name, function_type, stability::VARCHAR FROM duckdb_functions()"
    rows = shared().run(lambda conn: conn.execute(query).fetchall())
    found: dict[str, set[str]] = {}
    for name, kind, stability in rows:
        found.setdefault(fold(name), set()).add(_kind(name, kind, stability))
    return {name: frozenset(kinds - {"scalar"} if "refused" in kinds else kinds) for name, kinds in found.items()}


def _kind(name: str, kind: str, stability: str | None) -> str:
    """What one overload is.

    One that is constant within a query only passes where another overload of its name is constant: since DuckDB
    2.0.1 the overloads of ``+`` and ``date_part()`` that take a time zone's instants are so, because they ask for
    the session's time zone, and that of the sandbox is fixed. ``now()`` and ``current_setting()`` have no other.
    """
    if kind not in {"scalar", "macro"}:
        return kind
    if _NEVER.fullmatch(name):
        return "refused"
    if kind == "macro":
        return "scalar" if name in _MACROS or name.startswith(("list_", "array_")) else "refused"
    return {"CONSISTENT": "scalar", "CONSISTENT_WITHIN_QUERY": "within query"}.get(str(stability), "refused")


def fold(name: str) -> str:
    """As DuckDB compares names: ASCII letters in lower case."""
    return name.encode(errors="surrogatepass").lower().decode(errors="surrogatepass")

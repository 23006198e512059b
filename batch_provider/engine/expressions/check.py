"""Refuses, while a DAG file is parsed, what is not one scalar SQL expression over a record's columns.

Three walls stand one behind the other: DuckDB's own parse tree, walked by an allow-list of node kinds; an
allow-list of functions from DuckDB's own catalogue (scalar, and the same result for the same arguments); and
the sandbox in which the rest runs. A list of forbidden functions would let through what a later version adds.

Column names match as in SQL, without regard to the case of ASCII letters, but an exact match comes first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from batch_provider.domain.errors import InvalidExpressionError
from batch_provider.engine.expressions.functions import fold, why_not
from batch_provider.engine.expressions.growth import MOST, growth, too_much
from batch_provider.engine.expressions.sandbox import shared

VARIABLES, FAILURES = "variables", "failures"
"""What an expression may read of a record beside its payload columns."""

_LONGEST = 10_000  # characters
_RUN = re.compile(r"(?:[(\[{+~!@-]\s*){100}")  # DuckDB 2.0.0 parses 5,000 open brackets for half a minute

_PLAIN = {
    "BETWEEN",
    "CASE",
    "CAST",
    "COLLATE",
    "COMPARISON",
    "CONJUNCTION",
    "CONSTANT",
    "LAMBDA",
    "OPERATOR",
    "TYPE",
}
_REFUSED = {
    "SUBQUERY": "subqueries (also ANY and ALL) are not allowed, it sees one record at a time",
    "WINDOW": "window functions are not allowed, it sees one record at a time",
    "STAR": "'*' and COLUMNS() are not allowed, name the columns",
    "PARAMETER": "parameters ($1, ?) are not allowed, use variables['name']",
    "GROUPING_FUNCTION": "grouping() is not allowed, it sees one record at a time",
    "OPERATOR_UNPACK": "UNPACK is not allowed, name the columns",
}
_PATTERNS = re.compile(r"regexp_(matches|full_match|extract|extract_all|replace|split_to_array)")
_LAMBDAS = re.compile(r"(list_|array_)?(apply|filter|reduce|transform)")


_CONSTANT = f"Write a constant of at most {MOST:,} there, or make it in a step's function."


@dataclass
class _Names:
    """What an expression refers to, as it is written there."""

    expression: str
    columns: set[str] = field(default_factory=set)
    variables: set[str] = field(default_factory=set)
    failures: bool = False
    growth: int = 1


def check_expression(expression: str) -> frozenset[str]:
    """Refuse what is not one scalar expression; return the payload columns it refers to, as written.

    Raises:
        InvalidExpressionError: it is something else, or uses what an expression may not.
    """
    return frozenset(_names(expression).columns)


def referenced_variables(expression: str) -> frozenset[str]:
    """The names that the expression reads with ``variables['name']``.

    Raises:
        InvalidExpressionError: as for :func:`check_expression`.
    """
    return frozenset(_names(expression).variables)


def uses_failures(expression: str) -> bool:
    """Whether the expression reads ``failures``.

    Raises:
        InvalidExpressionError: as for :func:`check_expression`.
    """
    return _names(expression).failures


def growth_of(expression: str) -> int:
    """How many times the expression may multiply what it is given (see :mod:`growth`).

    Raises:
        InvalidExpressionError: as for :func:`check_expression`.
    """
    return _names(expression).growth


def resolve_columns(expression: str, existing: Iterable[str]) -> dict[str, str]:
    """Find the payload column that each name of the expression means: name as written → column.

    Raises:
        InvalidExpressionError: there is no such column, or several; or as for :func:`check_expression`.
    """
    names, existing = _names(expression), list(existing)
    found: dict[str, str] = {}
    for name in sorted(names.columns):
        matches = [name] if name in existing else [other for other in existing if fold(other) == fold(name)]
        if not matches:
            raise no_column(expression, name, existing)
        if len(matches) > 1 or any(fold(o) == fold(name) and c != matches[0] for o, c in found.items()):
            raise InvalidExpressionError(expression, f"columns differ from {name!r} by the case of letters only")
        found[name] = matches[0]
    refuse_shadowed(expression, existing)
    return found


def refuse_shadowed(expression: str, existing: Iterable[str]) -> None:
    """Refuse an expression that reads the record's variables or failures while a payload column has that name.

    Raises:
        InvalidExpressionError: nobody could tell which of them is meant.
    """
    names, folded = _names(expression), {fold(column) for column in existing}
    for own, used in ((VARIABLES, bool(names.variables)), (FAILURES, names.failures)):
        if used and own in folded:
            reason = f"{own!r} means the record's {own}, but there is a column of that name too"
            raise InvalidExpressionError(expression, reason, advice="Give the column another name in a step before.")


def no_column(expression: str, name: str, existing: Iterable[str]) -> InvalidExpressionError:
    """The error of an expression that reads a column nobody has."""
    columns = list(existing)
    shown = ", ".join(columns[:20]) + (" and more" if len(columns) > 20 else "")
    has = f", only {shown}" if columns else ": the records have no columns"
    near = get_close_matches(name, columns, n=1)
    advice = f"Write {near[0]!r}, if that is what was meant." if near else "Name a column that the records have here."
    return InvalidExpressionError(expression, f"there is no column {name!r}{has}", advice=advice)


@lru_cache(maxsize=1_024)
def _names(expression: str) -> _Names:
    """Parse and walk; nothing is bound, so no column needs to exist."""
    names = _Names(expression)
    tree = _tree(expression)
    waiting: list[tuple[Any, frozenset[str]]] = [(tree, frozenset())]
    while waiting:
        node, bound = waiting.pop()
        if isinstance(node, list):
            waiting += [(child, bound) for child in node]
        elif isinstance(node, dict):
            waiting += _visit(names, node, bound)
    names.growth = growth(tree)
    if names.growth > MOST:
        raise InvalidExpressionError(
            expression, f"it makes more than {MOST:,} times what it is given", advice=_CONSTANT
        )
    return names


def _visit(names: _Names, node: dict[str, Any], bound: frozenset[str]) -> list[tuple[Any, frozenset[str]]]:
    """Check one node of the tree and return those below it, each with the lambda parameters it sees."""
    kind = node.get("class")
    if kind == "LAMBDA" and node["syntax_type"] == "LAMBDA_KEYWORD":
        parameters = [node["lhs"], *(argument["expression"] for argument in node["lhs"].get("arguments", ()))]
        named = {fold(name) for parameter in parameters for name in parameter.get("column_names", ())}
        return [(node["expr"], bound | named)]
    if kind == "COLUMN_REF":
        if fold(node["column_names"][0]) not in bound:
            _refer(names, node["column_names"])
        return []
    if node.get("type") in {"ARRAY_EXTRACT", "STRUCT_EXTRACT"}:
        of, key = node["children"]
        literal = key.get("literal") or {}
        if fold((of.get("column_names") or [""])[-1]) == VARIABLES and literal.get("kind") == "STRING":
            return [({**of, "column_names": [*of["column_names"], literal["text"]]}, bound)]
    if kind == "FUNCTION":
        _check_function(names.expression, node)
    elif kind is not None and (kind not in _PLAIN or node["type"] in _REFUSED):
        reason = _REFUSED.get(kind) or _REFUSED.get(node["type"], f"{kind} is not allowed")
        raise InvalidExpressionError(names.expression, reason)
    return [(child, bound) for child in node.values()]


def _refer(names: _Names, path: list[str]) -> None:
    own = fold(path[0])
    if own == VARIABLES and len(path) == 1:
        raise InvalidExpressionError(names.expression, "variables are read one by one, as variables['name']")
    if own == VARIABLES:
        names.variables.add(path[1])
    elif own == FAILURES:
        names.failures = True
    else:
        names.columns.add(path[0])


def _check_function(expression: str, node: dict[str, Any]) -> None:
    name = fold(node["function_name"])
    if len(node["qualified_name"]["path"]) > 1:
        raise InvalidExpressionError(expression, f"functions are called as {name}(x), without a name and a dot")
    after_first = [argument["expression"] for argument in node.get("arguments", ())][1:]
    if _LAMBDAS.fullmatch(name) and any(a.get("syntax_type") == "SINGLE_ARROW" for a in after_first):
        raise InvalidExpressionError(expression, "a lambda is written as lambda x: x + 1, not with an arrow")
    given = [argument["expression"] for argument in node.get("arguments", ())]
    if reason := why_not(name) or _bad_pattern(name, given):
        raise InvalidExpressionError(expression, reason)
    if reason := too_much(name, given):
        raise InvalidExpressionError(expression, reason, advice=_CONSTANT)


def _bad_pattern(name: str, arguments: list[dict[str, Any]]) -> str | None:
    """Why a constant regular expression is none. DuckDB 2.0.0 says so when it binds, 2.0.1 for each record."""
    import duckdb

    without_options = 3 if name == "regexp_replace" else 2
    if not _PATTERNS.fullmatch(name) or len(arguments) != without_options:
        return None
    literal = arguments[1].get("literal") or {}
    if literal.get("kind") != "STRING":
        return None
    try:
        shared().run(lambda conn: conn.execute("SELECT regexp_matches('', ?)", [literal["text"]]).fetchall())
    except duckdb.Error as error:
        return str(error).partition("Error: ")[2].partition("\n")[0]
    return None


def _tree(expression: str) -> Any:
    """The parse tree of one expression.

    It is parsed as it will be run, in brackets, and bare: then a bracket of its own cannot close ours.
    """
    if not expression.strip():
        raise InvalidExpressionError(expression, "it is empty")
    if len(expression) > _LONGEST or _RUN.search(expression):
        shown = expression[:60] + "…"
        raise InvalidExpressionError(shown, f"it is longer than {_LONGEST:,} characters or nested too deeply")
    if expression.rstrip().endswith("*/"):
        raise InvalidExpressionError(expression, "it ends in a comment")
    tree: Any = None
    for parsed in _parsed(expression, f"SELECT {expression}", f"SELECT ({expression})"):
        if parsed.get("error"):
            found = str(parsed["error_message"]).partition("\n")[0].rstrip(".!")
            reason = found if tree is None else "a comment, a semicolon or a name follows it"
            reason = "it is nested too deeply" if "expression depth" in found else reason
            is_other = "can be serialized" in found  # how DuckDB calls a statement that is no SELECT
            raise InvalidExpressionError(expression, "it holds more than one statement" if is_other else reason)
        if len(parsed["statements"]) != 1:
            raise InvalidExpressionError(expression, "it holds more than one statement")
        node = parsed["statements"][0]["node"]
        known = {"type", "select_list", "from_table", "cte_map", "aggregate_handling"}
        more = any(value for key, value in node.items() if key not in known) or any(node["cte_map"].values())
        if more or node["type"] != "SELECT_NODE" or node["from_table"]["type"] != "EMPTY":
            raise InvalidExpressionError(expression, "it is a query, not an expression")
        if len(node["select_list"]) != 1:
            raise InvalidExpressionError(expression, "it is a list of several expressions")
        tree = node["select_list"][0]
    return tree


def _parsed(expression: str, *queries: str) -> list[dict[str, Any]]:
    import duckdb

    parse = "SELECT json_serialize_sql(?::VARCHAR)"
    try:
        answers = shared().run(lambda conn: [conn.execute(parse, [query]).fetchall()[0][0] for query in queries])
        return [json.loads(answer) for answer in answers]
    except RecursionError:  # DuckDB's own limit comes first, unless the stack is full already
        raise InvalidExpressionError(expression, "it is nested too deeply") from None
    except duckdb.Error as error:
        raise InvalidExpressionError(expression, f"it cannot be parsed ({str(error).partition(chr(10))[0]})") from None

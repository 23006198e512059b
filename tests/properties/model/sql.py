"""The SQL expressions that are drawn, each with what it gives in plain Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

View = Mapping[str, Any]
"""A record's columns, and ``variables`` and ``failures``."""


class RaisedError(Exception):
    """DuckDB raises this type for the record."""


@dataclass(frozen=True)
class Sql:
    """What an expression gives for a record, and which columns it reads."""

    value: Callable[[View], Any]
    reads: tuple[str, ...] = ()


def _cast(view: View) -> int | None:
    try:
        return int(view["t"]) if view.get("t") is not None else None
    except ValueError:
        raise RaisedError("ConversionException") from None


def _try_cast(view: View) -> int | None:
    try:
        return _cast(view)
    except RaisedError:
        return None


def _divided(view: View) -> int | None:
    n, k = view.get("n"), view.get("k")
    if n is None or k is None:
        return None
    if k == 0:
        raise RaisedError("InvalidInputException")
    return int(n / k)


def _reduced(view: View) -> int | None:
    if (view.get("n") or 0) > 5:
        raise RaisedError("Error")
    return view.get("n")


def _more(value: int | None, than: int) -> bool | None:
    return None if value is None else value > than


def _or(left: bool | None, right: bool | None) -> bool | None:
    return True if left or right else (None if left is None or right is None else False)


CONDITIONS: Mapping[str, Sql] = {
    "n > 2": Sql(lambda v: _more(v.get("n"), 2), ("n",)),
    "n % 2 = 0": Sql(lambda v: None if v.get("n") is None else v["n"] % 2 == 0, ("n",)),
    "CAST(t AS INTEGER) > 4": Sql(lambda v: _more(_cast(v), 4), ("t",)),
    "TRY_CAST(t AS INTEGER) > 4": Sql(lambda v: _more(_try_cast(v), 4), ("t",)),
    "n // k > 1": Sql(lambda v: _more(_divided(v), 1), ("n", "k")),
    "t IS NULL OR t <> 'x'": Sql(lambda v: v.get("t") != "x", ("t",)),
    "id IS NULL OR id % 3 <> 1": Sql(lambda v: v.get("id") is None or v["id"] % 3 != 1, ("id",)),
}
"""Over columns of the input alone."""

RAISING_OTHERS: Mapping[str, Sql] = {
    "list_reduce(CASE WHEN n > 5 THEN [] ELSE [n] END, lambda x, y: x + y) > 0": Sql(
        lambda v: _more(_reduced(v), 0), ("n",)
    ),
}
"""Raise what DuckDB does not call an error of the data."""

BEYOND: Mapping[str, Sql] = {
    "variables['lim'] > 2": Sql(lambda v: _more(v["variables"].get("lim"), 2)),
    "variables['tag'] = 'x' AND n > 0": Sql(lambda v: _more(v.get("n"), 0), ("n",)),
    "variables['nobody'] IS NULL": Sql(lambda v: True),
    "len(failures) > 0": Sql(lambda v: bool(v["failures"])),
    "failures[-1].type = 'ValueError'": Sql(
        lambda v: v["failures"][-1]["type"] == "ValueError" if v["failures"] else None
    ),
    "failures[1].step = 'input'": Sql(lambda v: v["failures"][0]["step"] == "input" if v["failures"] else None),
}
"""What accept expressions may read besides columns."""

LATER: Mapping[str, Sql] = {
    "a > 100 OR n > 0": Sql(lambda v: _or(_more(v.get("a"), 100), _more(v.get("n"), 0)), ("a", "n")),
    "COALESCE(a, 0) > 5": Sql(lambda v: (v.get("a") or 0) > 5, ("a",)),
}
"""Over a column that earlier steps may give to some records."""

VALUES: Mapping[str, Sql] = {
    "n * 2": Sql(lambda v: None if v.get("n") is None else v["n"] * 2, ("n",)),
    "CAST(t AS INTEGER) + k": Sql(
        lambda v: None if (x := _cast(v)) is None or v.get("k") is None else x + v["k"], ("t", "k")
    ),
    "n // k": Sql(_divided, ("n", "k")),
    "COALESCE(TRY_CAST(t AS INTEGER), -1)": Sql(lambda v: -1 if (x := _try_cast(v)) is None else x, ("t",)),
}

BEYOND_VALUES: Mapping[str, Sql] = {
    "n * variables['lim']": Sql(
        lambda v: None if v.get("n") is None or v["variables"].get("lim") is None else v["n"] * v["variables"]["lim"],
        ("n",),
    ),
    "len(failures)": Sql(lambda v: len(v["failures"])),
}

EVERY: Mapping[str, Sql] = {**CONDITIONS, **RAISING_OTHERS, **BEYOND, **LATER, **VALUES, **BEYOND_VALUES}

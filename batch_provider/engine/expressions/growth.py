"""Functions that make more of a record than it holds: how much an expression multiplies what it is given.

What they make stands outside the memory that DuckDB counts, so the amount must be known before it runs: a constant in
the expression, and all of them together within a bound.
"""

from __future__ import annotations

import re
from typing import Any

from batch_provider.engine.expressions.functions import fold

MOST = 100_000
"""Times that an expression may multiply what it is given, or characters and elements that it may make of nothing."""

_AT = {"repeat": 1, "lpad": 1, "rpad": 1, "list_resize": 1, "array_resize": 1, "bitstring": 1, "bar": 3}
_SERIES = {"range", "generate_series"}
_TEXTS = {"format", "printf"}
_DYNAMIC = re.compile(r"%[^a-zA-Z%]*\*|\{[^}]*\{")  # a width that is an argument of its own


def too_much(name: str, arguments: list[dict[str, Any]]) -> str | None:
    """The reason why a call of a function that multiplies is refused; ``None``: it is another one, or bounded."""
    if name not in {*_AT, *_SERIES, *_TEXTS}:
        return None
    what = "its format" if name in _TEXTS else "its bounds" if name in _SERIES else "the amount"
    found = _amount(name, arguments)
    if found is None:
        return f"{name}() makes more of a record than it holds, so {what} must be constant"
    return f"{name}() makes more than {MOST:,}" if found > MOST else None


def growth(tree: Any) -> int:
    """How many times a (checked) tree multiplies what it is given; nested calls multiply each other."""
    most, waiting = 1, [(tree, 1)]
    while waiting:
        node, times = waiting.pop()
        if isinstance(node, list):
            waiting += [(child, times) for child in node]
        elif isinstance(node, dict):
            times *= _own(node)
            most = max(most, times)
            each = times * _elements(node)
            waiting += [(child, each if _is_lambda(child) else times) for child in _below(node)]
    return most


def _own(node: dict[str, Any]) -> int:
    """How many times a call multiplies what is inside it."""
    is_call = node.get("class") == "FUNCTION"
    return max(_amount(fold(node["function_name"]), _given(node)) or 1, 1) if is_call else 1


def _elements(node: dict[str, Any]) -> int:
    """How often a lambda among the arguments is called for each element that the record has: the list may be made."""
    given = _given(node)
    return growth(given[0]) if any(map(_is_lambda, given)) else 1


def _given(node: dict[str, Any]) -> list[Any]:
    """The arguments of a call; none of what is no call."""
    arguments = node.get("arguments", ()) if node.get("class") == "FUNCTION" else ()
    return [argument["expression"] for argument in arguments]


def _below(node: dict[str, Any]) -> list[Any]:
    return [*(child for key, child in node.items() if key != "arguments"), *(_given(node) or [node.get("arguments")])]


def _is_lambda(node: Any) -> bool:
    return isinstance(node, dict) and node.get("class") == "LAMBDA"


def _amount(name: str, arguments: list[dict[str, Any]]) -> int | None:
    """What a call makes of one character, element or nothing; None: that depends on the record. 1: it does not grow."""
    if name in _TEXTS:
        return _widest(arguments[0]) if arguments else 1
    if name in _SERIES:
        bounds = [bound for argument in arguments[:3] if (bound := _whole(argument)) is not None]
        return _steps(*bounds) if len(bounds) == len(arguments) else None
    if name in _AT and len(arguments) > _AT[name]:
        return _whole(arguments[_AT[name]])
    return 1


def _steps(first: int = 0, last: int | None = None, step: int = 1) -> int:
    """The length of a series; with one bound it begins at 0."""
    start, stop = (0, first) if last is None else (first, last)
    return abs(stop - start) // max(abs(step), 1) + 1


def _whole(node: dict[str, Any]) -> int | None:
    """The value of a constant whole number; None: it is something else."""
    if node.get("class") == "CAST":
        return _whole(node["child"])
    literal = node.get("literal") or {}
    return int(literal["text"]) if literal.get("kind") == "INTEGER" else None


def _widest(node: dict[str, Any]) -> int | None:
    """The largest number in a constant format; None: the format, or a width in it, comes with the record."""
    literal = node.get("literal") or {}
    if literal.get("kind") != "STRING" or _DYNAMIC.search(literal["text"].replace("{{", "").replace("%%", "")):
        return None
    return max(map(int, re.findall(r"[0-9]{1,18}", literal["text"])), default=1)

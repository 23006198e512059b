"""As much SQL grammar as it takes to see a ``SELECT *``, whatever the dialect."""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r"""
    (?P<skip>\s+|--[^\n]*|/\*.*?\*/|\{\#.*?\#\})
    | (?P<value>'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|\[[^\]\n]*\]|\$(\w*)\$.*?\$\3\$|\{\{.*?\}\}|\{%.*?%\}
        |\d+(?:\.\d*)?|\w+)
    | (?P<sign>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_BEFORE_STAR = frozenset({"SELECT", "DISTINCT", "ALL", ",", "."})
_SET_OPERATIONS = frozenset({"", "UNION", "ALL", "EXCEPT", "INTERSECT", "MINUS", "DISTINCT", ")"})
"""After these a bracket opens a query whose columns are the outer query's own."""


def selects_everything(query: str) -> bool:
    """Whether the columns of the result are whatever the tables have: ``*`` or ``t.*`` in an outermost SELECT.

    A star in a subquery, in ``count(*)`` or between factors is none.
    """
    words = [match[0].upper() for match in _TOKEN.finditer(query) if match.lastgroup != "skip"]
    if words and words[0] in {"FROM", "TABLE"}:
        return True
    inner: list[bool] = []  # for every open bracket: is it a query of its own?
    for at, word in enumerate(words):
        previous = words[at - 1] if at else ""
        if word == "(":
            inner.append(previous not in _SET_OPERATIONS)
        elif word == ")" and inner:
            inner.pop()
        elif word == "*" and not any(inner):
            following = words[at + 1] if at + 1 < len(words) else ""
            if previous in _BEFORE_STAR or following == "FROM":
                return True
    return False

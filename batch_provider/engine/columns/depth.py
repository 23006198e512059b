"""Whether values nest no deeper than Arrow and Parquet can hold; asked before Arrow sees them, as it would crash."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

MOST_LEVELS = 60
"""Of lists and dicts in one another. Arrow's messages hold 64."""
MOST_PARQUET_LEVELS = 96
"""Parquet opens no file whose schema is deeper than 100; a list takes two levels, a dict one (measured)."""
MOST_VALUES = 2**31 - 1
"""Inside one value: Arrow counts no further. A few lists that hold one another twice come to more at once."""

_CONTAINERS = (list, tuple, dict, set, frozenset)
_FLAT = frozenset({int, str, float, bool, bytes, type(None)})
_SHALLOW = 8


def unbearable(values: Sequence[Any]) -> dict[int, str]:
    """Position → what is wrong with a value that nests too deep, holds itself, or unfolds to too much."""
    kinds = set(map(type, values))
    if kinds <= _FLAT or not any(issubclass(kind, _CONTAINERS) for kind in kinds):
        return {}
    deep = ((at, value) for at, value in enumerate(values) if not _is_shallow(value, _SHALLOW))
    return {at: problem for at, value in deep if (problem := _problem(value)) is not None}


def _is_shallow(value: Any, left: int) -> bool:
    """Whether it has no more than ``left`` levels: nearly every value, told in a tenth of the time."""
    if type(value) in _FLAT or not isinstance(value, _CONTAINERS):
        return True
    if left == 0:
        return False
    members: Iterable[Any] = value.values() if isinstance(value, dict) else value
    for member in members:  # noqa: SIM110  # a generator would cost as much as the rest
        if type(member) not in _FLAT and not _is_shallow(member, left - 1):
            return False
    return True


def shown(value: Any) -> str:
    """The beginning of its ``repr``, for messages; that of a value that nests too deep raises."""
    try:
        return f"{value!r:.80}"
    except RecursionError:
        return f"{type(value).__name__} that nests too deep to be shown"


class _UnbearableError(Exception):
    """Its message says why."""


def _problem(value: Any) -> str | None:
    try:
        _measure(value, [], 0, {})
    except _UnbearableError as error:
        return str(error)
    return None


def _measure(value: Any, path: list[int], above: int, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """How many levels of Parquet there are below, and how many values inside.

    Args:
        value: a container.
        path: ids of the containers that it is in.
        above: the levels of Parquet that these take.
        known: container's id → what was found of it.
    """
    if id(value) in path:
        raise _UnbearableError("it holds itself")
    own = 1 if isinstance(value, dict) else 2
    levels, count = known.get(id(value), (own, 0))
    if len(path) >= MOST_LEVELS or above + levels > MOST_PARQUET_LEVELS:
        raise _UnbearableError(f"it nests deeper than {MOST_LEVELS} levels, or {MOST_PARQUET_LEVELS // 2} of lists")
    if id(value) in known:
        return levels, count
    members: Iterable[Any] = value.values() if isinstance(value, dict) else value
    path.append(id(value))
    for member in members:
        count += 1
        if isinstance(member, _CONTAINERS):
            below, inside = _measure(member, path, above + own, known)
            levels, count = max(levels, own + below), count + inside
    path.pop()
    if count > MOST_VALUES:
        raise _UnbearableError("it unfolds to more than 2,147,483,647 values")
    known[id(value)] = levels, count
    return levels, count

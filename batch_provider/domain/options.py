"""Checks of the values that an author gives; each raises one clear sentence."""

from __future__ import annotations

import math
from datetime import timedelta

from batch_provider.domain.errors import InvalidOptionError
from batch_provider.domain.names import RESERVED_COLUMNS


def set_frozen(target: object, attribute: str, value: object) -> None:
    """Set a normalised value while a frozen dataclass is being made."""
    object.__setattr__(target, attribute, value)


def check_count(option: str, value: object, *, minimum: int, maximum: int | None = None, also: str = "") -> None:
    """Refuse anything but a whole number within the bounds.

    Raises:
        InvalidOptionError: it is another thing, too small or too large.
    """
    good = isinstance(value, int) and not isinstance(value, bool) and value >= minimum
    if not good or (maximum is not None and isinstance(value, int) and value > maximum):
        upper = f" to {maximum:,}" if maximum is not None else " or more"
        raise InvalidOptionError(option, value, f"a whole number, {minimum}{upper} {also}".rstrip())


def check_choice(option: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse anything but one of ``choices``.

    Raises:
        InvalidOptionError: it is none of them.
    """
    if value not in choices:
        raise InvalidOptionError(option, value, " or ".join(map(repr, choices)))


def seconds_of(option: str, value: object, *, or_none: bool = False) -> float:
    """A duration in seconds, from a timedelta or a number; with ``or_none`` it may be 0.

    Raises:
        InvalidOptionError: it is neither, or not above 0.
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    fits = isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and 0 <= seconds < math.inf
    if not fits or (seconds == 0 and not or_none) or not isinstance(seconds, (int, float)):
        raise InvalidOptionError(option, value, f"seconds {'from 0' if or_none else 'above 0'}, or a timedelta")
    return float(seconds)


def check_exceptions(value: object) -> tuple[type[Exception], ...]:
    """Return one exception class, or several, as a tuple.

    Raises:
        InvalidOptionError: something else is among them.
    """
    kinds = value if isinstance(value, (tuple, list)) else (value,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise InvalidOptionError("retry_on", kind, "exception classes")
    return tuple(kinds)


def check_columns(option: str, columns: object) -> tuple[str, ...] | None:
    """Return column names as a tuple; None stays None.

    Raises:
        InvalidOptionError: it is a bare string, holds something else than strings, or a reserved name.
    """
    if columns is None:
        return None
    if isinstance(columns, str) or not isinstance(columns, (list, tuple, set, frozenset)):
        raise InvalidOptionError(option, columns, "a list of column names")
    names = tuple(sorted(columns, key=str) if isinstance(columns, (set, frozenset)) else columns)
    if bad := [name for name in names if not isinstance(name, str) or name in RESERVED_COLUMNS]:
        raise InvalidOptionError(option, bad[0], "column names of the payload")
    return names

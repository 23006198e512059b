"""Types: read from text, and given to values so that only the values which do not fit are lost."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batch_provider.domain.errors import InvalidOptionError
from batch_provider.engine.columns.rows import Bad

Attempt = Callable[[int, int], pa.Array]
"""Makes the array of the positions from … to …; raises if any of them does not fit."""

MISFIT = (pa.ArrowException, OverflowError, TypeError, ValueError)

_DECIMAL = re.compile(r"decimal(128|256)?\((\d+),\s*(-?\d+)\)")
_LIST = re.compile(r"list<(?:\w+:\s*)?(.+)>")
_ZONED = re.compile(r"timestamp\[(s|ms|us|ns),\s*(?:tz=)?([^\]]+)\]")
_LONGEST_INTEGER = 2**63


def as_schema(option: object) -> pa.Schema | None:
    """Make a schema of what an author wrote: a schema, or column → type or name of a type.

    Raises:
        InvalidOptionError: it is something else, or names a type there is not.
    """
    if option is None or isinstance(option, pa.Schema):
        schema = option
    elif isinstance(option, Mapping):
        schema = pa.schema([pa.field(_name(name), as_type(kind)) for name, kind in option.items()])
    else:
        raise InvalidOptionError("schema", option, "a mapping of column names to types, or a pyarrow.Schema")
    if schema is not None and len(set(schema.names)) != len(schema.names):
        raise InvalidOptionError("schema", schema.names, "each column once")
    return schema


def _name(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise InvalidOptionError("schema", name, "column names that are strings")
    return name


def as_type(kind: object) -> pa.DataType:
    """The Arrow type named by a string such as ``int64`` or ``decimal128(10, 2)``; a type stays as it is.

    Raises:
        InvalidOptionError: there is no such type.
    """
    if isinstance(kind, pa.DataType):
        return kind
    try:
        if isinstance(kind, str):
            return _parse_type(kind.strip())
    except (ValueError, TypeError):
        pass
    raise InvalidOptionError(
        "schema", kind, "Arrow types such as 'int64', 'string', 'timestamp[us]' or 'decimal128(10, 2)'"
    )


def _parse_type(text: str) -> pa.DataType:
    if match := _DECIMAL.fullmatch(text):
        make = pa.decimal256 if match[1] == "256" else pa.decimal128
        return make(int(match[2]), int(match[3]))
    if match := _ZONED.fullmatch(text):
        return pa.timestamp(match[1], tz=match[2].strip())
    if match := _LIST.fullmatch(text):
        return pa.list_(_parse_type(match[1]))
    return pa.type_for_alias(text)


def bisect(count: int, target: pa.DataType, attempt: Attempt) -> tuple[pa.Array, Bad]:
    """Make an array of ``count`` values, halving what fails until the values that cause it stand alone."""
    bad: Bad = {}
    parts: list[pa.Array] = []
    waiting = [(0, count)]
    while waiting:
        start, stop = waiting.pop()
        try:
            parts.append(attempt(start, stop))
        except MISFIT as error:
            if stop - start > 1:
                middle = (start + stop) // 2
                waiting += [(middle, stop), (start, middle)]
                continue
            bad[start] = str(error)
            parts.append(pa.nulls(1, target))
    if len(parts) == 1:
        return parts[0], bad
    return (pa.concat_arrays(parts) if parts else pa.array([], target)), bad


def coerce(array: pa.Array, target: pa.DataType) -> tuple[pa.Array, Bad]:
    """Give an array another type; what would lose something is null there and told by position."""
    return bisect(len(array), target, lambda start, stop: array.slice(start, stop - start).cast(target))


def coerce_values(values: Sequence[Any], target: pa.DataType) -> tuple[pa.Array, Bad]:
    """Make an array of Python values of a type that was demanded.

    A value goes through the type that is its own, as ``pa.array([1.5], pa.int64())`` would make it 1 in silence.
    """
    wanted = [_approach(value, target) for value in values]
    return bisect(len(wanted), target, lambda start, stop: _own_type(wanted[start:stop], target).cast(target))


def _own_type(values: list[Any], target: pa.DataType) -> pa.Array:
    if pa.types.is_nested(target):
        return pa.array(values, target)
    return pa.array(values)


def _approach(value: Any, target: pa.DataType) -> Any:
    """What Arrow can cast: one value where a list is wanted, JSON where text is wanted of something nested."""
    if pa.types.is_list(target):
        return value if value is None or isinstance(value, (list, tuple)) else [value]
    if isinstance(value, (dict, list)) and (pa.types.is_string(target) or pa.types.is_large_string(target)):
        return json.dumps(value, default=str, ensure_ascii=False)
    if isinstance(value, int) and not -_LONGEST_INTEGER <= value < _LONGEST_INTEGER:
        return Decimal(value)
    return value


def plain(array: pa.Array) -> pa.Array:
    """The same values without an encoding: dictionaries, runs and views become what they stand for."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        return plain(array.dictionary_decode())
    if pa.types.is_run_end_encoded(kind):
        return plain(pc.run_end_decode(array))
    if pa.types.is_string_view(kind):
        return array.cast(pa.string())
    if pa.types.is_binary_view(kind):
        return array.cast(pa.binary())
    return array

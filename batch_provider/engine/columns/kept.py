"""Values that cannot stay in their column: they travel in the side column ``_kept``, as JSON (ADR 0007).

A step that makes numbers of a text column gives the column a new type; a record that failed in it, or that it
did not accept, still has its text. What JSON does not know is tagged with its type, so every value comes back as
it was.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

Kept = dict[int, dict[str, Any]]
"""Row → column → value."""

_TAG = "$batch_provider"  # no key that a payload has

_ENCODERS: list[tuple[type, str, Callable[[Any], str]]] = [
    (datetime, "datetime", datetime.isoformat),
    (date, "date", date.isoformat),
    (time, "time", time.isoformat),
    (timedelta, "timedelta", lambda value: repr(value // timedelta(microseconds=1))),
    (Decimal, "decimal", str),
    (bytes, "bytes", lambda value: base64.b64encode(value).decode()),
]
_DECODERS: dict[str, Callable[[str], Any]] = {
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": lambda text: timedelta(microseconds=int(text)),
    "decimal": Decimal,
    "bytes": base64.b64decode,
}


def kept_column(kept: Mapping[int, Mapping[str, Any]], count: int) -> pa.Array:
    """The side column of ``count`` rows."""
    texts: list[str | None] = [None] * count
    for row, values in kept.items():
        if values:
            texts[row] = json.dumps(values, default=_encode)
    return pa.array(texts, pa.string())


def kept_values(column: pa.Array | pa.ChunkedArray) -> Kept:
    """What :func:`kept_column` wrote."""
    if column.null_count == len(column):
        return {}
    return {row: json.loads(text, object_hook=_decode) for row, text in enumerate(column.to_pylist()) if text}


def _encode(value: Any) -> dict[str, str]:
    for kind, tag, encode in _ENCODERS:
        if isinstance(value, kind):
            return {_TAG: tag, "value": encode(value)}
    return {_TAG: "text", "value": str(value)}


def _decode(found: dict[str, Any]) -> Any:
    if found.keys() != {_TAG, "value"}:
        return found
    return _DECODERS.get(found[_TAG], str)(found["value"])

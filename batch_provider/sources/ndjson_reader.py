"""NDJSON files: one JSON object on each line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pajson

from batch_provider.domain.errors import SourceError
from batch_provider.engine.ports.store import MalformedRecord
from batch_provider.sources.intake import Intake, Locate, Piece, malformed
from batch_provider.sources.locate import FoundFile, as_utf8, read_full
from batch_provider.sources.read_options import ReadOptions

_BLOCK = 2 * 2**20
_LONGEST = 64 * 2**20
_DEEPEST = 200  # brackets on a line that pyarrow is given: it crashes on JSON nested too deeply
_EXACT = 2.0**53
_NOT_BRACKETS = bytes(set(range(256)) - set(b"{}[]\n"))
_SEVERAL = re.compile(rb"\}[ \t\r]*(?:null|\{)")


def read_ndjson(found: FoundFile, options: ReadOptions, intake: Intake) -> Iterator[Piece]:
    """Stream a file; a line that is no JSON object becomes a malformed record of its own."""
    line = 1
    with found.open() as stream:
        for block in _blocks(found, as_utf8(stream, options.encoding)):
            batch = _fast(block, intake)
            if batch is not None:
                yield from intake.from_arrow(batch, _place(block, line))
            else:
                yield from _slow(block, line, intake)
            line += block.count(b"\n")
    if intake.rows:
        intake.check_demands()


def _blocks(found: FoundFile, stream: Any) -> Iterator[bytes]:
    """Whole lines, each with its end."""
    rest = b""
    first = True
    while data := read_full(stream, _BLOCK):
        rest += data.removeprefix(b"\xef\xbb\xbf") if first else data
        first = False
        end = rest.rfind(b"\n") + 1
        if end:
            yield rest[:end]
            rest = rest[end:]
        if len(rest) > _LONGEST:
            raise SourceError(
                found.name,
                f"a line is longer than {_LONGEST >> 20} MiB. A JSON array is read with format='json'.",
                retryable=False,
            )
    if rest:
        yield rest + b"\n"


def _fast(block: bytes, intake: Intake) -> pa.RecordBatch | None:
    """The block as pyarrow reads it; None if it might differ from what stands there.

    pyarrow.json ends the process on a line ``null`` and on deep nesting, takes strings for timestamps, whole
    numbers beyond int64 for floats, and does not care about lines.
    """
    if not _is_one_object_a_line(block):
        return None
    known = pa.schema(
        [
            (name, pa.string() if pa.types.is_temporal(kind) else kind)
            for name, kind in intake.types.items()
            if name not in intake.demanded or pa.types.is_temporal(kind)
        ]
    )
    try:
        batch = _parse(block, known)
        if any(_holds(field.type, pa.types.is_timestamp) for field in batch.schema):
            texts = [
                pa.field(field.name, _without_timestamps(field.type))
                for field in batch.schema
                if not pa.types.is_null(field.type)
            ]
            batch = _parse(block, pa.schema(texts))
    except pa.ArrowInvalid:
        return None
    risky = "" in batch.schema.names or any(_is_inexact(column) for column in batch.columns)
    return None if batch.num_rows != block.count(b"\n") or risky else batch


def _is_one_object_a_line(block: bytes) -> bool:
    """Whether every line begins and ends like an object, and none of them looks like more, or is nested deeply."""
    characters = np.frombuffer(block, np.uint8)
    newlines = np.flatnonzero(characters == ord("\n"))
    last = characters[newlines - 1]
    last = np.where(last == ord("\r"), characters[newlines - 2], last)
    brackets = block.translate(None, _NOT_BRACKETS).split(b"\n")
    return (
        block.startswith(b"{")
        and bool((characters[newlines[:-1] + 1] == ord("{")).all())
        and bool((last == ord("}")).all())
        and max(map(len, brackets)) <= _DEEPEST
        and not _SEVERAL.search(block)
    )


def _parse(block: bytes, schema: pa.Schema) -> pa.RecordBatch:
    table = pajson.read_json(
        pa.BufferReader(block),
        read_options=pajson.ReadOptions(use_threads=False, block_size=len(block) + 1),
        parse_options=pajson.ParseOptions(explicit_schema=schema, unexpected_field_behavior="infer"),
    )
    batches: list[pa.RecordBatch] = table.combine_chunks().to_batches()
    return batches[0]


def _holds(kind: pa.DataType, check: Any) -> bool:
    children = [kind.field(at).type for at in range(kind.num_fields)]
    return bool(check(kind)) or any(_holds(child, check) for child in children)


def _without_timestamps(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_without_timestamps(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _without_timestamps(field.type)) for field in kind])
    return kind


def _is_inexact(array: pa.Array) -> bool:
    """Whether there are floats that may stand for whole numbers which no float can hold."""
    if pa.types.is_floating(array.type):
        largest = pc.max(pc.abs(array)).as_py()
        return bool(largest is not None and largest >= _EXACT)
    if pa.types.is_list(array.type):
        return _is_inexact(array.flatten())
    if pa.types.is_struct(array.type):
        return any(map(_is_inexact, array.flatten()))
    return False


def _slow(block: bytes, line: int, intake: Intake) -> Iterator[Piece]:
    rows: list[dict[str, Any]] = []
    where: list[tuple[int, bytes]] = []
    others: list[MalformedRecord] = []
    for number, raw in enumerate(block.split(b"\n")[:-1], line):
        if not raw.strip():
            continue
        try:
            rows.append(_object(json.loads(raw)))
            where.append((number, raw))
        except (ValueError, RecursionError) as error:
            others.append(malformed(number, _text(raw), f"the line is no JSON object: {error}"))
    if rows or others:
        yield from intake.from_rows(rows, lambda at: (where[at][0], _text(where[at][1])), others)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"it is {type(value).__name__}")
    if "" in value:
        raise ValueError("it has a key without a name")
    return value


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace").removesuffix("\r")


def _place(block: bytes, first: int) -> Locate:
    """Locate in a block in which every line is a record."""
    return lambda at: (first + at, _text(block.split(b"\n", at + 1)[at]))

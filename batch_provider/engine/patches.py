"""Turning what functions returned into columns: patches over a block, nothing lost on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from batch_provider.domain.names import RESERVED_COLUMNS
from batch_provider.domain.spec import StepSpec
from batch_provider.engine.block import Block
from batch_provider.engine.invoke import RecordError
from batch_provider.engine.rows import build_column, scatter, to_python, unify

Patch = Mapping[str, Any]


class PatchWriter:
    """Applies the patches of one step; remembers the types it gave its columns from block to block."""

    def __init__(self, step: StepSpec) -> None:
        self._step = step
        self._types: dict[str, pa.DataType] = {}

    def check(self, returned: Sequence[Any], positions: np.ndarray) -> tuple[list[Patch], dict[int, RecordError]]:
        """The patches among what was returned (``{}`` for None), and an error for anything else."""
        errors: dict[int, RecordError] = {}
        patches: list[Patch] = []
        replace = self._step.output == "replace"
        for index, value in enumerate(returned):
            if value is None:
                patches.append({})
                continue
            problem = _problem(value)
            if problem is None:
                patches.append(value)
                continue
            patches.append({})
            wanted = "a dict, the whole payload" if replace else "a dict with the keys to change, or None"
            message = f"the step returned {problem}; it must return {wanted}"
            errors[int(positions[index])] = RecordError("InvalidPatchError", message)
        return patches, errors

    def columns(
        self, block: Block, patches: Sequence[Patch], positions: np.ndarray
    ) -> tuple[dict[str, pa.Array], dict[int, RecordError]]:
        """New and changed columns of the block, and the records whose values cannot stand in them.

        A record with one bad value fails whole: none of its patch is applied.
        """
        bad: dict[int, RecordError] = {}
        while True:
            good = [index for index, at in enumerate(positions.tolist()) if at not in bad]
            columns, found = self._build(block, [patches[index] for index in good], positions[good])
            if not found:
                return columns, bad
            bad.update(found)

    def _build(
        self, block: Block, patches: list[Patch], positions: np.ndarray
    ) -> tuple[dict[str, pa.Array], dict[int, RecordError]]:
        columns: dict[str, pa.Array] = {}
        bad: dict[int, RecordError] = {}
        kept = {at: dict(values) for at, values in block.kept.items()}
        for name in dict.fromkeys(key for patch in patches for key in patch):
            has = [index for index, patch in enumerate(patches) if name in patch]
            at = positions if len(has) == len(patches) else positions[has]
            array, problems = build_column([patches[index][name] for index in has], self._types.get(name))
            for index, why in problems.items():
                bad.setdefault(int(at[index]), RecordError("FieldTypeError", f"field {name!r}: {why}"))
            if not bad:
                columns[name] = self._whole_column(block, name, array, at, kept)
        if not bad:
            self._types.update({name: column.type for name, column in columns.items()})
            if kept != block.kept:
                columns["_kept"] = _kept_column(kept, len(block))
        return columns, bad

    def _whole_column(
        self, block: Block, name: str, array: pa.Array, at: np.ndarray, kept: dict[int, dict[str, Any]]
    ) -> pa.Array:
        """``array`` at positions ``at``, elsewhere what the records came with.

        A value that came and cannot stand beside the new ones (text that was to become a number, in a record
        that failed) moves to ``kept``, so that its record still has it.
        """
        for position in set(at.tolist()) & kept.keys():
            kept[position].pop(name, None)
        if len(at) == len(block):
            return array
        base = block.column(name)
        if base is None:
            return scatter(array, at, pa.nulls(len(block), array.type))
        target = unify(array.type, base.type)
        if target is not None:
            try:
                return scatter(array.cast(target), at, base.cast(target))
            except pa.ArrowInvalid:
                pass  # an integer beyond a float's precision; value by value then
        return self._keep_aside(block, name, array, at, kept)

    def _keep_aside(
        self, block: Block, name: str, array: pa.Array, at: np.ndarray, kept: dict[int, dict[str, Any]]
    ) -> pa.Array:
        rest = np.setdiff1d(np.arange(len(block)), at)
        column = block.column(name)
        values = to_python(column.take(pa.array(rest))) if column is not None else []
        staying, problems = build_column(values, array.type)
        for index in problems:
            kept.setdefault(int(rest[index]), {})[name] = values[index]
        whole = scatter(staying, rest, pa.nulls(len(block), staying.type))
        return scatter(array.cast(staying.type), at, whole)

    def cut(
        self, block: Block, columns: dict[str, pa.Array], patches: Sequence[Patch], processed: np.ndarray
    ) -> frozenset[str]:
        """Remove columns as ``drop=`` and ``output="replace"`` say, for the records at ``processed`` only.

        A column that only some records lose stays, null for them. Returns the columns nobody has any more.
        """
        gone: set[str] = set()
        for name in self._losing(block, patches):
            if len(processed) == len(block):
                gone.add(name)
                columns.pop(name, None)
                continue
            present = columns.get(name)
            base = present if present is not None else block.column(name)
            if base is not None:
                columns[name] = scatter(pa.nulls(len(processed), base.type), processed, base)
        return frozenset(gone)

    def _losing(self, block: Block, patches: Sequence[Patch]) -> list[str]:
        names = [name for name in self._step.drop if name in block.owners]
        if self._step.output == "replace":
            returned = {key for patch in patches for key in patch}
            names += [name for name in block.payload_columns if name not in returned]
        return list(dict.fromkeys(names))


def _kept_column(kept: Mapping[int, Mapping[str, Any]], count: int) -> pa.Array:
    texts: list[str | None] = [None] * count
    for position, values in kept.items():
        if values:
            texts[position] = json.dumps(values, default=str)
    return pa.array(texts, pa.string())


def _problem(value: Any) -> str | None:
    """What is wrong with a returned value, if anything."""
    if not isinstance(value, Mapping):
        return f"{type(value).__name__} {value!r:.80}"
    for key in value:
        if not isinstance(key, str):
            return f"a key that is no string: {key!r:.80}"
        if key in RESERVED_COLUMNS or not key:
            return f"the key {key!r}, which is reserved"
    return None

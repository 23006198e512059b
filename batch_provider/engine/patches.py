"""Turning what functions returned into columns: patches over a block, nothing lost on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from batch_provider.domain.names import RESERVED_COLUMNS
from batch_provider.domain.spec import StepSpec
from batch_provider.engine.block import Block
from batch_provider.engine.invoke import RecordError
from batch_provider.engine.kept import kept_column, kept_values
from batch_provider.engine.rows import build_column, scatter, to_python, unify

Patch = Mapping[str, Any]


class PatchWriter:
    """Applies the patches of one step; remembers the types it gave its columns from block to block.

    Args:
        step: whose patches they are.
        types: of the columns that earlier attempts of this shard wrote.
    """

    def __init__(self, step: StepSpec, types: Mapping[str, pa.DataType]) -> None:
        self._step = step
        self._types = dict(types)
        self._good_shapes: set[tuple[str, ...]] = set()

    def check(self, returned: Sequence[Any], positions: np.ndarray) -> tuple[list[Patch], dict[int, RecordError]]:
        """The patches among what was returned (``{}`` for None), and an error for anything else."""
        if (quick := self._all_good(returned)) is not None:
            return quick, {}
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

    def _all_good(self, returned: Sequence[Any]) -> list[Patch] | None:
        """The patches, if nothing is wrong with any: each different tuple of keys is looked at once.

        Passes over the block run in C; looking at every key of every patch took 30 % of a step (docs/performance.md).
        """
        kinds = set(map(type, returned))
        if not kinds <= {dict, type(None)}:
            return None
        for shape in set(map(tuple, filter(None, returned))) - self._good_shapes:
            if _problem(dict.fromkeys(shape)) is not None:
                return None
            self._good_shapes.add(shape)
        return [value or {} for value in returned] if type(None) in kinds else list(returned)

    def columns(
        self, block: Block, patches: Sequence[Patch], positions: np.ndarray
    ) -> tuple[dict[str, pa.Array], dict[int, RecordError]]:
        """New and changed columns of the block, and the records whose values cannot stand in them.

        A record with one bad value fails whole: none of its patch is applied.
        """
        bad: dict[int, RecordError] = {}
        while True:
            kept, at = patches, positions
            if bad:
                good = [index for index, position in enumerate(positions.tolist()) if position not in bad]
                kept, at = [patches[index] for index in good], positions[good]
            columns, found = self._build(block, kept, at)
            if not found:
                return columns, bad
            bad.update(found)

    def _build(
        self, block: Block, patches: Sequence[Patch], positions: np.ndarray
    ) -> tuple[dict[str, pa.Array], dict[int, RecordError]]:
        columns: dict[str, pa.Array] = {}
        bad: dict[int, RecordError] = {}
        kept = {at: dict(values) for at, values in block.kept.items()}
        for name, values, at in _by_column(patches, positions):
            array, problems = build_column(values, self._types.get(name))
            for index, why in problems.items():
                bad.setdefault(int(at[index]), RecordError("FieldTypeError", f"field {name!r}: {why}"))
            if not bad:
                columns[name] = self._whole_column(block, name, array, at, kept)
        if not bad:
            self._types.update({name: column.type for name, column in columns.items()})
            if kept != block.stored_kept:
                columns["_kept"] = kept_column(kept, len(block))
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
        for position in block.kept.keys() - set(at.tolist()):
            if name in block.kept[position]:
                kept.setdefault(position, {})[name] = block.kept[position][name]
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
        self, block: Block, columns: dict[str, pa.Array], processed: np.ndarray, replaced: np.ndarray
    ) -> frozenset[str]:
        """Remove columns from the records that lose them.

        Those of ``drop=`` go for the records at ``processed``, those that nobody returned for the records at
        ``replaced``. A column that only some lose stays, null for them. Returns the columns nobody has any more.
        """
        losing = {name: replaced for name in block.payload_columns if name not in columns and len(replaced)}
        losing |= {name: processed for name in self._step.drop if name in block.owners or name in columns}
        gone: set[str] = set()
        for name, at in losing.items():
            if len(at) == len(block):
                gone.add(name)
                columns.pop(name, None)
                continue
            present = columns.get(name)
            base = present if present is not None else block.column(name)
            if base is not None:
                columns[name] = scatter(pa.nulls(len(at), base.type), at, base)
        if block.kept or "_kept" in columns:
            forget_kept(block, columns, losing)
        return frozenset(gone)


def _by_column(patches: Sequence[Patch], positions: np.ndarray) -> Iterator[tuple[str, Sequence[Any], np.ndarray]]:
    """Each key with its values and the positions of the records that have it."""
    shapes = set(map(tuple, patches))
    if len(shapes) == 1:  # every patch has the same keys in the same order: a transposition
        values: Any = dict.values if {*map(type, patches)} == {dict} else Mapping.values
        columns = zip(*map(values, patches), strict=True)
        yield from ((name, values, positions) for name, values in zip(shapes.pop(), columns, strict=True))
        return
    for name in dict.fromkeys(key for shape in sorted(shapes) for key in shape):
        has = [index for index, patch in enumerate(patches) if name in patch]
        yield name, [patches[index][name] for index in has], positions[has]


def whole_payloads(patches: Sequence[Patch]) -> list[Patch]:
    """Patches that replace the payload, each with every key that any of them has: the others' keys are null."""
    names = dict.fromkeys(key for patch in patches for key in patch)
    return [dict.fromkeys(names) | dict(patch) for patch in patches]


def forget_kept(block: Block, columns: dict[str, pa.Array], losing: Mapping[str, np.ndarray]) -> None:
    """Take what was kept of removed columns from the records that lost them."""
    present = columns.get("_kept")
    kept = {at: dict(values) for at, values in (block.kept if present is None else kept_values(present)).items()}
    for name, positions in losing.items():
        for position in positions.tolist():
            kept.get(position, {}).pop(name, None)
    columns["_kept"] = kept_column(kept, len(block))


def _problem(value: Any) -> str | None:
    """What is wrong with a returned value, if anything."""
    if not isinstance(value, Mapping):
        return f"{type(value).__name__} {value!r:.80}"
    for key in value:
        if not isinstance(key, str):
            return f"a key that is no string: {key!r:.80}"
        if key in RESERVED_COLUMNS or not key:
            return f"the key {key!r}, which is reserved"
        if not key.isascii() and key.encode("utf-8", "replace").decode() != key:
            return f"the key {key!r}, which is no valid text"
    return None

"""Turning what functions returned into columns: patches over a block, nothing lost on the way."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from batch_provider.domain.names import RESERVED_COLUMNS
from batch_provider.domain.spec import StepSpec
from batch_provider.engine.calls.invoke import RecordError
from batch_provider.engine.columns.block import Block
from batch_provider.engine.columns.depth import shown
from batch_provider.engine.columns.kept import Kept, kept_column, kept_values
from batch_provider.engine.columns.rows import Bad, build_column, scatter, spread, to_python, unify

Patch = Mapping[str, Any]


class PatchWriter:
    """Applies the patches of one step; remembers the types it gave its columns from block to block.

    Args:
        step: whose patches they are.
        types: of the columns that earlier attempts of this shard wrote; those of later blocks are added.
    """

    def __init__(self, step: StepSpec, types: Mapping[str, pa.DataType]) -> None:
        self._step = step
        self.types = dict(types)
        self._good_shapes: set[tuple[str, ...]] = set()

    def check(self, returned: Sequence[Any], positions: np.ndarray) -> tuple[list[Patch], dict[int, RecordError]]:
        """The patches among what was returned (``{}`` for None), and an error for anything else."""
        errors: dict[int, RecordError] = {}
        patches: list[Patch] = []
        replace = self._step.output == "replace"
        for index, value in enumerate(returned):
            if value is None:
                patches.append({})
                continue
            problem = _problem(value, self._step.writes)
            if problem is None:
                patches.append(value)
                continue
            patches.append({})
            wanted = "a dict, the whole payload" if replace else "a dict with the keys to change, or None"
            message = f"the step returned {problem}; it must return {wanted}"
            errors[int(positions[index])] = RecordError("InvalidPatchError", message)
        return patches, errors

    def on(self, block: Block) -> BlockPatches:
        """Begin with a block."""
        return BlockPatches(self, block)

    def types_of(self, columns: Mapping[str, pa.Array]) -> None:
        """Remember the types of these columns for what comes next."""
        self.types.update({name: column.type for name, column in columns.items()})

    def transposed(self, patches: Sequence[Any]) -> dict[str, list[Any]] | None:
        """The values of patches that all have the same keys, by key; None if they have not, or something is wrong.

        Every step's usual case: nothing looks at a key of a patch but the list comprehensions (docs/performance.md).
        """
        if set(map(type, patches)) != {dict}:
            return None
        names = tuple(patches[0])
        if names not in self._good_shapes:
            if _problem(dict.fromkeys(names), self._step.writes) is not None:
                return None
            self._good_shapes.add(names)
        if sum(map(len, patches)) != len(names) * len(patches):
            return None
        try:
            return {name: [patch[name] for patch in patches] for name in names}
        except KeyError:
            return None

    def build(
        self, columns: Iterable[tuple[str, Sequence[Any], np.ndarray]]
    ) -> tuple[dict[str, tuple[np.ndarray, pa.Array]], dict[int, RecordError]]:
        """Arrow columns of (name, values, positions), and the positions whose values cannot stand in them."""
        built: dict[str, tuple[np.ndarray, pa.Array]] = {}
        bad: dict[int, RecordError] = {}
        for name, values, at in columns:
            array, problems = build_column(values, self.types.get(name))
            for index, why in problems.items():
                bad.setdefault(int(at[index]), RecordError("FieldTypeError", f"field {name!r}: {why}"))
            built[name] = (at, array)
        return built, bad

    def whole(
        self, block: Block, pieces: Mapping[str, tuple[np.ndarray, pa.Array]], kept: dict[int, dict[str, Any]]
    ) -> dict[str, pa.Array]:
        """Columns with a value for every record of the block; ``kept`` takes the values that lose their place."""
        return {name: self._whole_column(block, name, array, at, kept) for name, (at, array) in pieces.items()}

    def _whole_column(
        self, block: Block, name: str, array: pa.Array, at: np.ndarray, kept: dict[int, dict[str, Any]]
    ) -> pa.Array:
        """``array`` at positions ``at``, elsewhere what the records came with.

        A value that came and cannot stand beside the new ones (text that was to become a number, in a record
        that failed) moves to ``kept``, so that its record still has it.
        """
        for position in kept.keys() & set(at.tolist()) if kept else ():
            kept[position].pop(name, None)
        if len(at) == len(block):
            return array
        base = block.column(name)
        if base is None:
            return spread(array, at, len(block))
        for position in block.kept.keys() - set(at.tolist()) if block.kept else ():
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
            base = columns[name] if name in columns else block.column(name)
            assert base is not None, "it is in losing because the records have it, or the step has made it"
            columns[name] = scatter(pa.nulls(len(at), base.type), at, base)
        if block.kept or "_kept" in columns:
            forget_kept(block, columns, losing)
        return frozenset(gone)


class BlockPatches:
    """The patches of one block, taken run by run: what has become Arrow needs no Python objects any more.

    Attributes:
        errors: the records that returned no patch, or one that cannot stand. Such a record fails whole: none of its
            patch is applied.
    """

    def __init__(self, writer: PatchWriter, block: Block) -> None:
        self._writer, self._block = writer, block
        self._pieces: dict[str, list[tuple[np.ndarray, pa.Array]]] = {}
        self.errors: dict[int, RecordError] = {}

    def take(self, returned: Sequence[Any], positions: np.ndarray) -> None:
        """Add what the function returned for the records at ``positions``: patches, None, or what is no patch."""
        if type(None) in set(map(type, returned)):
            positions = positions[np.array([value is not None for value in returned])]
            returned = [value for value in returned if value is not None]
        if not returned:
            return
        if (columns := self._writer.transposed(returned)) is not None and self._built(
            (name, values, positions) for name, values in columns.items()
        ):
            return
        patches, errors = self._writer.check(returned, positions)
        self.errors.update(errors)
        self.add(patches, positions)

    def add(self, patches: Sequence[Patch], positions: np.ndarray) -> None:
        """Add checked patches."""
        while True:
            good = [index for index, position in enumerate(positions.tolist()) if position not in self.errors]
            kept, at = patches, positions
            if len(good) < len(positions):
                kept, at = [patches[index] for index in good], positions[good]
            if self._built(by_column(kept, at), self.errors):
                return

    def fill(self, positions: np.ndarray) -> None:
        """Let the records at ``positions`` have every key that any record has: null, where they returned it not."""
        positions = np.array([position for position in positions.tolist() if position not in self.errors], np.int64)
        for pieces in self._pieces.values() if len(positions) else ():
            absent = np.setdiff1d(positions, np.concatenate([at for at, _ in pieces]))
            pieces.append((absent, pa.nulls(len(absent), pieces[-1][1].type)))

    def _built(
        self, columns: Iterable[tuple[str, Sequence[Any], np.ndarray]], errors: dict[int, RecordError] | None = None
    ) -> bool:
        """Make the columns of a run; False, and nothing is kept of it, if a value cannot stand in one."""
        built, bad = self._writer.build(columns)
        if errors is not None:
            errors.update(bad)
        if bad:
            return False
        for name, piece in built.items():
            self._pieces.setdefault(name, []).append(piece)
        self._writer.types_of({name: array for name, (_, array) in built.items()})
        return True

    def columns(self) -> dict[str, pa.Array]:
        """New and changed columns, with a value for every record of the block; its records may still fail by it."""
        while True:
            joined = {name: joined_pieces(pieces) for name, pieces in self._pieces.items()}
            bad = {
                int(at[index]): RecordError("FieldTypeError", f"field {name!r}: {why}")
                for name, (at, _, problems) in joined.items()
                for index, why in problems.items()
            }
            if not bad:
                break
            self.errors.update(bad)
            self._pieces = {name: [_without(at, array, bad)] for name, (at, array, _) in joined.items()}
        kept = {at: dict(values) for at, values in self._block.kept.items()}
        columns = self._writer.whole(self._block, {name: (at, array) for name, (at, array, _) in joined.items()}, kept)
        # what the records came with beside them is no choice of the step's
        self._writer.types_of({name: array for name, (_, array, _) in joined.items()})
        if kept != self._block.stored_kept:
            columns["_kept"] = kept_column(kept, len(self._block))
        return columns


def joined_pieces(pieces: Sequence[tuple[np.ndarray, pa.Array]]) -> tuple[np.ndarray, pa.Array, Bad]:
    """Runs of one column as one, in the order of positions; a later run may have widened the type."""
    if len(pieces) == 1:
        return (*pieces[0], {})
    at = np.concatenate([positions for positions, _ in pieces])
    order = np.argsort(at, kind="stable")  # records that a later run has given a null come last
    arrays = [array for _, array in pieces]
    target = arrays[-1].type
    try:
        whole = pa.concat_arrays([array if array.type == target else array.cast(target) for array in arrays])
        return at[order], whole.take(pa.array(order)), {}
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # an integer beyond a float's precision, for example
        values = [value for array in arrays for value in to_python(array)]
        return at[order], *build_column([values[index] for index in order.tolist()])


def _without(at: np.ndarray, array: pa.Array, bad: Container[int]) -> tuple[np.ndarray, pa.Array]:
    fine = np.array([position not in bad for position in at.tolist()], dtype=bool)
    return at[fine], array.filter(pa.array(fine))


def by_column(patches: Sequence[Patch], positions: np.ndarray) -> Iterator[tuple[str, Sequence[Any], np.ndarray]]:
    """Each key with its values and the positions of the records that have it."""
    shapes = set(map(tuple, patches))
    for name in dict.fromkeys(key for shape in sorted(shapes) for key in shape):
        has = [index for index, patch in enumerate(patches) if name in patch]
        yield name, [patches[index][name] for index in has], positions[has]


def whole_payloads(patches: Sequence[Patch]) -> list[Patch]:
    """Patches of a run that replace the payload, each with every key that any has: the others' keys are null."""
    names = dict.fromkeys(key for patch in patches for key in patch)
    return [dict.fromkeys(names) | dict(patch) for patch in patches]


def forget_kept(
    block: Block, columns: dict[str, pa.Array], losing: Mapping[str, np.ndarray], aside: Kept | None = None
) -> None:
    """Take what was kept of removed columns from the records that lost them; ``aside`` is kept from now on."""
    present = columns.get("_kept")
    kept = {at: dict(values) for at, values in (block.kept if present is None else kept_values(present)).items()}
    for name, positions in losing.items():
        for position in positions.tolist():
            kept.get(position, {}).pop(name, None)
    for position, values in (aside or {}).items():
        kept.setdefault(position, {}).update(values)
    columns["_kept"] = kept_column(kept, len(block))


def _problem(value: Any, writes: Container[str] | None) -> str | None:
    """What is wrong with a returned value, if anything."""
    if not isinstance(value, Mapping):
        return f"{type(value).__name__} {shown(value)}"
    return next(filter(None, (_problem_of_key(key, writes) for key in value)), None)


def _problem_of_key(key: Any, writes: Container[str] | None) -> str | None:
    if not isinstance(key, str):
        return f"a key that is no string: {shown(key)}"
    if not key:
        return "a key without a name: ''"
    if key in RESERVED_COLUMNS:
        return f"the key {key!r}, which is reserved"
    if not key.isascii() and key.encode("utf-8", "replace").decode() != key:
        return f"the key {key!r}, which is no valid text"
    if writes is not None and key not in writes:
        return f"the key {key!r}, which its writes= does not name"
    return None

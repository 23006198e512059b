"""The patches that calls for groups return: taken as they are, or tried before a transaction is committed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from batch_provider.engine.calls.invoke import RecordError
from batch_provider.engine.columns.block import Block
from batch_provider.engine.columns.patches import BlockPatches, PatchWriter, by_column, joined_pieces

Piece = tuple[np.ndarray, pa.Array]


@dataclass
class Tried:
    """What a call returned for records of one block, as columns.

    Attributes:
        added: column → its new piece.
        replaced: column → one piece in the place of all: the new values have widened its type.
        errors: position → why what was returned for it cannot stand; the columns count for nothing then.
    """

    added: dict[str, Piece]
    replaced: dict[str, Piece]
    errors: dict[int, RecordError]


class GroupPatches(BlockPatches):
    """The patches of the groups of one block, whose rows need not be in memory before they are made columns."""

    def __init__(self, writer: PatchWriter) -> None:
        self._writer = writer
        self._pieces: dict[str, list[Piece]] = {}
        self.errors: dict[int, RecordError] = {}

    def tried(self, returned: Sequence[Any], positions: np.ndarray) -> Tried:
        """Make columns of what was returned, beside what is there; nothing changes before :meth:`keep`.

        What is kept cannot fail any more, so its transaction may be committed between the two.
        """
        patches, errors = self._writer.check(returned, positions)
        if errors:
            return Tried({}, {}, errors)
        built, errors = self._writer.build(by_column(patches, positions))
        tried = Tried({}, {}, errors)
        for name, piece in built.items():
            self._try_beside(tried, name, piece)
        self._writer.types_of({name: array for name, (_, array) in (tried.added | tried.replaced).items()})
        return tried

    def _try_beside(self, tried: Tried, name: str, piece: Piece) -> None:
        """Add a piece of a column, if all that earlier groups returned can still stand in the column."""
        earlier = self._pieces.get(name)
        if earlier is None or earlier[-1][1].type == piece[1].type:
            tried.added[name] = piece
            return
        at, array, problems = joined_pieces([*earlier, piece])
        tried.replaced[name] = (at, array)
        if problems:
            kinds = f"{piece[1].type} cannot stand beside {earlier[-1][1].type}, which records of earlier groups have"
            error = RecordError("FieldTypeError", f"field {name!r}: {kinds}")
            tried.errors.update(dict.fromkeys(piece[0].tolist(), error))

    def keep(self, tried: Tried) -> None:
        """Let what was tried count."""
        for name, piece in tried.added.items():
            self._pieces.setdefault(name, []).append(piece)
        self._pieces.update({name: [piece] for name, piece in tried.replaced.items()})

    def over(self, block: Block) -> dict[str, pa.Array]:
        """New and changed columns of the block; see :meth:`BlockPatches.columns`."""
        self._block = block
        return self.columns()

"""The input where it is (``copy=False``): read as if it had been copied, a part at a time."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cached_property

import numpy as np
import pyarrow as pa

from batch_provider.domain.instance import Manifest
from batch_provider.domain.names import INPUT_PHASE
from batch_provider.domain.references import InputPart
from batch_provider.domain.tally import Tally
from batch_provider.engine.columns.rows import ERROR_TYPE, picked
from batch_provider.engine.load.input_rows import input_rows, malformed_rows
from batch_provider.sources.referring import ReferencedFile
from batch_provider.storage.reading.chain import Layer
from batch_provider.storage.reading.checkpoint_file import Footer

_ID = pa.field("_id", pa.int64())
_FAILED = pa.schema(
    [("_error", ERROR_TYPE), ("_line", pa.int64()), ("_raw", pa.string()), _ID, ("_status", pa.uint8())]
)


def open_references(manifest: Manifest) -> list[ReferencedFile]:
    """The files of an input that was not copied."""
    is_named = len(manifest.references) > 1
    return [ReferencedFile(reference, is_named=is_named) for reference in manifest.references]


class ReferenceLayer(Layer[InputPart]):
    """The parts of an input that was not copied."""

    is_for_threads = False  # a file's columns are decoded as they come, by one reader

    def __init__(self, manifest: Manifest) -> None:
        files = open_references(manifest)
        super().__init__(INPUT_PHASE, [part for file in files for part in file.reference.parts])
        self._files_with_records = [file for file in files if file.reference.parts]
        self._lasts_of_files = [file.reference.parts[-1].span.last for file in self._files_with_records]
        self._claim = str(manifest.load)
        self._at = datetime.fromisoformat(manifest.created_at) - timedelta(seconds=manifest.seconds)

    def file_of(self, part: InputPart) -> ReferencedFile:
        """The file that a part is of."""
        return self._files_with_records[bisect_left(self._lasts_of_files, part.span.last)]

    def _opened(self, part: InputPart) -> OpenPart:
        return OpenPart(self.file_of(part), part, self._claim, self._at)


class OpenPart:
    """A part of a file, decoded as columns are asked for (an OpenFile).

    Args:
        file: that it is of.
        part: which.
        claim, at: of the load: what stands in the errors of malformed records.
    """

    def __init__(self, file: ReferencedFile, part: InputPart, claim: str, at: datetime) -> None:
        self._file, self._part = file, part
        self._claim, self._at = claim, at
        self._decoded: dict[str, pa.ChunkedArray] = {}

    @cached_property
    def schema(self) -> pa.Schema:
        """Names and types."""
        return pa.schema([*self._file.schema(self._part), *(_FAILED if self._part.failed else [_ID])])

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all of them."""
        return tuple(self.schema.names)

    @cached_property
    def footer(self) -> Footer:
        """What the footer of a copied file would say."""
        failed = self._part.failed
        tally = Tally(succeeded=len(self._part.span) - failed, failed=failed, newly_failed=failed)
        return Footer(INPUT_PHASE, dict.fromkeys(self._payload, INPUT_PHASE), tally)

    @cached_property
    def _payload(self) -> list[str]:
        own = {_ID.name} if not self._part.failed else set(_FAILED.names)
        return [name for name in self.columns if name not in own]

    def read(self, columns: Sequence[str]) -> pa.Table:
        """These columns, those it has."""
        wanted = [name for name in columns if name in self.columns]
        missing = [name for name in wanted if name not in self._decoded]
        if missing == [_ID.name]:
            self._decoded[_ID.name] = pa.chunked_array([self._ids()])
        elif missing:
            self._decode(missing)
        return pa.table({name: self._decoded[name] for name in wanted})

    def pick(self, columns: Sequence[str], at: np.ndarray) -> pa.Table:
        """Some rows of these columns."""
        return picked(self.read(columns), at)

    def _ids(self) -> pa.Array:
        return pa.array(np.arange(self._part.span.first, self._part.span.last + 1, dtype=np.int64))

    def _decode(self, missing: Sequence[str]) -> None:
        """Read columns; all of them, where a value in any of them has made a record malformed."""
        whole = self._part.failed > 0 or not self._file.is_columnar
        pieces = self._file.read(self._part, None if whole else [name for name in missing if name != _ID.name])
        tables = [
            pa.Table.from_batches([piece])
            if isinstance(piece, pa.RecordBatch)
            else malformed_rows(piece, self._claim, self._at)
            for piece in pieces
        ]
        payload = [self.schema.field(name) for name in (self._payload if whole else missing) if name != _ID.name]
        table = input_rows(tables, {field.name: field.type for field in payload}, self._part.span)
        self._decoded |= dict(zip(table.column_names, table.columns, strict=True))

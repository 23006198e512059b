"""The Parquet file of a checkpoint: rows, footer and digest.

Columns of the provider's own: ``_id``, ``_status`` (own outcome, and the failed-before bit), ``_out`` (epoch in
which the step last processed the row), ``_in`` (the upstream ``_out`` it consumed), ``_error``, ``_vars``, and of
fused steps ``_outcomes`` (what each of them did, two bits a step); then the payload columns that are new or changed.
Data and status share the file, so both are there or neither.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from batch_provider.domain.errors import CorruptCheckpointError, LayoutVersionError, UnstorableColumnsError
from batch_provider.domain.instance import LAYOUT_VERSION
from batch_provider.domain.layout import FileRef
from batch_provider.domain.tally import Tally
from batch_provider.engine.columns.rows import picked
from batch_provider.storage.blobs.protocol import Blobs

STATUS_COLUMNS = ("_id", "_status", "_out", "_in")

_FOOTER = b"batch_provider"
_PARSED_BYTES = 50_000
"""What pyarrow holds of a file that is open beside its bytes (measured: a file of 15 columns)."""
_RUNS = ["_status", "_outcomes", "_in", "_out"]  # few distinct values: dictionary pages hold them in next to nothing


@dataclass(frozen=True)
class Footer:
    """What a checkpoint says of itself.

    Attributes:
        owners: every payload column that exists after this step → the step whose files hold it.
        tally: outcomes of the rows in this file.
        fused_types: fused step → the columns it wrote, with the types it gave them.
    """

    step: str
    owners: Mapping[str, str]
    tally: Tally
    fused_types: Mapping[str, pa.Schema] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """As it stands in the Parquet key-value metadata."""
        return json.dumps(
            {
                "version": LAYOUT_VERSION,
                "step": self.step,
                "owners": dict(self.owners),
                "tally": self.tally.to_json(),
                "fused_types": {
                    step: b64encode(schema.serialize().to_pybytes()).decode()
                    for step, schema in self.fused_types.items()
                },
            }
        ).encode()


def encode(table: pa.Table, footer: Footer) -> tuple[pa.Buffer, str]:
    """The file's bytes and their digest.

    Raises:
        UnstorableColumnsError: Parquet writes them, and would not open them.
    """
    sink = pa.BufferOutputStream()
    marked = table.replace_schema_metadata({_FOOTER: footer.to_bytes()})
    present = [name for name in _RUNS if name in table.column_names]
    pq.write_table(
        marked,
        sink,
        compression="zstd",
        compression_level=1,
        use_dictionary=present or False,
        column_encoding={"_id": "DELTA_BINARY_PACKED"},
        write_statistics=False,
        write_page_checksum=True,
        store_schema=True,
    )
    buffer = sink.getvalue()
    _see_that_it_opens(buffer, table, footer.step)
    return buffer, digest_of(buffer)


def _see_that_it_opens(buffer: pa.Buffer, table: pa.Table, step: str) -> None:
    """Read the schema and the footer before anything is committed: Parquet writes what it will not open.

    Raises:
        UnstorableColumnsError: it does not.
    """
    try:
        pq.ParquetFile(pa.BufferReader(buffer))
    except (pa.ArrowException, OSError) as error:
        columns = [name for name in table.column_names if not _can_stand_alone(table.select([name]).slice(0, 0))]
        raise UnstorableColumnsError(step, columns, str(error).partition("\n")[0].rstrip(".")) from None


def _can_stand_alone(column: pa.Table) -> bool:
    sink = pa.BufferOutputStream()
    pq.write_table(column, sink)
    try:
        pq.ParquetFile(pa.BufferReader(sink.getvalue()))
    except (pa.ArrowException, OSError):
        return False
    return True


def digest_of(data: pa.Buffer | bytes) -> str:
    """The digest that stands in the file's name: XXH3, 128 bits (ADR 0011)."""
    return xxhash.xxh3_128_hexdigest(data)


class CheckpointFile:
    """A verified checkpoint, decoded as columns are asked for."""

    def __init__(self, name: str, data: pa.Buffer) -> None:
        self._file = pq.ParquetFile(pa.BufferReader(data))
        self.nbytes = len(data) + _PARSED_BYTES
        self.columns: tuple[str, ...] = tuple(self._file.schema_arrow.names)
        self.footer = _read_footer(name, self._file.schema_arrow.metadata or {})
        self._decoded: dict[str, pa.ChunkedArray] = {}

    @property
    def schema(self) -> pa.Schema:
        """Names and types of all its columns."""
        return self._file.schema_arrow

    def read(self, columns: Sequence[str]) -> pa.Table:
        """These columns, those it has, all rows; kept for the next block that lies in the same file."""
        wanted = [name for name in columns if name in self.columns]
        missing = [name for name in dict.fromkeys(wanted) if name not in self._decoded]
        if missing:
            # threads: for nothing where every core has a task of its own (measured), faster where they have not
            table = self._file.read(columns=missing, use_threads=len(missing) > 2)
            self._decoded.update(zip(table.column_names, table.columns, strict=True))
        return pa.table({name: self._decoded[name] for name in wanted})

    def forget(self) -> None:
        """Let go what was decoded; the bytes stay."""
        self._decoded.clear()

    def pick(self, columns: Sequence[str], at: np.ndarray) -> pa.Table:
        """Some rows of these columns; of the others nothing is kept, and of two columns never both."""
        found = {name: picked(self._one(name), at)[name] for name in columns if name in self.columns}
        return pa.table(found)

    def _one(self, name: str) -> pa.Table:
        if name in self._decoded:
            return pa.table({name: self._decoded[name]})
        return self._file.read(columns=[name], use_threads=False)


def open_checkpoint(blobs: Blobs, name: str, file: FileRef, *, is_input: bool = False) -> CheckpointFile:
    """Read a file and verify its digest before anything is decoded.

    Args:
        blobs: where it is.
        name: its full name.
        file: its digest.
        is_input: no step can make it again; for the message.

    Raises:
        CorruptCheckpointError: the bytes are not those that were written, or it is not there.
    """
    try:
        data = blobs.get(name)
    except FileNotFoundError:
        raise CorruptCheckpointError(blobs.address(name), "it is not there", is_input=is_input) from None
    found = digest_of(data)
    if found != file.digest:
        reason = f"its digest is {found}, it was written as {file.digest}"
        raise CorruptCheckpointError(blobs.address(name), reason, is_input=is_input)
    return CheckpointFile(name, data)


def _read_footer(name: str, metadata: Mapping[bytes, bytes]) -> Footer:
    raw: dict[str, Any] = json.loads(metadata.get(_FOOTER, b"{}"))
    if raw.get("version") != LAYOUT_VERSION:
        raise LayoutVersionError(name, raw.get("version"), LAYOUT_VERSION)
    types = {
        step: pa.ipc.read_schema(pa.py_buffer(b64decode(text))) for step, text in raw.get("fused_types", {}).items()
    }
    return Footer(raw["step"], raw["owners"], Tally.from_json(raw["tally"]), types)

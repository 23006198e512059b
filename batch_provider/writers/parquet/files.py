"""Parquet files as a target: a part for each block, and a manifest that says which parts count (DESIGN section 5).

A part is written before the checkpoint of its block and names the claim that wrote it, so a part counts if, and only
if, its block's checkpoint does. On-complete knows which those are: it writes the manifest, then deletes the parts that
are not in it. Whoever reads by the manifest sees every record's row exactly once, whatever was killed in between.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from batch_provider.domain.errors import DataLossError, InvalidOptionError
from batch_provider.domain.instance import Claim
from batch_provider.domain.layout import ClaimId, Span
from batch_provider.domain.options import check_choice, check_columns, set_frozen
from batch_provider.engine.calls.invoke import RecordError
from batch_provider.engine.ports.store import SourceAccess
from batch_provider.engine.ports.writing import Rows, Written
from batch_provider.sources.access import LocalAccess
from batch_provider.sources.options import redact
from batch_provider.storage.blobs.protocol import get_json, put_json
from batch_provider.storage.paths import generation_number
from batch_provider.writers.parquet.choice import choose
from batch_provider.writers.parquet.folder import Folder, open_folder

COMPRESSIONS = ("zstd", "snappy", "gzip", "lz4", "none")
MANIFEST_VERSION = 1
SAMPLE_ROWS = 1_024

_MANIFESTS = "_manifest"
_FOOTER = b"batch_provider.part"
_PART = re.compile(r"part-(\d+)-(\d{6}-[0-9a-f]{8})-[0-9a-f]{32}\.parquet")
_MANIFEST = re.compile(r"(.+)\.(\d{6})\.(\d{6}-[0-9a-f]{8})\.json")


@dataclass(frozen=True)
class ParquetFiles:
    """Writes records to Parquet files, each exactly once for whoever reads by the manifest.

    Args:
        url: the directory: a path, ``file://…``, or a URL that fsspec or an Airflow connection knows. Several jobs
            may share it, two steps of a job may not.
        columns: payload columns to write; None: all.
        compression: ``zstd``, ``snappy``, ``gzip``, ``lz4`` or ``none``.

    Raises:
        InvalidOptionError: an option that cannot be.
    """

    url: str | PathLike[str]
    columns: Sequence[str] | None = None
    compression: str = "zstd"

    def __post_init__(self) -> None:
        """Refuse what could not write."""
        if isinstance(self.url, PathLike):
            set_frozen(self, "url", fspath(self.url))
        url: object = self.url
        if not (isinstance(url, str) and url.strip()) or "*" in url:
            raise InvalidOptionError("url", url, "the path or URL of a directory")
        set_frozen(self, "columns", check_columns("columns", self.columns))
        check_choice("compression", self.compression, COMPRESSIONS)

    @property
    def place(self) -> str:
        """What no other step of the job may write to."""
        return str(self.url).rstrip("/")

    def describe(self) -> str:
        """For messages."""
        return f"Parquet files in {redact(str(self.url))}"

    def open(self, access: SourceAccess, instance: str, generation: str, claim: Claim) -> PartSession:
        """Begin to write parts.

        Raises:
            StorageError: there is no file system for the URL.
        """
        return PartSession(self, open_folder(access, str(self.url)), instance, generation, claim)

    # --- on-complete ------------------------------------------------------------------------------------------

    def publish(self, access: SourceAccess, written: Written) -> None:
        """Write the manifest of an instance, then delete its parts that are not in it.

        Raises:
            DataLossError: a block's part is not there, or has another number of rows.
            StorageError: the directory cannot be read or written.
        """
        folder = open_folder(access, str(self.url))
        files = _listed(folder, written)
        number = generation_number(written.generation) or 0
        document = {
            "version": MANIFEST_VERSION,
            "instance": written.instance,
            "generation": written.generation,
            "step": written.step,
            "dag_id": written.dag_id,
            "job": written.job,
            "ticket": str(written.ticket),
            "state": str(written.state),
            "at": written.at,
            "rows": sum(file["rows"] for file in files),
            "files": files,
        }
        put_json(folder, f"{_MANIFESTS}/{written.instance}.{number:06d}.{written.claim}.json", document)
        folder.sync()
        _delete_unlisted(folder, written, {file["path"] for file in files})

    # --- for readers ------------------------------------------------------------------------------------------

    def manifests(self, access: SourceAccess | None = None) -> list[dict[str, Any]]:
        """The latest manifest of every instance that was completed, in order of instance ids.

        Args:
            access: how the URL is reached; None: by fsspec alone.
        """
        folder = open_folder(access or LocalAccess(), str(self.url))
        latest = {_instance_of(name): name for name in _manifest_names(folder)}
        return [get_json(folder, f"{_MANIFESTS}/{latest[instance]}") for instance in sorted(latest)]

    def read_manifest(
        self, instance: str | None = None, access: SourceAccess | None = None, *, which: str | None = None
    ) -> list[str]:
        """The files that hold every record of an instance exactly once, as paths or URLs.

        Args:
            instance: whose; may be left out if the directory has one only.
            access: how the URL is reached; None: by fsspec alone.
            which: instead of ``instance``: ``latest``, the one that was loaded last, by the tickets of its job; or
                ``all`` that were ever completed.

        Raises:
            InvalidOptionError: there are several, and nobody said which.
        """
        folder = open_folder(access or LocalAccess(), str(self.url))
        chosen = choose(self.manifests(access), instance, which)
        return [folder.address(file["path"]) for manifest in chosen for file in manifest["files"]]


class PartSession:
    """One attempt's parts (a BlockSession)."""

    def __init__(self, target: ParquetFiles, folder: Folder, instance: str, generation: str, claim: Claim) -> None:
        self._target, self._folder, self._claim = target, folder, claim
        self._directory = f"{instance}/{generation}"

    def close(self) -> None:
        """Nothing is held open."""

    def write(self, span: Span, rows: Rows) -> Mapping[int, RecordError]:
        """Write the part of a block; durable when this returns. A row with a value of another type is refused."""
        table = rows.table
        if (columns := self._target.columns) is not None:
            nulls = pa.nulls(table.num_rows)
            table = pa.table({n: table[n] if n in table.column_names else nulls for n in columns})
        if table.num_columns == 0:
            return dict.fromkeys(range(len(rows.ids)), _NO_COLUMNS)
        errors = {row: error for row in rows.kept if (error := _misfit(rows.kept[row], table)) is not None}
        if errors:
            stay = [row for row in range(table.num_rows) if row not in errors]
            table = table.take(pa.array(stay, pa.int64()))
        if table.num_rows:
            self._put(table, span)
        return errors

    def _put(self, table: pa.Table, span: Span) -> None:
        facts = {"claim": str(self._claim.id), "first": span.first, "last": span.last, "step": self._claim.step}
        sink = pa.BufferOutputStream()
        pq.write_table(
            table.replace_schema_metadata({_FOOTER: json.dumps(facts).encode()}),
            sink,
            compression=self._target.compression,
            use_dictionary=repeating(table) or False,
            write_page_checksum=True,
        )
        data = sink.getvalue()
        name = f"part-{self._claim.shard}-{self._claim.id}-{xxhash.xxh3_128_hexdigest(data)}.parquet"
        self._folder.put(f"{self._directory}/{name}", data, durable=True)
        self._folder.sync()


_NO_COLUMNS = RecordError(
    "NoColumnsError",
    "the record has no column, and a Parquet file holds no row without one; keep a column, or leave such records out "
    "with an accept_expression",
)


def repeating(table: pa.Table) -> list[str]:
    """The columns that are worth a dictionary: at most every second value of the first thousands is a new one.

    For the others a dictionary doubles the time of writing and makes the file larger (measured: 15 columns of 100,000
    rows take 135 ms and 11.3 MB with dictionaries for all, 89 ms and 10.0 MB with these).
    """
    sample = table.slice(0, SAMPLE_ROWS)
    flat = [field.name for field in table.schema if not pa.types.is_nested(field.type)]
    return [name for name in flat if 2 * len(sample[name].unique()) <= sample.num_rows]


def _misfit(values: Mapping[str, Any], table: pa.Table) -> RecordError | None:
    for name, value in values.items():
        if name in table.column_names:
            kind = table.schema.field(name).type
            return RecordError("FieldTypeError", f"field {name!r}: {value!r:.80} cannot stand in a column of {kind}")
    return None


# --- parts and manifests of a directory --------------------------------------------------------------------------


def _listed(folder: Folder, written: Written) -> list[dict[str, Any]]:
    """The part of every block that has rows."""
    directory = f"{written.instance}/{written.generation}"
    wanted = {(block.shard, str(block.claim)) for block in written.blocks}
    parts: dict[tuple[str, str, int], dict[str, Any]] = {}
    for name in folder.files(directory):
        match = _PART.fullmatch(name)
        if match is None or (match[1], match[2]) not in wanted:
            continue
        path = f"{directory}/{name}"
        try:
            footer, size = folder.footer(path)
        except (pa.ArrowInvalid, FileNotFoundError):
            continue  # damaged or gone: whether it was needed is seen below
        first = json.loads((footer.metadata or {}).get(_FOOTER, b"{}")).get("first")
        facts = {"path": path, "rows": footer.num_rows, "bytes": size}
        parts[match[1], match[2], first] = facts
    files = []
    for block in written.blocks:
        part = parts.get((block.shard, str(block.claim), block.span.first))
        if (part["rows"] if part else 0) != block.rows:
            had = f"has {part['rows']:,}" if part else "is not there"
            reason = (
                f"step {written.step!r} wrote {block.rows:,} rows for the records {block.span.first:,} to "
                f"{block.span.last:,}, and the part for them {had}, in {folder.address(directory)}; if somebody "
                "deleted or changed it, clear the load task instead, so that everything is written again"
            )
            raise DataLossError(written.instance, reason)
        if part:
            files.append({**part, "first": block.span.first, "last": block.span.last})
    return files


def _delete_unlisted(folder: Folder, written: Written, listed: set[str]) -> None:
    """Remove what no reader of the manifest sees; what a later attempt or generation writes is left alone."""
    number = generation_number(written.generation) or 0
    for name in _manifest_names(folder):
        if _instance_of(name) == written.instance and _order(name) < (number, written.claim):
            folder.delete(f"{_MANIFESTS}/{name}")
    for generation in folder.directories(written.instance):
        if (generation_number(generation) or number) < number:
            folder.delete(f"{written.instance}/{generation}")
    directory = f"{written.instance}/{written.generation}"
    for name in folder.files(directory):
        match = _PART.fullmatch(name)
        if match is None or f"{directory}/{name}" in listed:
            continue
        sealed = written.sealed.get(match[1])
        if sealed is not None and ClaimId.parse(match[2]) <= sealed:
            folder.delete(f"{directory}/{name}")


def _manifest_names(folder: Folder) -> list[str]:
    """Manifests, for each instance the latest last."""
    return sorted((name for name in folder.files(_MANIFESTS) if _MANIFEST.fullmatch(name)), key=_order)


def _order(name: str) -> tuple[int, ClaimId]:
    match = _MANIFEST.fullmatch(name)
    assert match is not None
    return int(match[2]), ClaimId.parse(match[3])


def _instance_of(name: str) -> str:
    match = _MANIFEST.fullmatch(name)
    assert match is not None
    return match[1]

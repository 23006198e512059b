"""Files that stay where they are: counted once at the load, and read again from there by every step."""

from __future__ import annotations

import base64
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from batch_provider.domain.errors import SourceError
from batch_provider.domain.layout import Span
from batch_provider.domain.references import InputPart, InputReference
from batch_provider.engine.ports.store import Counted, SourceAccess
from batch_provider.sources.csv.parse import IrregularError
from batch_provider.sources.csv.reader import csv_stretches, read_csv_again
from batch_provider.sources.intake import Intake, Piece, place_batch
from batch_provider.sources.locate import FoundFile, Stretch, find_files, is_utf8, name_file, reading
from batch_provider.sources.options import redact
from batch_provider.sources.parquet_reader import ColumnReader, open_parquet, parquet_stretches, plain_schema
from batch_provider.sources.read_options import ReadOptions

_FORMATS = ("csv", "tsv", "parquet")


def refer(urls: Any, options: ReadOptions, access: SourceAccess) -> Iterator[Counted | InputReference]:
    """Count the records of every file, and note what they are read again by.

    Raises:
        SourceError: a file cannot be read, or cannot be referred to.
    """
    intake = options.intake()
    first = 0
    for found in find_files(urls, access):
        counting = _Counting(options, found, intake, first)
        yield from counting.parts_counted()
        first = counting.next_id
        yield counting.reference()


class _Counting:
    """One file, counted part by part."""

    def __init__(self, options: ReadOptions, found: FoundFile, intake: Intake, first: int) -> None:
        self._options, self._found, self._intake = options, found, intake
        self._format = options.format_of(found.path)
        _check_referable(options, found, self._format)
        self._path = os.path.abspath(found.path)  # noqa: PTH100  # resolve() would follow links that may be moved
        with reading(found.name):
            self._size, self._mtime = _facts(self._path)
        self._parts: list[InputPart] = []
        self._types: list[pa.Schema] = []
        self.next_id = first

    def parts_counted(self) -> Iterator[Counted]:
        """Go through the file."""
        self._intake.begin(self._found.name)
        with reading(self._found.name):
            for stretch, pieces in self._stretches():
                yield self._count(stretch, pieces)

    def _stretches(self) -> Iterator[tuple[Stretch, list[Piece] | None]]:
        if self._format == "parquet":
            return parquet_stretches(self._path, self._intake)
        return ((stretch, pieces) for stretch, pieces in csv_stretches(self._found, self._options, self._intake))

    def _count(self, stretch: Stretch, pieces: list[Piece] | None) -> Counted:
        types = self._intake.snapshot()
        if not self._types or not self._types[-1].equals(types):
            self._types.append(types)
        good, errors = (stretch.end - stretch.start, Counter[str]()) if pieces is None else _counts(pieces)
        records = good + errors.total()
        if records:
            span = Span(self.next_id, self.next_id + records - 1)
            line, careful = stretch.line, stretch.careful
            number = len(self._types) - 1
            part = InputPart(span, stretch.start, stretch.end, line, number, errors.total(), careful)
            self._parts.append(part)
            self.next_id += records
        shown = self._intake.shown(types)
        return Counted(records, {field.name: field.type for field in shown}, errors)

    def reference(self) -> InputReference:
        """What is written down about it.

        Raises:
            SourceError: it changed while it was read.
        """
        with reading(self._found.name):
            if _facts(self._path) != (self._size, self._mtime):
                raise SourceError(self._found.name, "it changed while it was read. Load it when it is complete.")
        return InputReference(
            path=self._path,
            size=self._size,
            mtime_ns=self._mtime,
            format=self._format,
            columns=self._intake.present,
            types=tuple(map(_as_text, self._types)),
            options=_noted(self._options),
            parts=tuple(self._parts),
        )


def _counts(pieces: Sequence[Piece]) -> tuple[int, Counter[str]]:
    good, errors = 0, Counter[str]()
    for piece in pieces:
        if isinstance(piece, pa.RecordBatch):
            good += piece.num_rows
        else:
            errors.update(record.error_type for record in piece)
    return good, errors


def _check_referable(options: ReadOptions, found: FoundFile, format_name: str) -> None:
    reason = None
    if not isinstance(found.filesystem, LocalFileSystem):
        reason = "it is not a file of a local or mounted file system"
    elif format_name not in _FORMATS:
        reason = f"it is {format_name}, and only CSV and Parquet files can be referred to"
    elif options.compression_of(found.path) is not None:
        reason = "it is compressed, and no reader can begin in the middle of it"
    elif format_name != "parquet" and not is_utf8(options.encoding):
        reason = f"its encoding is {options.encoding}, and only UTF-8 can be read from the middle"
    if reason is not None:
        raise SourceError(found.name, f"copy=False cannot be used: {reason}. Use copy=True.", retryable=False)


def _facts(path: str) -> tuple[int, int]:
    found = Path(path).stat()
    return found.st_size, found.st_mtime_ns


def _as_text(schema: pa.Schema) -> str:
    return base64.b64encode(schema.remove_metadata().serialize().to_pybytes()).decode()


def _as_schema(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def _noted(options: ReadOptions) -> dict[str, Any]:
    return {
        "delimiter": options.delimiter,
        "quote": options.quote,
        "null_values": list(options.null_values),
        "schema": None if options.schema is None else _as_text(options.schema),
        "extra_columns": options.extra_columns,
        "rename": dict(options.rename),
    }


def _read_options(reference: InputReference) -> ReadOptions:
    """The options that the file was read with at the load."""
    given: Mapping[str, Any] = reference.options
    return ReadOptions(
        source=redact(reference.path),
        format=reference.format,
        delimiter=given["delimiter"],
        quote=given["quote"],
        null_values=tuple(given["null_values"]),
        header=reference.columns if reference.columns and reference.format != "parquet" else True,
        schema=None if given["schema"] is None else _as_schema(given["schema"]),
        extra_columns=given["extra_columns"],
        rename=dict(given["rename"]),
    )


class ReferencedFile:
    """A file of the input where it is.

    Args:
        reference: what the load noted of it.
        is_named: messages say which of several files it is.
    """

    def __init__(self, reference: InputReference, *, is_named: bool) -> None:
        self.reference = reference
        self._is_named = is_named
        self._options = _read_options(reference)
        self._types = [_as_schema(text) for text in reference.types]
        self._shown = [self._options.intake().shown(types) for types in self._types]
        self._readers: dict[str, ColumnReader] = {}

    def check(self) -> None:
        """See that it is what was loaded.

        Raises:
            SourceError: it has another size or time of change, or is not there.
        """
        reference = self.reference
        try:
            size, mtime = _facts(reference.path)
        except OSError as error:
            self._changed(f"it cannot be found any more ({error.strerror})")
        if size != reference.size:
            self._changed(f"it has {size:,} bytes and had {reference.size:,}")
        if mtime != reference.mtime_ns:
            self._changed("it was written again")

    def _changed(self, what: str) -> NoReturn:
        raise SourceError(
            self.reference.path,
            f"{what} since it was loaded with copy=False. Put the same file back with its time of change, or clear "
            "the load task with Downstream to read the input anew.",
            retryable=False,
        )

    def schema(self, part: InputPart) -> pa.Schema:
        """Payload columns of the records of a part that are in order."""
        return self._shown[part.types]

    def positions(self) -> dict[str, int] | None:
        """Payload column → its position in the file, if whoever reads the Parquet file as it is gets the records."""
        if not self.is_columnar or any(part.failed for part in self.reference.parts) or len(self._types) != 1:
            return None
        own = plain_schema(self._parquet)
        if any(self._types[0].field(field.name).type != field.type for field in own):
            return None
        new = dict(self._options.rename)
        places = {new.get(name, name): place for place, name in enumerate(own.names)}
        return {name: places[name] for name in self._shown[0].names if name in places}

    def read(self, part: InputPart, columns: Collection[str] | None = None) -> list[Piece]:
        """The records of a part, as they were at the load.

        Args:
            part: of this file.
            columns: only these, as the records name them; None, where the part has malformed records or the file is
                not columnar: all.

        Raises:
            SourceError: the file has changed.
        """
        self.check()
        old = {new: name for name, new in dict(self._options.rename).items()}
        wanted = None if columns is None else {old.get(name, name) for name in columns}
        intake = self._options.intake()
        intake.begin(self.reference.path)
        intake.pin(self._types[part.types], wanted)
        with reading(self.reference.path):
            pieces = self._read_rows(part, intake, wanted) if self.is_columnar else self._read_bytes(part, intake)
        good, errors = _counts(pieces)
        if (good, errors.total()) != (len(part.span) - part.failed, part.failed):
            self._changed("other records are in it")
        return [piece if isinstance(piece, pa.RecordBatch) else self._named(piece) for piece in pieces]

    @property
    def is_columnar(self) -> bool:
        """Whether columns can be read one by one."""
        return self.reference.format == "parquet"

    def _named(self, records: Sequence[Any]) -> list[Any]:
        return name_file(self.reference.path, records) if self._is_named else list(records)

    def _read_bytes(self, part: InputPart, intake: Intake) -> list[Piece]:
        with Path(self.reference.path).open("rb") as stream:
            stream.seek(part.start)
            data = stream.read(part.end - part.start)
        stretch = Stretch(part.start, part.end, part.line, part.careful)
        try:
            return read_csv_again(stretch, data, self.reference.columns, self._options, intake)
        except (IrregularError, pa.ArrowInvalid):
            self._changed("other records are in it")

    def _read_rows(self, part: InputPart, intake: Intake, wanted: Collection[str] | None) -> list[Piece]:
        names = tuple(name for name in self.reference.columns if wanted is None or name in wanted)
        if names:
            arrays = [self._reader_of(name).read(part.start, part.end) for name in names]
            batch = pa.RecordBatch.from_arrays(arrays, list(names))
        else:  # the columns are of another file, and null here
            batch = pa.RecordBatch.from_struct_array(pa.array([{}] * (part.end - part.start), pa.struct([])))
        return list(intake.from_arrow(batch, place_batch(part.line, batch)))

    def _reader_of(self, name: str) -> ColumnReader:
        """Each column goes forward by itself: steps read different ones of the same rows."""
        if name not in self._readers:
            self._readers[name] = ColumnReader(self._parquet, name)
        return self._readers[name]

    @cached_property
    def _parquet(self) -> pq.ParquetFile:
        return open_parquet(self.reference.path)

"""Files as a source: CSV, JSON, NDJSON, XML and Parquet, here or wherever fsspec reaches."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, Self

from batch_provider.domain.errors import InvalidOptionError
from batch_provider.domain.options import check_choice, set_frozen
from batch_provider.sources.options import (
    COMPRESSIONS,
    EXTRA_COLUMNS,
    FORMATS,
    check_character,
    check_names,
    check_rename,
    check_urls,
    deduce,
    is_reference,
    is_template,
    redact,
    show_schema,
)
from batch_provider.sources.read_options import ReadOptions

if TYPE_CHECKING:
    from batch_provider.domain.references import InputReference
    from batch_provider.engine.ports.store import Counted, SourceAccess
    from batch_provider.sources.intake import Intake, Piece
    from batch_provider.sources.locate import FoundFile

    Reader = Callable[[FoundFile, ReadOptions, Intake], Iterator[Piece]]

_SHOWN_URLS = 3


@dataclass(frozen=True, repr=False)
class Files:
    """Records in files.

    Attributes:
        urls: a path, a pattern such as ``in/*.csv``, an fsspec URL such as ``zip://a.csv::/data/a.zip``, or a list
            of them; may hold Jinja. Files are read in the order of their paths, each once; columns are put
            together by name.
        format: csv, tsv, ndjson, json, xml or parquet; None: by the name of each file.
        compression: gzip, zstd, bz2 or none; None: by the name of each file.
        record_path: where the records are: ``data.items`` in JSON (None: the file is an array), ``orders/order``,
            from the root on, in XML.
        encoding: of CSV, JSON and NDJSON; an XML file says its own.
        delimiter: between the fields of CSV; None: a comma, a tab in ``.tsv``.
        quote: around fields of CSV, doubled inside them; None: quotes mean nothing.
        null_values: what stands for null in CSV, in columns of text too.
        header: True: the first line of a CSV file has the names; or the names, if there is no such line.
        schema: the contract: column → type or name of a type, or a ``pyarrow.Schema``. Each column must be there;
            a value that cannot have the type, or a null where the schema forbids it, fails its record.
        extra_columns: what becomes of columns that are not in the schema: keep, drop or refuse.
        rename: old → new name of columns; the schema speaks of the new ones.
        copy: False: Parquet and CSV files stay where they are; steps read them there, and they must not change.
    """

    urls: Any
    _: KW_ONLY
    format: str | None = None
    compression: str | None = None
    record_path: str | None = None
    encoding: str = "utf-8"
    delimiter: str | None = None
    quote: str | None = '"'
    null_values: Sequence[str] = ("",)
    header: Literal[True] | Sequence[str] = True
    schema: Any = None
    extra_columns: str = "keep"
    rename: Mapping[str, str] | Sequence[tuple[str, str]] = ()
    copy: bool = True

    def __post_init__(self) -> None:
        """Refuse options that cannot work; make the others uniform."""
        set_frozen(self, "urls", check_urls(self.urls))
        check_choice("format", self.format, (*FORMATS, None))  # type: ignore[arg-type]
        check_choice("compression", self.compression, (*COMPRESSIONS, None))  # type: ignore[arg-type]
        check_choice("extra_columns", self.extra_columns, EXTRA_COLUMNS)
        check_choice("copy", self.copy, (True, False))  # type: ignore[arg-type]
        self._check_text()
        if self.header is not True:
            set_frozen(self, "header", check_names("header", self.header))
        set_frozen(self, "rename", check_rename(self.rename))
        if self.schema is not None:
            from batch_provider.sources.coerce import as_schema

            set_frozen(self, "schema", as_schema(self.schema))
        self._check_format()

    def _check_text(self) -> None:
        try:
            codecs.lookup(self.encoding)
        except (LookupError, TypeError):
            raise InvalidOptionError("encoding", self.encoding, "a name such as 'utf-8' or 'cp1252'") from None
        if self.delimiter is not None:
            check_character("delimiter", self.delimiter)
        if self.quote is not None:
            check_character("quote", self.quote)
        nulls = (self.null_values,) if isinstance(self.null_values, str) else tuple(self.null_values)
        if not all(isinstance(text, str) for text in nulls):
            raise InvalidOptionError("null_values", self.null_values, "a list of strings")
        set_frozen(self, "null_values", nulls)

    def _check_format(self) -> None:
        """Refuse what the names of the files give away already."""
        found = {self.format or deduce(url)[0] for url in self._known_urls()}
        if "xml" in found and not self.record_path:
            raise InvalidOptionError(
                "record_path", self.record_path, "'root/element', the path to an XML file's records"
            )
        if not self.copy and found & {"json", "ndjson", "xml"}:
            raise InvalidOptionError("copy", self.copy, "copy=True: only CSV and Parquet files can be referred to")

    def _known_urls(self) -> list[str]:
        urls = () if is_reference(self.urls) else self.urls
        return [url for url in urls if isinstance(url, str) and not is_template(url)]

    def describe(self) -> str:
        """The files' URLs, without passwords."""
        if is_reference(self.urls):
            return "files named by a task"
        shown = [redact(url) if isinstance(url, str) else "a task's output" for url in self.urls]
        more = f" and {len(shown) - _SHOWN_URLS} more" if len(shown) > _SHOWN_URLS else ""
        return ", ".join(shown[:_SHOWN_URLS]) + more

    def template_values(self) -> dict[str, Any]:
        """The options that may hold Jinja or the output of a task."""
        return {"urls": list(self.urls) if isinstance(self.urls, tuple) else self.urls}

    def with_template_values(self, values: Mapping[str, Any]) -> Self:
        """The same source with those options rendered."""
        return replace(self, **values)

    def read(self, access: SourceAccess) -> Iterator[Piece]:
        """Stream the records of all files.

        Raises:
            SourceError: there is no file, or one cannot be read.
            UnsupportedPayloadError: a file holds nothing that can be split into records.
        """
        from batch_provider.sources.locate import find_files, name_file

        options = self.read_options()
        intake = options.intake()
        found = find_files(self.urls, access)
        for file in found:
            intake.begin(file.name)
            opened = replace(file, compression=options.compression_of(file.path))
            reader = _reader(options.format_of(file.path))
            for piece in reader(opened, options, intake):
                yield piece if len(found) == 1 or not isinstance(piece, list) else name_file(file.name, piece)

    @property
    def by_reference(self) -> bool:
        """Whether the files stay where they are."""
        return not self.copy

    def refer(self, access: SourceAccess) -> Iterator[Counted | InputReference]:
        """Go through the files once, and say how their records are found again.

        Raises:
            SourceError: there is no file, one cannot be read, or one cannot be referred to.
        """
        from batch_provider.sources.referring import refer

        yield from refer(self.urls, self.read_options(), access)

    def read_options(self) -> ReadOptions:
        """What the readers of single files need to know."""
        return ReadOptions(
            source=self.describe(),
            format=self.format,
            compression=self.compression,
            record_path=self.record_path,
            encoding=self.encoding,
            delimiter=self.delimiter,
            quote=self.quote,
            null_values=self.null_values,
            header=self.header,
            schema=self.schema,
            extra_columns=self.extra_columns,
            rename=dict(self.rename),
        )

    def __repr__(self) -> str:
        """What was declared, without passwords; the same in every process."""
        parts = [self.describe()] if is_reference(self.urls) else [repr([redact(str(url)) for url in self.urls])]
        for option in fields(self)[1:]:
            value = getattr(self, option.name)
            if value != option.default:
                parts.append(f"{option.name}={show_schema(value) if option.name == 'schema' else value!r}")
        return f"Files({', '.join(parts)})"


def _reader(format_name: str) -> Reader:
    """The function that reads files of a format; only then are the libraries it needs imported."""
    match format_name:
        case "csv" | "tsv":
            from batch_provider.sources.csv.reader import read_csv as read
        case "ndjson":
            from batch_provider.sources.ndjson_reader import read_ndjson as read
        case "json":
            from batch_provider.sources.json_reader import read_json as read
        case "xml":
            from batch_provider.sources.xml_reader import read_xml as read
        case "parquet":
            from batch_provider.sources.parquet_reader import read_parquet as read
        case _:
            raise InvalidOptionError("format", format_name, " or ".join(map(repr, FORMATS)))
    return read

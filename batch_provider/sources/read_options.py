"""How files are read: what the readers know of the options of :class:`~batch_provider.sources.files.Files`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from batch_provider.domain.errors import SourceError
from batch_provider.sources.options import FORMATS, deduce, redact

if TYPE_CHECKING:
    import pyarrow as pa

    from batch_provider.sources.intake import Intake


@dataclass(frozen=True)
class ReadOptions:
    """The checked options of a source of files; ``source`` names it in messages, the others are those of ``Files``."""

    source: str
    format: str | None = None
    compression: str | None = None
    record_path: str | None = None
    encoding: str = "utf-8"
    delimiter: str | None = None
    quote: str | None = '"'
    null_values: Sequence[str] = ("",)
    header: Literal[True] | Sequence[str] = True
    schema: pa.Schema | None = None
    extra_columns: str = "keep"
    rename: Mapping[str, str] = field(default_factory=dict)

    def format_of(self, name: str) -> str:
        """The format of the file of that name.

        Raises:
            SourceError: neither ``format`` nor the name says.
        """
        found = self.format or deduce(name)[0]
        if found is None:
            archive = " A file in an archive is read as 'zip://name.csv::archive.zip'." if ".zip" in name else ""
            raise SourceError(
                redact(name),
                f"its name does not tell the format. Pass format=, one of {', '.join(FORMATS)}.{archive}",
                retryable=False,
            )
        return found

    def compression_of(self, name: str) -> str | None:
        """The compression of the file of that name; None: none."""
        found = self.compression or deduce(name)[1]
        return None if found == "none" else found

    def intake(self) -> Intake:
        """What takes in the blocks of these files."""
        from batch_provider.sources.intake import Intake

        return Intake(self.source, self.schema, self.extra_columns, self.rename)

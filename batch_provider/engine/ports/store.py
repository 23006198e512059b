"""What the engine needs from outside: sources, the store, a clock. Each has an in-memory twin that ships."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from batch_provider.domain.instance import Claim, Close
from batch_provider.domain.layout import ClaimId, FileRef, ShardRef, Span
from batch_provider.domain.limits import FailureCounts
from batch_provider.domain.outcome import CloseOutcome
from batch_provider.domain.references import InputReference
from batch_provider.domain.tally import Tally


class Clock(Protocol):
    """Time, so that tests can turn it."""

    def now(self) -> datetime:
        """The current instant, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never jumps back."""
        ...


@dataclass(frozen=True)
class MalformedRecord:
    """A piece of the input that is no record: it becomes a failed record of the phase ``input``.

    Attributes:
        line: where it stands, 1-based (a line, or the position in an array); None when not known.
        raw: its text, as far as it could be read.
        error_type, message: what is wrong with it.
    """

    line: int | None
    raw: str
    error_type: str
    message: str


class SourceAccess(Protocol):
    """How a source reaches what lies outside: file systems and databases, by Airflow connection."""

    def filesystem(self, url: str) -> tuple[Any, str]:
        """An fsspec file system for ``url`` and the path in it."""
        ...

    def database(self, conn_id: str) -> AbstractContextManager[Any]:
        """A DB-API connection for ``conn_id``, closed at the end."""
        ...


@runtime_checkable
class Source(Protocol):
    """Where records come from. A declared value: reading happens in the load task, never at parse."""

    def describe(self) -> str:
        """For messages and the report: never a secret."""
        ...

    def read(self, access: SourceAccess) -> Iterator[pa.RecordBatch | Sequence[MalformedRecord]]:
        """Stream the records in order; the input never has to fit in memory.

        Raises:
            SourceError: it cannot be read.
            UnsupportedPayloadError: it holds nothing that can be split into records.
        """
        ...


@dataclass(frozen=True)
class Counted:
    """Records of a file that stays where it is.

    Attributes:
        records: how many there are, malformed ones included.
        columns: name → type of those that are in order.
        errors: exception type → malformed records.
    """

    records: int
    columns: Mapping[str, pa.DataType]
    errors: Mapping[str, int]


@runtime_checkable
class ReferableSource(Source, Protocol):
    """A source that can leave its files where they are."""

    @property
    def by_reference(self) -> bool:
        """Whether it was told to."""
        ...

    def refer(self, access: SourceAccess) -> Iterator[Counted | InputReference]:
        """Go through the input once: what is in it, and after each file how its records are found again.

        Raises:
            SourceError: it cannot be read, or not be referred to.
        """
        ...


class GenerationReader(Protocol):
    """Reads the output of one step, or of the input, for a shard: payload by name, over any span of ids."""

    def owners(self, span: Span) -> Mapping[str, str | None]:
        """Payload and side column → the step whose files hold it over all of ``span``; None: no single one."""
        ...

    def read(self, span: Span, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of ``span`` in order of ids.

        Payload columns, then ``_id``, ``_status``, ``_out`` and the side columns that any record has.

        Args:
            span: ids; the shard must hold them.
            columns: payload columns; None: all there are; a name that nobody has is left out.

        Raises:
            CorruptCheckpointError: a file does not match its digest.
        """
        ...

    def failures(self, span: Span) -> list[dict[str, Any]]:
        """Every failure of the records of ``span`` so far: ``_id``, ``step``, ``type``, ``message``, ``at``."""
        ...


class ShardWork(Protocol):
    """A held claim: the right to write the output of one (step, shard), and what is there already."""

    claim: Claim
    instance_id: str
    generation: str
    shard: ShardRef
    upstream: GenerationReader
    types: Mapping[str, pa.DataType]
    """Payload columns that earlier attempts wrote for this shard, and their types."""
    fused_types: Mapping[str, Mapping[str, pa.DataType]]
    """The same for each of several fused steps: one may give a column a type that another changes again."""
    settled: bool
    """An earlier try of this round closed it done: the worker died after its close."""
    deaths: int
    """How many attempts in a row died at this place before this one, without closing themselves."""
    older: frozenset[int]
    """Epochs whose rows older code has made, if the step is to reprocess these; else none."""

    @property
    def files(self) -> tuple[FileRef, ...]:
        """The files that count so far: adopted ones and this attempt's own."""
        ...

    @property
    def rewrites(self) -> tuple[FileRef, ...]:
        """Adopted files that may hold rows to process again: none when an attempt merely resumes."""
        ...

    def over(self, span: Span) -> FileRef | None:
        """The one of :attr:`files` that holds exactly these ids."""
        ...

    @property
    def tally(self) -> Tally:
        """Outcomes over :attr:`files`, by their latest rows."""
        ...

    def previous(self, file: FileRef) -> pa.Table:
        """The rows of a file of this step as they were written, for copy-on-write."""
        ...

    def footer_owners(self, file: FileRef) -> Mapping[str, str]:
        """Payload column → owning step, as the footer of a file of this step says."""
        ...

    def checkpoint(
        self,
        table: pa.Table,
        span: Span,
        owners: Mapping[str, str],
        tally: Tally,
        fused_types: Mapping[str, pa.Schema] = MappingProxyType({}),
    ) -> None:
        """Commit the rows of ``span``: whole or absent."""
        ...

    def report(self, tally: Tally, fused: Mapping[str, Tally] = MappingProxyType({})) -> None:
        """Tell the other shards how far this one is; writes at most once a second.

        Args:
            tally: outcomes over all files, with this attempt's own work.
            fused: fused step → this attempt's own work in it.
        """
        ...

    def failed_elsewhere(self) -> FailureCounts:
        """What other attempts reported: failures of this round, records finished in any; and the input's failures."""
        ...

    def successor(self) -> ClaimId | None:
        """A later claim of the same (step, shard), which fences this one."""
        ...

    def stop_reason(self) -> str | None:
        """Why the instance was asked to stop, if it was."""
        ...

    def round_started(self) -> datetime:
        """When this round began: the load's start, or in a rerun the first claim of the round."""
        ...

    def first_to_be_late(self) -> bool:
        """Whether nobody has yet said that this round is late; notes that it is said now."""
        ...

    def close(
        self,
        outcome: CloseOutcome,
        tally: Tally,
        *,
        fingerprint: str,
        reason: str = "",
        stacks: Mapping[str, str] = MappingProxyType({}),
        fused: Mapping[str, Tally] = MappingProxyType({}),
    ) -> Close:
        """End the attempt: everything durable first, then the close."""
        ...

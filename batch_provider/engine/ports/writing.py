"""What the engine needs of the databases that records are written to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from batch_provider.domain.instance import Claim
from batch_provider.domain.layout import ClaimId, Span
from batch_provider.domain.outcome import JobState
from batch_provider.engine.calls.invoke import RecordError
from batch_provider.engine.columns.kept import Kept
from batch_provider.engine.columns.rows import to_python
from batch_provider.engine.ports.store import SourceAccess


@dataclass(frozen=True)
class Rows:
    """Records to write.

    Attributes:
        ids: of the records.
        consumed: the epoch of the upstream row that each was made from.
        table: their payload, a row for each.
        kept: row → values that cannot stand in their column of the table (ADR 0007).
    """

    ids: Sequence[int]
    consumed: Sequence[int]
    table: pa.Table
    kept: Kept = field(default_factory=dict)

    def records(self, indexes: Sequence[int]) -> list[dict[str, Any]]:
        """The payloads of some of them as dicts."""
        table = self.table.take(pa.array(indexes, pa.int64()))
        values = zip(*map(to_python, table.columns), strict=True) if table.num_columns else [()] * len(indexes)
        names = table.column_names
        return [
            dict(zip(names, row, strict=True)) | self.kept.get(index, {})
            for index, row in zip(indexes, values, strict=True)
        ]


class WriterSession(Protocol):
    """One attempt's writes to a target that remembers which records it has."""

    def has(self, record_id: int, consumed: int) -> bool:
        """Whether the row of a record is committed, made from the upstream row of that epoch."""
        ...

    def write(self, rows: Rows) -> Mapping[int, RecordError]:
        """Commit a group; returns by index the records that the target refused.

        Raises:
            FencedError: a later attempt has taken over.
            StorageError: the target cannot be reached; nothing of the group is committed.
        """
        ...

    def close(self) -> None:
        """Let the target go."""
        ...


@runtime_checkable
class Writer(Protocol):
    """A target of records. A declared value: it is opened in the task, never at parse."""

    def describe(self) -> str:
        """For messages: never a secret."""
        ...

    def open(self, access: SourceAccess, instance: str, generation: str, claim: Claim) -> WriterSession:
        """Fence earlier attempts, and find out what is written already."""
        ...


class BlockSession(Protocol):
    """One attempt's parts: the output of a block, which counts if the block's checkpoint does."""

    def write(self, span: Span, rows: Rows) -> Mapping[int, RecordError]:
        """Write all rows of a block; returns by index the records that the target refused.

        Raises:
            StorageError: the target cannot be reached.
        """
        ...

    def close(self) -> None:
        """Let the target go."""
        ...


@dataclass(frozen=True)
class WrittenBlock:
    """A block as its checkpoint has it.

    Attributes:
        claim: of the attempt that wrote it.
        rows: records that succeeded.
    """

    shard: str
    span: Span
    claim: ClaimId
    rows: int


@dataclass(frozen=True)
class Written:
    """What a step has written, when its instance is completed.

    Attributes:
        instance, generation, step: whose output it is.
        claim: of the on-complete that says so.
        state: the verdict.
        at: ISO time of the report.
        blocks: of every shard, in order.
        sealed: shard → the claim whose close counts; what higher ones write is not known yet.
        dag_id, job: whose instance it is.
        ticket: its place in the order of that job's instances.
    """

    instance: str
    generation: str
    step: str
    claim: ClaimId
    state: JobState
    at: str
    blocks: Sequence[WrittenBlock]
    sealed: Mapping[str, ClaimId]
    dag_id: str
    job: str
    ticket: ClaimId


@runtime_checkable
class BlockWriter(Protocol):
    """A target of parts: it is told at on-complete which of them count. A declared value, as a Writer is."""

    def describe(self) -> str:
        """For messages: never a secret."""
        ...

    def open(self, access: SourceAccess, instance: str, generation: str, claim: Claim) -> BlockSession:
        """Begin to write parts."""
        ...

    def publish(self, access: SourceAccess, written: Written) -> None:
        """Show these parts to readers, and no others.

        Raises:
            DataLossError: one of them is not there.
        """
        ...


class TransactionEndedError(Exception):
    """The author's function has ended the transaction that it was given: what it did before may be committed."""

    def __init__(self) -> None:
        super().__init__(
            "the function committed, rolled back or closed its connection, or went on after a database error; "
            "leave that to the step: it commits when the function returns, and rolls back when it raises"
        )


class GroupTransaction(AbstractContextManager[Any], Protocol):
    """A connection whose transaction is committed at the end of a ``with``, or rolled back.

    Raises:
        TransactionEndedError: at the end, if there is no transaction any more.
    """

    def close(self) -> None:
        """Let the database go."""
        ...


class RecordSession(Protocol):
    """A connection with a transaction for each record, which remembers whose are committed."""

    def has(self, record_id: int, consumed: int) -> bool:
        """Whether the transaction of a record is committed, made from the upstream row of that epoch."""
        ...

    def record(self, record_id: int, consumed: int) -> AbstractContextManager[Any]:
        """The connection; what is done there is committed with the record's id, or rolled back."""
        ...

    def merge_notes(self, span: Span) -> None:
        """Write down the ids of a block in short."""
        ...

    def close(self) -> None:
        """Let the database go."""
        ...


class Targets(Protocol):
    """How a task reaches what it writes to."""

    @property
    def access(self) -> SourceAccess:
        """Connections by their ids."""
        ...

    def transaction(self, conn_id: str) -> GroupTransaction:
        """A connection for an aggregator that writes by itself."""
        ...

    def records(self, conn_id: str, instance: str, generation: str, claim: Claim) -> RecordSession:
        """A connection for a record step that writes by itself; earlier attempts are fenced."""
        ...

"""What parent and child say to each other: requests, and the results of finished runs as Arrow IPC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from batch_provider.domain.layout import Span
from batch_provider.domain.tally import Tally
from batch_provider.engine.calls.invoke import RecordError
from batch_provider.engine.columns.block import BlockResult
from batch_provider.engine.columns.rows import one_chunk

Types = Mapping[str, pa.DataType]


@dataclass(frozen=True)
class Blame:
    """Why a record is failed without a call.

    Attributes:
        error: of its process.
        is_asked: whether the accept expression may still be asked of it.
    """

    error: RecordError
    is_asked: bool = True


Condemned = Mapping[str, Mapping[int, Blame]]
"""Step → record id → why it is failed."""


@dataclass(frozen=True)
class CutRequest:
    """Cut a block of about ``wanted`` records out of ``rest`` and run it."""

    rest: Span
    wanted: int
    condemned: Condemned


@dataclass(frozen=True)
class RunRequest:
    """Run the records at ``candidates`` of a block."""

    span: Span
    candidates: np.ndarray
    condemned: Condemned


@dataclass(frozen=True)
class Question:
    """What the child asks of the world outside, through its parent."""

    content: bytes


@dataclass(frozen=True)
class Raised:
    """What ended a request: no death, the task ends with it.

    Attributes:
        error: that was raised.
        note: where; errors cross borders without their notes.
    """

    error: BaseException
    note: str


@dataclass(frozen=True)
class OutOfMemory:
    """The child had not enough memory: what it holds is not to be trusted any more."""

    message: str


@dataclass(frozen=True)
class Finished:
    """A finished run; its columns follow as Arrow IPC.

    Attributes:
        span: the block.
        result: without its columns.
        types: what the step, or each fused one, has written so far.
        stacks: exception type → the stack of the first of its kind.
        work: fused step → all its work in this child.
    """

    span: Span
    result: BlockResult
    types: Mapping[str, Types]
    stacks: Mapping[str, str]
    work: Mapping[str, Tally] = field(default_factory=dict)


def to_ipc(columns: Mapping[str, pa.Array]) -> pa.Buffer:
    """Columns of one length as an Arrow stream."""
    sink = pa.BufferOutputStream()
    table = pa.table(dict(columns))
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()


def from_ipc(data: bytes) -> dict[str, pa.Array]:
    """Read what :func:`to_ipc` wrote, and see that it is sound.

    Raises:
        pyarrow.ArrowInvalid: it is not.
    """
    table = pa.ipc.open_stream(data).read_all()
    table.validate(full=True)
    return {name: one_chunk(table[name]) for name in table.column_names}


def without_columns(result: BlockResult) -> BlockResult:
    """What goes before the columns."""
    return replace(result, columns={})


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, says that memory did not suffice."""
    while error is not None:
        name = type(error).__name__  # DuckDB's is not imported for this
        if isinstance(error, MemoryError) or name == "OutOfMemoryException":
            return True
        if name == "ExpressionLimitError" and " of memory" in str(error):  # and not: of time
            return True
        error = error.__cause__
    return False

"""What on-complete asks of a generation: every attempt's end, every row's status, the failed records (ports)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from batch_provider.domain.instance import AttemptInfo, Close, Manifest
from batch_provider.domain.layout import ClaimId, ShardRef, Span
from batch_provider.domain.result import BatchJobResult
from batch_provider.engine.ports.store import GenerationReader

Each = Callable[[Callable[[Any], pa.Table], Iterable[Any]], Iterable[pa.Table]]
"""``map``, or the one of a pool."""


class StoredReader(GenerationReader, Protocol):
    """The same over files, some of whose rows can be read alone."""

    def pick(self, ids: np.ndarray, each: Each = map) -> pa.Table:
        """The rows of these ids, which ascend, with all columns, as :meth:`read` gives them.

        For few rows of many: a column is decoded and forgotten before the next one is.

        Args:
            ids: of records that the shard holds.
            each: calls a function for each of several files; the ``map`` of a thread pool does so side by side.

        Raises:
            CorruptCheckpointError: a file does not match its digest.
        """
        ...


class GenerationStore(Protocol):
    """What on-complete needs of a generation: every attempt's end, every row's status, and where to write."""

    @property
    def manifest(self) -> Manifest:
        """What the load committed."""
        ...

    def ticket(self) -> ClaimId:
        """The place of the generation in the order of its job."""
        ...

    def seal(self, step: str, shard: ShardRef, info: AttemptInfo) -> Close:
        """The close that counts for (step, shard); what was left open is closed ``abandoned``."""
        ...

    def tries(self, step: str, shard_id: str) -> Sequence[Close]:
        """Every attempt at (step, shard), oldest first; a killed one as what it had last said of its work."""
        ...

    def pinned(self, close: Close) -> ClaimId | None:
        """The claim of the step before whose output the attempt behind ``close`` read; None: the input."""
        ...

    def codes(self, step: str, shard_id: str) -> Mapping[int, str]:
        """Epoch → fingerprint of the code that made the rows of that epoch."""
        ...

    def rows(self, step: str, shard_id: str, close: Close | None, span: Span, columns: Sequence[str]) -> pa.Table:
        """``_id`` and these columns of a step's own files over ``span``; the input's when ``close`` is None."""
        ...

    def spans(
        self, step: str, shard_id: str, close: Close | None, *, failed: bool = False, within: Span | None = None
    ) -> Iterator[Span]:
        """The spans of those files, or of those with failed rows only, cut to the shard or to a part of it."""
        ...

    def output_reader(self, close: Close) -> StoredReader:
        """What the attempt behind ``close`` wrote, with what it left as it came."""
        ...

    def upstream_reader(self, close: Close | None, shard_id: str) -> StoredReader:
        """What the attempt behind ``close`` read; the input itself when ``close`` is None."""
        ...

    def begin_result(self, info: AttemptInfo) -> ClaimId:
        """Take the right to write the next result."""
        ...

    def stop_requests(self) -> Sequence[str]:
        """Names of all stop requests there are."""
        ...

    def put_result(self, claim: ClaimId, result: BatchJobResult) -> None:
        """Write the report."""
        ...

    def put_dead_letters(self, name: str, claim: ClaimId, table: pa.Table) -> str:
        """Write failed records with their errors; returns where, relative to the generation."""
        ...

    def put_ledger(self, claim: ClaimId, result: BatchJobResult, closes: Sequence[Close]) -> None:
        """Materialise the ledger as a DuckDB file."""
        ...

"""What on-complete reads and writes of a generation (a GenerationStore)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batch_provider.domain.errors import FencedError
from batch_provider.domain.instance import AttemptInfo, Close, Manifest, Pin
from batch_provider.domain.layout import ClaimId, ShardRef, Span
from batch_provider.domain.result import BatchJobResult
from batch_provider.storage import paths
from batch_provider.storage.blobs.protocol import put_json
from batch_provider.storage.claims.generation import Generation
from batch_provider.storage.claims.held_claim import answered_stops
from batch_provider.storage.instances.tickets import Tickets
from batch_provider.storage.reading.chain import ChainReader, Layer
from batch_provider.storage.views.ledger import ledger_bytes

_CLAIM_DIRECTORY = "claims/on_complete/all"


class Completion:
    """One on-complete's view of a generation."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._blobs, self._base = generation.blobs, generation.base
        self._last_layer: tuple[tuple[str, str, str], Layer[Any]] | None = None

    @property
    def manifest(self) -> Manifest:
        """What the load committed."""
        return self._generation.manifest

    def ticket(self) -> ClaimId:
        """See :meth:`Tickets.held`."""
        instance = self.manifest.instance
        return Tickets(self._blobs, instance.dag_id, instance.job).held(instance, self.manifest.generation)

    def seal(self, step: str, shard: ShardRef, info: AttemptInfo) -> Close:
        """See :meth:`Generation.seal`."""
        return self._generation.seal(step, shard, info)

    def tries(self, step: str, shard_id: str) -> Sequence[Close]:
        """See :meth:`Generation.tries`."""
        return self._generation.tries(step, shard_id)

    def _layer(self, step: str, shard_id: str, close: Close | None) -> Layer[Any]:
        """The files of one close; the one asked for last is kept, because its files are read several times."""
        key = (step, shard_id, str(close.claim) if close else "")
        if self._last_layer is None or self._last_layer[0] != key:
            layer = self._generation.layer(step, shard_id, close.files) if close else self._generation.input_layer()
            self._last_layer = (key, layer)
        return self._last_layer[1]

    def rows(self, step: str, shard_id: str, close: Close | None, span: Span, columns: Sequence[str]) -> pa.Table:
        """Rows of a step's own files."""
        return self._layer(step, shard_id, close).rows(span, columns)

    def spans(
        self, step: str, shard_id: str, close: Close | None, *, failed: bool = False, within: Span | None = None
    ) -> Iterator[Span]:
        """Spans of those files, cut to the shard; one by one, so that a file is still open when its rows are read."""
        layer, whole = self._layer(step, shard_id, close), within or self.manifest.shard(shard_id).span
        for file in layer.over(whole):
            part = file.span.overlap(whole)
            if part is not None and (not failed or layer.open(file).footer.tally.failed):
                yield part

    def codes(self, step: str, shard_id: str) -> Mapping[int, str]:
        """See :meth:`Generation.codes`."""
        return self._generation.codes(step, shard_id)

    def pinned(self, close: Close) -> ClaimId | None:
        """Which attempt of the step before it read."""
        pin = self._generation.claim_of(close.step, close.shard, close.claim).upstream
        return pin.claim if pin else None

    def output_reader(self, close: Close) -> ChainReader:
        """What an attempt wrote."""
        return self._generation.reader(close.shard, Pin(close.step, close.claim))

    def upstream_reader(self, close: Close | None, shard_id: str) -> ChainReader:
        """What an attempt read."""
        if close is None:
            return self._generation.reader(shard_id, None)
        pin = self._generation.claim_of(close.step, shard_id, close.claim).upstream
        return self._generation.reader(shard_id, pin)

    def begin_result(self, info: AttemptInfo) -> ClaimId:
        """Claim the next result.

        Raises:
            FencedError: another on-complete of this generation claimed it at the same moment, and wins.
            SourceError: the input was not copied, and has changed: what failed in it cannot be reported any more.
        """
        self._generation.check_input()
        highest = self._result_claims()
        claim = ClaimId.next(highest[-1] if highest else None)
        document = {"host": info.host, "pid": info.pid, "at": self._generation.clock.now().isoformat()}
        put_json(self._blobs, f"{self._base}/{_CLAIM_DIRECTORY}/{claim}.json", document)
        winner = self._result_claims()[-1]
        if winner != claim:
            raise FencedError("on_complete", "all", str(claim), str(winner))
        return claim

    def _result_claims(self) -> list[ClaimId]:
        return paths.claims_among(self._blobs.files(f"{self._base}/{_CLAIM_DIRECTORY}"))

    def stop_requests(self) -> Sequence[str]:
        """Every stop request so far: the result that lists them answers them."""
        return sorted({*self._blobs.files(paths.stops_dir(self._base)), *answered_stops(self._blobs, self._base)})

    def put_result(self, claim: ClaimId, result: BatchJobResult) -> None:
        """Write the report; it and all it names are durable when this returns."""
        self._blobs.sync()
        put_json(self._blobs, paths.result_file(self._base, claim), result.to_json())
        self._blobs.sync()

    def put_dead_letters(self, name: str, claim: ClaimId, table: pa.Table) -> str:
        """Write one file of failed records."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        path = f"dead_letters/{name}.{claim}.parquet"
        self._blobs.put(f"{self._base}/{path}", sink.getvalue())
        return path

    def put_ledger(self, claim: ClaimId, result: BatchJobResult, closes: Sequence[Close]) -> None:
        """Materialise the ledger."""
        self._blobs.put(f"{self._base}/ledger.{claim}.duckdb", ledger_bytes(self._generation, result, closes))

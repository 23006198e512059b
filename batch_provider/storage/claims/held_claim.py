"""A held claim: the right of one attempt to write the output of (step, shard)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType

import pyarrow as pa

from batch_provider.domain.instance import Claim, Close, Manifest
from batch_provider.domain.layout import ClaimId, FileRef, Span
from batch_provider.domain.limits import FailureCounts
from batch_provider.domain.names import RESERVED_COLUMNS
from batch_provider.domain.outcome import CloseOutcome
from batch_provider.domain.tally import Tally
from batch_provider.engine.columns.rows import unify
from batch_provider.engine.ports.store import Clock, GenerationReader
from batch_provider.storage import paths
from batch_provider.storage.blobs.protocol import Blobs, get_json, put_json
from batch_provider.storage.claims.progress import Progress, latest_progress, put_progress
from batch_provider.storage.claims.rounds import load_began
from batch_provider.storage.claims.standing import Adopted, OpenedFiles, Standing
from batch_provider.storage.reading.checkpoint_file import Footer, encode

SYNC_SECONDS = 1.0
REPORT_SECONDS = 1.0


class HeldClaim:
    """What one attempt may write, and what is there already (a ShardWork)."""

    def __init__(  # noqa: PLR0913  # made in one place, by Generation.claim
        self,
        blobs: Blobs,
        clock: Clock,
        generation: str,
        manifest: Manifest,
        claim: Claim,
        adopted: Mapping[FileRef, Adopted],
        upstream: GenerationReader,
        *,
        rewrites: Collection[FileRef] = (),
        settled: bool = False,
        older: frozenset[int] = frozenset(),
        deaths: int = 0,
    ) -> None:
        self.instance_id, self.generation = manifest.instance.id, manifest.generation
        self.settled, self.older, self.deaths = settled, older, deaths
        latest_last = [adopted[file] for file in sorted(adopted, key=lambda file: file.claim)]
        self.types: Mapping[str, pa.DataType] = _types_of(found.schema for found in latest_last)
        self.fused_types: Mapping[str, Mapping[str, pa.DataType]] = {
            step: _types_of(found.fused_types[step] for found in latest_last if step in found.fused_types)
            for step in manifest.fused(claim.step)
        }
        self.claim, self.shard, self.upstream = claim, manifest.shard(claim.shard), upstream
        self._blobs, self._clock = blobs, clock
        self._generation, self._manifest = generation, manifest
        self._standing = Standing(
            {
                file: found.tally if file.claim.epoch >= claim.since else replace(found.tally, newly_failed=0)
                for file, found in adopted.items()
            }
        )
        self.rewrites: tuple[FileRef, ...] = tuple(file for file in self.files if file in rewrites)
        directory = paths.output_dir(generation, claim.step, claim.shard)
        self._opened = OpenedFiles(blobs, directory, {file: adopted[file].opened for file in self.rewrites})
        self._synced_at = self._reported_at = clock.monotonic() - REPORT_SECONDS

    @property
    def files(self) -> tuple[FileRef, ...]:
        """Adopted files and own ones; the later of two over the same ids counts."""
        return self._standing.files

    def over(self, span: Span) -> FileRef | None:
        """The one of :attr:`files` that holds exactly these ids."""
        return self._standing.over(span)

    @property
    def tally(self) -> Tally:
        """Outcomes over :attr:`files`."""
        return self._standing.total

    def previous(self, file: FileRef) -> pa.Table:
        """All rows of a file of this step."""
        opened = self._opened.open(file)
        return opened.read(opened.columns)

    def footer_owners(self, file: FileRef) -> Mapping[str, str]:
        """Column → owning step, as that file's footer says."""
        return self._opened.open(file).footer.owners

    def checkpoint(
        self,
        table: pa.Table,
        span: Span,
        owners: Mapping[str, str],
        tally: Tally,
        fused_types: Mapping[str, pa.Schema] = MappingProxyType({}),
    ) -> None:
        """Commit the rows of ``span``: the rename is the commit."""
        buffer, digest = encode(table, Footer(self.claim.step, owners, tally, fused_types))
        file = FileRef(span, self.claim.id, digest)
        self._blobs.put(self._path(file), buffer)
        if (replaced := self._standing.put(file, tally)) is not None:
            self._opened.forget(replaced)
        if self._clock.monotonic() - self._synced_at >= SYNC_SECONDS:
            self._blobs.sync()
            self._synced_at = self._clock.monotonic()

    def _path(self, file: FileRef) -> str:
        return paths.output_file(self._generation, self.claim.step, self.shard.id, file)

    def report(self, tally: Tally, fused: Mapping[str, Tally] = MappingProxyType({})) -> None:
        """Write the progress file, at most once a second or when the failures have grown."""
        now = self._clock.monotonic()
        if now - self._reported_at < REPORT_SECONDS:
            return
        self._reported_at = now
        self.report_now(tally, fused)

    def report_now(self, tally: Tally, fused: Mapping[str, Tally] = MappingProxyType({})) -> None:
        """Write the progress file."""
        progress = Progress(self.claim.round, self._clock.now(), tally, fused)
        put_progress(self._blobs, self._generation, self.claim.step, self.shard.id, self.claim.id, progress)

    def failed_elsewhere(self) -> FailureCounts:
        """Sum what the latest attempts told: of failures those of this round, of what is finished everything."""
        failed, finished = 0, 0
        for shard in self._manifest.shards:
            received = 0
            for step in self._manifest.steps:
                if (step["name"], shard.id) == (self.claim.step, self.shard.id):
                    continue
                told = latest_progress(self._blobs, self._generation, str(step["name"]), shard.id)
                if told is not None:  # what is not told yet, or cannot be read, counts at a later look
                    failed += told.tally.newly_failed if told.round == self.claim.round else 0
                    received = max(received, told.tally.received)
            own = self.tally.received if shard.id == self.shard.id else 0  # the caller adds its own
            finished += max(received - own, 0)
        return FailureCounts(failed, finished, self._manifest.failed_on_input, self._manifest.total)

    def successor(self) -> ClaimId | None:
        """The highest claim, if it is not this one."""
        names = self._blobs.files(paths.claims_dir(self._generation, self.claim.step, self.shard.id))
        highest = max(paths.claims_among(names), default=self.claim.id)
        return highest if highest > self.claim.id else None

    def stop_reason(self) -> str | None:
        """The reason of a stop request that no result has answered."""
        directory = paths.stops_dir(self._generation)
        names = self._blobs.files(directory)
        if not names:
            return None
        answered = answered_stops(self._blobs, self._generation)
        for name in names:
            if name not in answered:
                return str(get_json(self._blobs, f"{directory}/{name}").get("reason", "a stop request"))
        return None

    def round_started(self) -> datetime:
        """The start of the load, or of the first claim of this round; a retry does not begin it anew."""
        if self.claim.round == 0:
            return load_began(self._blobs, self._generation, self._manifest)
        started = [self.claim.started_at]
        for step in self._manifest.steps:
            for shard in self._manifest.shards:
                directory = paths.claims_dir(self._generation, str(step["name"]), shard.id)
                for name in reversed(self._blobs.files(directory)):
                    claim = Claim.from_json(get_json(self._blobs, f"{directory}/{name}"))
                    if claim.round < self.claim.round:
                        break  # and so are those before it
                    started += [claim.started_at] if claim.round == self.claim.round else []
        return min(map(datetime.fromisoformat, started))

    def first_to_be_late(self) -> bool:
        """Look for the round's note, and leave one; two shards at the very same moment may both be told yes."""
        directory = f"{self._generation}/late"
        note = f"{self.claim.round:06d}"
        if any(name.startswith(note) for name in self._blobs.files(directory)):
            return False
        name = f"{directory}/{note}-{self.claim.step}-{self.shard.id}-{self.claim.id}.json"
        put_json(self._blobs, name, {"at": self._clock.now().isoformat()})
        return True

    def abandon(self, reason: str) -> Close:
        """Close it as it was claimed: whatever its files hold is the work of others."""
        return self.close(CloseOutcome.ABANDONED, self.tally.with_work(Tally(), 0.0), fingerprint="", reason=reason)

    def end_as(self, earlier: Close) -> Close:
        """Close it as the attempt ended that it was put over, with the same files; the work was of that one."""
        return self.close(
            earlier.outcome,
            self.tally.with_work(Tally(), 0.0),
            fingerprint=earlier.fingerprint,
            reason=earlier.reason,
            stacks=earlier.stacks,
        )

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
        """Sync all files, write the close, sync again: a close never names what a power loss could tear."""
        close = Close(
            claim=self.claim.id,
            step=self.claim.step,
            shard=self.shard.id,
            outcome=outcome,
            files=self.files,
            tally=tally,
            info=self.claim.info,
            started_at=self.claim.started_at,
            ended_at=self._clock.now().isoformat(),
            fingerprint=fingerprint,
            reason=reason,
            stacks=dict(stacks),
            fused=dict(fused),
        )
        self.report_now(tally, fused)
        self._blobs.sync()
        name = paths.close_file(self._generation, self.claim.step, self.shard.id, self.claim.id)
        put_json(self._blobs, name, close.to_json())
        self._blobs.sync()
        return close


def _types_of(schemas: Iterable[pa.Schema]) -> dict[str, pa.DataType]:
    """Payload columns, with types wide enough for all of them."""
    found: dict[str, pa.DataType] = {}
    for schema in schemas:
        for field in schema:
            if field.name not in RESERVED_COLUMNS:
                joint = unify(found[field.name], field.type) if field.name in found else field.type
                found[field.name] = joint or field.type
    return found


def answered_stops(blobs: Blobs, generation: str) -> set[str]:
    """Stop requests that a sealed result lists."""
    found: set[str] = set()
    for name in blobs.files(generation):
        if paths.result_claim(name) is not None:
            found.update(get_json(blobs, f"{generation}/{name}")["stops"])
    return found

"""What the store holds of one generation: its claims and closes, and the checkpoints they name. Reads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from batch_provider.domain.errors import CheckpointMissingError, LayoutVersionError
from batch_provider.domain.instance import LAYOUT_VERSION, Claim, Close, Manifest, Pin
from batch_provider.domain.layout import ClaimId, FileRef, overlay
from batch_provider.domain.outcome import CloseOutcome
from batch_provider.domain.tally import Tally
from batch_provider.engine.ports.store import Clock
from batch_provider.storage import paths
from batch_provider.storage.blobs.protocol import Blobs, get_json
from batch_provider.storage.claims.progress import latest_progress, progress_of
from batch_provider.storage.reading.chain import ChainReader, FileLayer, Layer
from batch_provider.storage.reading.referenced import ReferenceLayer, open_references


class StoredGeneration:
    """The claims, closes and checkpoints below one ``g<n>-<8 hex>`` directory, as they are.

    Args:
        blobs: the store.
        clock: for what is made of it.
        base: the directory.
    """

    def __init__(self, blobs: Blobs, clock: Clock, base: str) -> None:
        self.blobs, self.clock, self.base = blobs, clock, base

    @cached_property
    def manifest(self) -> Manifest:
        """What the load committed.

        Raises:
            FileNotFoundError: the load has not committed it.
            LayoutVersionError: another version wrote it.
        """
        data = get_json(self.blobs, paths.manifest_file(self.base))
        if data.get("version") != LAYOUT_VERSION:
            raise LayoutVersionError(paths.manifest_file(self.base), data.get("version"), LAYOUT_VERSION)
        return Manifest.from_json(data)

    @property
    def checkpoint_names(self) -> list[str]:
        """What wrote checkpoints in the job whose input was loaded, in order: steps, and runs of fused ones."""
        return [str(entry["name"]) for entry in self.manifest.steps]

    # --- claims -----------------------------------------------------------------------------------------------

    def claim_ids(self, step: str, shard_id: str) -> list[ClaimId]:
        """Every claim of (step, shard), oldest first."""
        return paths.claims_among(self.blobs.files(paths.claims_dir(self.base, step, shard_id)))

    def highest_claim(self, step: str, shard_id: str) -> Claim | None:
        """The sole truth of (step, shard), or None if nobody ever claimed it."""
        ids = self.claim_ids(step, shard_id)
        return self.claim_of(step, shard_id, ids[-1]) if ids else None

    def claim_of(self, step: str, shard_id: str, claim: ClaimId) -> Claim:
        """A claim by its id."""
        return Claim.from_json(get_json(self.blobs, paths.claim_file(self.base, step, shard_id, claim)))

    def close_of(self, step: str, shard_id: str, claim: ClaimId) -> Close | None:
        """The close of a claim, or None while it is open."""
        try:
            return Close.from_json(get_json(self.blobs, paths.close_file(self.base, step, shard_id, claim)))
        except FileNotFoundError:
            return None

    def latest(self, step: str, shard_id: str) -> tuple[Claim | None, Close | None]:
        """The highest claim of (step, shard) and its close: what counts now."""
        highest = self.highest_claim(step, shard_id)
        return highest, self.close_of(step, shard_id, highest.id) if highest else None

    def attempts(self, step: str, shard_id: str) -> list[Close]:
        """Every close of (step, shard), oldest first."""
        directory = paths.closes_dir(self.base, step, shard_id)
        return [Close.from_json(get_json(self.blobs, f"{directory}/{name}")) for name in self.blobs.files(directory)]

    def tries(self, step: str, shard_id: str) -> list[Close]:
        """Every attempt at (step, shard) that has ended, oldest first, for those who count what was done.

        A killed one stands as ``abandoned``, with what it had last told of its work. Claims that were made to seal
        another, or that their attempt passed over, are no attempts of their own.
        """
        ids = self.claim_ids(step, shard_id)
        closes = {close.claim: close for close in self.attempts(step, shard_id)}
        at_work = ids[-1:] if ids and ids[-1] not in closes else []
        found = [closes.get(each) or self._killed(step, shard_id, each) for each in ids if each not in at_work]
        return [close for close in found if close.claim not in closes or close.outcome is not CloseOutcome.ABANDONED]

    def _killed(self, step: str, shard_id: str, identity: ClaimId) -> Close:
        claim, told = (
            self.claim_of(step, shard_id, identity),
            progress_of(self.blobs, self.base, step, shard_id, identity),
        )
        return Close(
            claim=identity,
            step=step,
            shard=shard_id,
            outcome=CloseOutcome.ABANDONED,
            files=(),
            tally=told.tally if told else Tally(),
            info=claim.info,
            started_at=claim.started_at,
            ended_at=told.at.isoformat() if told else "",
            fingerprint=claim.fingerprint,
            reason="its task ended without closing its attempt",
            fused=told.fused if told else {},
        )

    def codes(self, step: str, shard_id: str, claims: Sequence[ClaimId] | None = None) -> dict[int, str]:
        """Epoch → fingerprint of the code that made its rows.

        Args:
            step: whose rows.
            shard_id: of which records.
            claims: those of them to look at; None: all.
        """
        found: dict[int, str] = {}
        for identity in self.claim_ids(step, shard_id) if claims is None else claims:
            # of two of one epoch the later one counts, unless it was passed over (ADR 0018): then it made no row
            close = self.close_of(step, shard_id, identity) if identity.epoch in found else None
            if close is None or close.outcome is not CloseOutcome.ABANDONED:
                found[identity.epoch] = self.claim_of(step, shard_id, identity).fingerprint
        return found

    def current_files(self, step: str, shard_id: str) -> tuple[FileRef, ...]:
        """The files that count right now, whether or not the attempt that holds the claim has ended."""
        return self.files_of(*self.latest(step, shard_id))

    def files_of(self, claim: Claim | None, close: Close | None) -> tuple[FileRef, ...]:
        """The files that count if this claim does: those its close names, or what it adopted and wrote so far."""
        if claim is None:
            return ()
        return close.files if close else overlay([*claim.adopted, *self._own_files(claim)])

    def _own_files(self, claim: Claim) -> list[FileRef]:
        names = self.blobs.files(paths.output_dir(self.base, claim.step, claim.shard))
        return [file for name in names if (file := FileRef.parse(name)) and file.claim == claim.id]

    # --- payload ----------------------------------------------------------------------------------------------

    def reader(self, shard_id: str, pin: Pin | None) -> ChainReader:
        """The output of the pinned close of a shard; the input when there is no pin."""
        shard = self.manifest.shard(shard_id)
        layers: list[Layer[Any]] = []
        while pin is not None:
            close = self.close_of(pin.step, shard_id, pin.claim)
            if close is None:
                raise CheckpointMissingError(pin.step, shard_id, f"attempt {pin.claim} has no close")
            layers.append(self.layer(pin.step, shard_id, close.files))
            pin = self.claim_of(pin.step, shard_id, pin.claim).upstream
        layers.append(self.input_layer())
        return ChainReader(layers[::-1], shard_id, shard.span)

    def latest_reader(self, step: str, shard_id: str) -> ChainReader:
        """The output of ``step`` for a shard as its highest claim closed it.

        Raises:
            CheckpointMissingError: it has not finished.
        """
        return self.reader(shard_id, self._finished(step, shard_id))

    def _finished(self, step: str, shard_id: str) -> Pin:
        highest, close = self.latest(step, shard_id)
        if highest is None or close is None:
            raise CheckpointMissingError(step, shard_id, "it has not finished")
        if close.outcome is not CloseOutcome.DONE:
            raise CheckpointMissingError(step, shard_id, f"it was {close.outcome} ({close.reason})")
        return Pin(step, highest.id)

    def layer(self, step: str, shard_id: str, files: tuple[FileRef, ...]) -> FileLayer:
        """These files of a step, readable over any span."""
        directory = paths.output_dir(self.base, step, shard_id)
        return FileLayer(self.blobs, step, directory, files, self.manifest.fused(step))

    def input_layer(self) -> Layer[Any]:
        """The input, copied or where it is."""
        if self.manifest.references:
            return ReferenceLayer(self.manifest)
        return self.layer(paths.INPUT, "", self.manifest.files)

    def check_input(self) -> None:
        """See that an input which was not copied is still what was loaded.

        Raises:
            SourceError: it is not.
        """
        for file in open_references(self.manifest):
            file.check()

    # --- progress and results ---------------------------------------------------------------------------------

    def result_claims(self) -> list[ClaimId]:
        """The claims of the sealed results, oldest first."""
        found = (paths.result_claim(name) for name in self.blobs.files(self.base))
        return sorted(claim for claim in found if claim is not None)

    def progress(self) -> Mapping[str, Tally]:
        """Step → what its tasks report so far, over all shards; for progress lines and pages."""
        found: dict[str, Tally] = {}
        for step in self.checkpoint_names:
            total = Tally()
            for shard in self.manifest.shards:
                if (told := latest_progress(self.blobs, self.base, step, shard.id)) is not None:
                    total += told.tally
            found[step] = total
        return found

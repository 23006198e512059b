"""One generation of an instance: who may write what, and what is there to be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from batch_provider.domain.errors import (
    CheckpointMissingError,
    CorruptCheckpointError,
    FencedError,
    GenerationGoneError,
    InvalidOptionError,
    LayoutVersionError,
    StepsChangedError,
)
from batch_provider.domain.fused import checkpoint_steps
from batch_provider.domain.instance import LAYOUT_VERSION, AttemptInfo, Claim, Close, Manifest, Pin
from batch_provider.domain.layout import ClaimId, FileRef, ShardRef, overlay
from batch_provider.domain.outcome import CloseOutcome
from batch_provider.domain.spec import JobSpec
from batch_provider.domain.tally import Tally
from batch_provider.engine.ports import Clock
from batch_provider.storage import paths
from batch_provider.storage.blobs import Blobs, get_json, put_json
from batch_provider.storage.checkpoints import open_checkpoint
from batch_provider.storage.reading import ChainReader, FileLayer, Layer
from batch_provider.storage.referenced import ReferenceLayer, open_references
from batch_provider.storage.rounds import code_of, is_settled
from batch_provider.storage.work import Adopted, HeldClaim


class Generation:
    """The claims, closes and checkpoints below one ``g<n>-<8 hex>`` directory."""

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

    # --- claims -----------------------------------------------------------------------------------------------

    def claim(self, step: str, shard_id: str, info: AttemptInfo, job: JobSpec | None = None) -> HeldClaim:
        """Take over (step, shard): adopt what earlier attempts left whole, and fence them.

        Args:
            step: what to process.
            shard_id: for which records.
            info: who makes the attempt.
            job: as it is declared now; None: as it was loaded, and nothing is known of its code.

        Raises:
            StepsChangedError: the job has other steps now than when its input was loaded.
            CheckpointMissingError: the step before has not finished this shard.
            InvalidOptionError: the job did not have this step when its input was loaded.
            FencedError: another attempt claimed it at the same moment, and wins.
            SourceError: the input was not copied, and has changed.
            GenerationGoneError: it has been purged.
        """
        if not self.blobs.files(self.base):
            raise GenerationGoneError(self.blobs.address(self.base))
        self.check_input()
        if job is not None:
            self._check_steps(job)
        code, reprocesses = code_of(job, step)
        upstream = self._pin_upstream(step, shard_id)
        highest = self.highest_claim(step, shard_id)
        adopted = self._adopt(highest) if highest else {}
        identity = ClaimId.next(highest.id if highest else None)
        close = self.close_of(step, shard_id, highest.id) if highest else None
        older = self._epochs_of_other_code(step, shard_id, code) if reprocesses else frozenset()
        settled = highest is not None and is_settled(highest, close, info)
        if older and highest is not None and highest.fingerprint != code:
            settled = False  # its code has changed since
        resumes = settled or (highest is not None and close is None)
        claim = Claim(
            id=identity,
            step=step,
            shard=shard_id,
            since=highest.since if highest and resumes else identity.epoch,
            adopted=tuple(adopted),
            upstream=upstream,
            round=len(self.result_claims()),
            info=info,
            started_at=self.clock.now().isoformat(),
            fingerprint=code,
        )
        self._put_claim(claim)
        reader = self.reader(shard_id, upstream)
        same_upstream = highest is not None and highest.upstream == upstream
        return HeldClaim(
            self.blobs,
            self.clock,
            self.base,
            self.manifest,
            claim,
            adopted,
            reader,
            resumes=resumes and same_upstream,
            settled=settled and same_upstream,
            older=older,
        )

    def _check_steps(self, job: JobSpec) -> None:
        loaded, declared = self.checkpoint_names, [step.name for step in checkpoint_steps(job)]
        if loaded != declared:
            raise StepsChangedError(job.name, loaded, declared)

    @property
    def checkpoint_names(self) -> list[str]:
        """What wrote checkpoints in the job whose input was loaded, in order: steps, and runs of fused ones."""
        return [str(entry["name"]) for entry in self.manifest.steps]

    def codes(self, step: str, shard_id: str) -> dict[int, str]:
        """Epoch → fingerprint of the code that made its rows; of two claims of one epoch the later one wrote them."""
        claims = self.claim_ids(step, shard_id)
        return {claim.epoch: self.claim_of(step, shard_id, claim).fingerprint for claim in claims}

    def _epochs_of_other_code(self, step: str, shard_id: str, code: str) -> frozenset[int]:
        return frozenset(epoch for epoch, other in self.codes(step, shard_id).items() if other != code)

    def _put_claim(self, claim: Claim) -> None:
        put_json(
            self.blobs,
            f"{paths.claims_dir(self.base, claim.step, claim.shard)}/{claim.id}.json",
            claim.to_json(),
        )
        self.blobs.sync()  # a claim lost with the power would leave its fence in the targets of writers
        winner = self.claim_ids(claim.step, claim.shard)[-1]
        if winner != claim.id:
            raise FencedError(claim.step, claim.shard, str(claim.id), str(winner))

    def _adopt(self, claim: Claim) -> dict[FileRef, Adopted]:
        """The verified files reachable from a claim, with what their footers count; damaged ones are left out."""
        found: dict[FileRef, Adopted] = {}
        for file in self.current_files(claim.step, claim.shard):
            name = paths.output_file(self.base, claim.step, claim.shard, file)
            try:
                opened = open_checkpoint(self.blobs, name, file)
            except CorruptCheckpointError:
                continue  # its records are a gap now, and are processed again from upstream
            found[file] = Adopted(opened.footer.tally, opened.schema, opened.footer.fused_types)
        directory = paths.output_dir(self.base, claim.step, claim.shard)
        self.blobs.sync(f"{directory}/{file.name}" for file in found)  # whoever wrote them may not have lived to do so
        return found

    def current_files(self, step: str, shard_id: str) -> tuple[FileRef, ...]:
        """The files that count right now, whether or not the attempt that holds the claim has ended."""
        highest = self.highest_claim(step, shard_id)
        if highest is None:
            return ()
        close = self.close_of(step, shard_id, highest.id)
        return close.files if close else overlay([*highest.adopted, *self._own_files(highest)])

    def _own_files(self, claim: Claim) -> list[FileRef]:
        names = self.blobs.files(paths.output_dir(self.base, claim.step, claim.shard))
        return [file for name in names if (file := FileRef.parse(name)) and file.claim == claim.id]

    def claim_ids(self, step: str, shard_id: str) -> list[ClaimId]:
        """Every claim of (step, shard), oldest first."""
        names = self.blobs.files(paths.claims_dir(self.base, step, shard_id))
        return sorted(ClaimId.parse(name.removesuffix(".json")) for name in names)

    def highest_claim(self, step: str, shard_id: str) -> Claim | None:
        """The sole truth of (step, shard), or None if nobody ever claimed it."""
        ids = self.claim_ids(step, shard_id)
        if not ids:
            return None
        return Claim.from_json(get_json(self.blobs, f"{paths.claims_dir(self.base, step, shard_id)}/{ids[-1]}.json"))

    def close_of(self, step: str, shard_id: str, claim: ClaimId) -> Close | None:
        """The close of a claim, or None while it is open."""
        try:
            return Close.from_json(get_json(self.blobs, paths.close_file(self.base, step, shard_id, claim)))
        except FileNotFoundError:
            return None

    def attempts(self, step: str, shard_id: str) -> list[Close]:
        """Every close of (step, shard), oldest first."""
        names = self.blobs.files(f"{self.base}/attempts/{step}/{shard_id}")
        return [Close.from_json(get_json(self.blobs, f"{self.base}/attempts/{step}/{shard_id}/{n}")) for n in names]

    def seal(self, step: str, shard: ShardRef, info: AttemptInfo) -> Close:
        """The close that counts for (step, shard); an open or absent one is closed ``abandoned`` by a higher claim.

        After this no zombie can change what a result says.
        """
        highest = self.highest_claim(step, shard.id)
        close = self.close_of(step, shard.id, highest.id) if highest else None
        if close is not None:
            return close
        adopted = self._adopt(highest) if highest else {}
        claim = Claim(
            id=ClaimId.next(highest.id if highest else None),
            step=step,
            shard=shard.id,
            since=highest.since if highest else 1,
            adopted=tuple(adopted),
            upstream=highest.upstream if highest else None,
            round=len(self.result_claims()),
            info=replace(info, task_id=""),  # on-complete's own task is not the one to clear
            started_at=self.clock.now().isoformat(),
        )
        self._put_claim(claim)
        reader = self.reader(shard.id, None)
        held = HeldClaim(self.blobs, self.clock, self.base, self.manifest, claim, adopted, reader, resumes=True)
        reason = "its task ended without closing its attempt" if highest else "its task never started"
        tally = held.tally.with_work(Tally(), 0.0)  # the work was that of others
        return held.close(CloseOutcome.ABANDONED, tally, fingerprint="", reason=reason)

    # --- reading ----------------------------------------------------------------------------------------------

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

    def claim_of(self, step: str, shard_id: str, claim: ClaimId) -> Claim:
        """A claim by its id."""
        return Claim.from_json(get_json(self.blobs, f"{paths.claims_dir(self.base, step, shard_id)}/{claim}.json"))

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

    def _pin_upstream(self, step: str, shard_id: str) -> Pin | None:
        names = self.checkpoint_names
        if step not in names:
            known = f"one of {', '.join(names)}, the steps the job had when its input was loaded"
            raise InvalidOptionError("step", step, f"{known}, or clear the load task with Downstream")
        position = names.index(step)
        return self._finished(names[position - 1], shard_id) if position else None

    def _finished(self, step: str, shard_id: str) -> Pin:
        highest = self.highest_claim(step, shard_id)
        close = self.close_of(step, shard_id, highest.id) if highest else None
        if highest is None or close is None:
            raise CheckpointMissingError(step, shard_id, "it has not finished")
        if close.outcome is not CloseOutcome.DONE:
            raise CheckpointMissingError(step, shard_id, f"it was {close.outcome} ({close.reason})")
        return Pin(step, highest.id)

    # --- progress and results ---------------------------------------------------------------------------------

    def result_claims(self) -> list[ClaimId]:
        """The claims of the sealed results, oldest first."""
        found = (paths.result_claim(name) for name in self.blobs.files(self.base))
        return sorted(claim for claim in found if claim is not None)

    def progress(self) -> Mapping[str, Tally]:
        """Step → what its tasks report so far, over all shards; for progress lines and pages."""
        found: dict[str, Tally] = {}
        for step in self.manifest.steps:
            total = Tally()
            for shard in self.manifest.shards:
                directory = f"{self.base}/progress/{step['name']}/{shard.id}"
                if names := self.blobs.files(directory):
                    total += Tally.from_json(get_json(self.blobs, f"{directory}/{names[-1]}")["tally"])
            found[str(step["name"])] = total
        return found

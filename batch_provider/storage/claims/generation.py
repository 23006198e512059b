"""One generation of an instance: who may write its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from batch_provider.domain.errors import (
    FencedError,
    GenerationGoneError,
    InvalidOptionError,
    StepsChangedError,
)
from batch_provider.domain.fused import checkpoint_steps
from batch_provider.domain.instance import AttemptInfo, Claim, Close, Pin
from batch_provider.domain.layout import ClaimId, FileRef, ShardRef, Span, overlaps
from batch_provider.domain.outcome import CloseOutcome
from batch_provider.domain.spec import JobSpec
from batch_provider.storage import paths
from batch_provider.storage.claims.deaths import deaths_of
from batch_provider.storage.claims.held_claim import HeldClaim
from batch_provider.storage.claims.rounds import code_of, is_resumed, is_settled
from batch_provider.storage.claims.standing import Adopted
from batch_provider.storage.claims.stored import StoredGeneration
from batch_provider.storage.claims.taking import Seen, adopt, take


class Generation(StoredGeneration):
    """A generation whose steps may be claimed, shard by shard; what it holds is read as a :class:`StoredGeneration`."""

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
        self._check(job)
        held, _ = take(
            self, step, shard_id, lambda identity, seen: self._work(identity, seen, step, shard_id, info, job)
        )
        return held

    def _work(
        self, identity: ClaimId, seen: Seen, step: str, shard_id: str, info: AttemptInfo, job: JobSpec | None
    ) -> HeldClaim:
        """A claim to resume or redrive what was seen."""
        code, reprocesses = code_of(job, step)
        upstream = self._pin_upstream(step, shard_id)
        highest = seen.highest
        adopted = adopt(self, step, shard_id, seen.files)
        older = self._epochs_of_other_code(step, shard_id, seen, code) if reprocesses else frozenset()
        settled = highest is not None and is_settled(highest, seen.close, info)
        if older and highest is not None and highest.fingerprint != code:
            settled = False  # its code has changed since
        resumes = settled or is_resumed(highest, seen.close, info)
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
        same_upstream = highest is not None and highest.upstream == upstream
        rewrites = adopted if older else frozenset(adopted) - self._finished_files(seen, adopted, claim)
        return HeldClaim(
            self.blobs,
            self.clock,
            self.base,
            self.manifest,
            claim,
            adopted,
            self.reader(shard_id, upstream),
            rewrites=rewrites,
            settled=settled and same_upstream,
            older=older,
            deaths=deaths_of(self, step, shard_id, seen.claims),
        )

    def _finished_files(self, seen: Seen, adopted: Mapping[FileRef, Adopted], claim: Claim) -> frozenset[FileRef]:
        """Files in which there is nothing to process again, so that none of them need be read.

        Of an attempt that merely resumes those that this redrive has made, from what the step before has now. Of one
        that was done those whose every row was processed, has not failed, and was made from what still counts.
        """
        if claim.since < claim.id.epoch:
            makers = {file.claim for file in adopted if file.claim.epoch >= claim.since}
            current = {c for c in makers if self.claim_of(claim.step, claim.shard, c).upstream == claim.upstream}
            return frozenset(file for file in adopted if file.claim in current)
        if seen.highest is None or seen.close is None or seen.close.outcome is not CloseOutcome.DONE:
            return frozenset()
        moved = self._moved(claim.shard, seen.highest.upstream, claim.upstream)
        return frozenset(
            file
            for file, found in adopted.items()
            if found.tally.failed == 0 and found.tally.received == len(file.span) and not overlaps(file.span, moved)
        )

    def _moved(self, shard_id: str, then: Pin | None, now: Pin | None) -> list[Span]:
        """What the step before has made again between two of its attempts, in order of ids."""
        if then is None or now is None or then == now:
            return []
        before, after = (self.close_of(pin.step, shard_id, pin.claim) for pin in (then, now))
        known = set(before.files if before else ())
        return sorted(file.span for file in (after.files if after else ()) if file not in known)

    def _check(self, job: JobSpec | None) -> None:
        """See that what was loaded is still there, and is what the job now declared works on."""
        if paths.manifest_name() not in self.blobs.files(self.base):
            raise GenerationGoneError(self.blobs.address(self.base))
        self.check_input()
        if job is None:
            return
        loaded, declared = self.checkpoint_names, [step.name for step in checkpoint_steps(job)]
        if loaded != declared:
            raise StepsChangedError(job.name, loaded, declared)

    def _pin_upstream(self, step: str, shard_id: str) -> Pin | None:
        names = self.checkpoint_names
        if step not in names:
            known = f"one of {', '.join(names)}, the steps the job had when its input was loaded"
            raise InvalidOptionError("step", step, f"{known}, or clear the load task with Downstream")
        position = names.index(step)
        return self._finished(names[position - 1], shard_id) if position else None

    def _epochs_of_other_code(self, step: str, shard_id: str, seen: Seen, code: str) -> frozenset[int]:
        codes = self.codes(step, shard_id, seen.claims)
        return frozenset(epoch for epoch, other in codes.items() if other != code)

    def seal(self, step: str, shard: ShardRef, info: AttemptInfo) -> Close:
        """The close that counts for (step, shard); an open or absent one is closed ``abandoned`` by a higher claim.

        After this no zombie can change what a result says.
        """
        highest, close = self.latest(step, shard.id)
        if close is not None:
            return close
        try:
            held, seen = take(
                self, step, shard.id, lambda identity, seen: self._seal(identity, seen, step, shard, info)
            )
        except FencedError:  # a task that nobody expected any more has claimed it: what it did is sealed instead
            return self.seal(step, shard, info)
        if seen.close is not None and seen.close.files == held.files:  # it has ended by itself since the first look
            return held.end_as(seen.close)
        return held.abandon("its task ended without closing its attempt" if highest else "its task never started")

    def _seal(self, identity: ClaimId, seen: Seen, step: str, shard: ShardRef, info: AttemptInfo) -> HeldClaim:
        """A claim that keeps what was seen as it is."""
        highest = seen.highest
        adopted = adopt(self, step, shard.id, seen.files)
        claim = Claim(
            id=identity,
            step=step,
            shard=shard.id,
            since=highest.since if highest else 1,
            adopted=tuple(adopted),
            upstream=highest.upstream if highest else None,
            round=len(self.result_claims()),
            info=replace(info, task_id=""),  # on-complete's own task is not the one to clear
            started_at=self.clock.now().isoformat(),
        )
        reader = self.reader(shard.id, None)
        return HeldClaim(self.blobs, self.clock, self.base, self.manifest, claim, adopted, reader)

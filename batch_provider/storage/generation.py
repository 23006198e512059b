"""One generation of an instance: who may write its checkpoints."""

from __future__ import annotations

from dataclasses import replace

from batch_provider.domain.errors import (
    CorruptCheckpointError,
    FencedError,
    GenerationGoneError,
    InvalidOptionError,
    StepsChangedError,
)
from batch_provider.domain.fused import checkpoint_steps
from batch_provider.domain.instance import AttemptInfo, Claim, Close, Pin
from batch_provider.domain.layout import ClaimId, FileRef, ShardRef
from batch_provider.domain.outcome import CloseOutcome
from batch_provider.domain.spec import JobSpec
from batch_provider.domain.tally import Tally
from batch_provider.storage import paths
from batch_provider.storage.blobs import put_json
from batch_provider.storage.checkpoints import open_checkpoint
from batch_provider.storage.rounds import code_of, is_settled
from batch_provider.storage.stored import StoredGeneration
from batch_provider.storage.work import Adopted, HeldClaim


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

    def _check(self, job: JobSpec | None) -> None:
        """See that what was loaded is still there, and is what the job now declared works on."""
        if not self.blobs.files(self.base):
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

    def _epochs_of_other_code(self, step: str, shard_id: str, code: str) -> frozenset[int]:
        return frozenset(epoch for epoch, other in self.codes(step, shard_id).items() if other != code)

    def _put_claim(self, claim: Claim) -> None:
        put_json(self.blobs, paths.claim_file(self.base, claim.step, claim.shard, claim.id), claim.to_json())
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

    def seal(self, step: str, shard: ShardRef, info: AttemptInfo) -> Close:
        """The close that counts for (step, shard); an open or absent one is closed ``abandoned`` by a higher claim.

        After this no zombie can change what a result says.
        """
        highest, close = self.latest(step, shard.id)
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

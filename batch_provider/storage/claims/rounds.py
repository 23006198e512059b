"""What decides when a round began, and whether an attempt resumes, redrives, or finds nothing to do."""

from __future__ import annotations

from datetime import datetime, timedelta

from batch_provider.domain.fused import FusedStep, checkpoint_steps
from batch_provider.domain.instance import AttemptInfo, Claim, Close, Manifest
from batch_provider.domain.outcome import CloseOutcome
from batch_provider.domain.spec import JobSpec
from batch_provider.engine.process.fingerprint import fingerprint
from batch_provider.storage.blobs.protocol import Blobs
from batch_provider.storage.claims.loads import load_claims, load_of


def code_of(job: JobSpec | None, name: str) -> tuple[str, bool]:
    """The fingerprint of a step's code, and whether what older code made is to be made again."""
    if job is None:
        return "", False
    step = next(step for step in checkpoint_steps(job) if step.name == name)
    steps = step.steps if isinstance(step, FusedStep) else (step,)
    return fingerprint(step), any(each.on_code_change == "reprocess" for each in steps)


def load_began(blobs: Blobs, generation: str, manifest: Manifest) -> datetime:
    """When the load began that made a generation: its first try, if it was retried."""
    began = datetime.fromisoformat(manifest.created_at) - timedelta(seconds=manifest.seconds)
    base = generation.rpartition("/")[0]
    for claim in load_claims(blobs, base):
        attempt = load_of(blobs, base, claim)
        if attempt is not None and attempt.info.round_token == manifest.round_token:
            began = min(began, attempt.started_at)
    return began


def is_resumed(highest: Claim | None, close: Close | None, info: AttemptInfo) -> bool:
    """Whether an attempt goes on where the one before it ended: that was killed, or this is a retry after its error."""
    if highest is None or close is None:
        return highest is not None
    return close.outcome is CloseOutcome.FAILED and highest.info.round_token == info.round_token


def is_settled(highest: Claim, close: Close | None, info: AttemptInfo) -> bool:
    """Whether an earlier try of this round closed it done; a mere retry then finds nothing to do.

    An open claim is resumed; one closed in an earlier round is redriven: its failures are tried again.
    """
    return close is not None and close.outcome is CloseOutcome.DONE and highest.info.round_token == info.round_token

"""How many attempts in a row died at the same place of a shard."""

from __future__ import annotations

from collections.abc import Sequence

from batch_provider.domain.layout import ClaimId, FileRef
from batch_provider.domain.outcome import CloseOutcome
from batch_provider.storage import paths
from batch_provider.storage.claims.stored import StoredGeneration


def deaths_of(generation: StoredGeneration, step: str, shard_id: str, claims: Sequence[ClaimId]) -> int:
    """Attempts that never closed themselves and all came as far as the latest of them: to one first uncommitted id.

    Seals and passed-over claims (``abandoned``) are no attempts, and a round may end between two deaths. An attempt
    that ended by itself ends the count, and so does a commit: whoever came before it died elsewhere.

    Args:
        generation: of the instance.
        step: whose attempts.
        shard_id: over which records.
        claims: of them, oldest first.
    """
    found, wrote = 0, None
    for claim in reversed(claims):
        close = generation.close_of(step, shard_id, claim)
        if close is None:
            found += 1
            wrote = _writers(generation, step, shard_id) if wrote is None else wrote
            if claim in wrote:
                break
        elif close.outcome is not CloseOutcome.ABANDONED:
            break
    return found


def _writers(generation: StoredGeneration, step: str, shard_id: str) -> frozenset[ClaimId]:
    """The claims that have committed something."""
    names = generation.blobs.files(paths.output_dir(generation.base, step, shard_id))
    return frozenset(file.claim for name in names if (file := FileRef.parse(name)) is not None)

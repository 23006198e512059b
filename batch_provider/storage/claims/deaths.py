"""How many attempts in a row died at the same place of a shard."""

from __future__ import annotations

from collections.abc import Sequence

from batch_provider.domain.layout import ClaimId, FileRef
from batch_provider.domain.outcome import CloseOutcome
from batch_provider.storage import paths
from batch_provider.storage.claims.stored import StoredGeneration

AS_GOOD_AS_DEAD = ("MemoryError", "ArrowMemoryError", "OutOfMemoryException", "ProcessDiedError")
"""Errors that an attempt may live to close itself with: the next one would end of the same."""


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
    found, wrote = 0, frozenset[ClaimId]()
    for claim in reversed(claims):
        close = generation.close_of(step, shard_id, claim)
        if close is not None and close.outcome is CloseOutcome.ABANDONED:
            continue
        if close is not None and close.reason.partition(":")[0] not in AS_GOOD_AS_DEAD:
            break
        found += 1
        wrote = wrote if found > 1 else _writers(generation, step, shard_id)
        if claim in wrote:
            break
    return found


def _writers(generation: StoredGeneration, step: str, shard_id: str) -> frozenset[ClaimId]:
    """The claims that have committed something."""
    names = generation.blobs.files(paths.output_dir(generation.base, step, shard_id))
    return frozenset(file.claim for name in names if (file := FileRef.parse(name)) is not None)

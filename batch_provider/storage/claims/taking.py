"""Taking over (step, shard): a claim is put over everything that was there when it was put (ADR 0018)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from batch_provider.domain.errors import CorruptCheckpointError, FencedError
from batch_provider.domain.instance import Claim, Close
from batch_provider.domain.layout import ClaimId, FileRef
from batch_provider.storage import paths
from batch_provider.storage.blobs.protocol import put_json
from batch_provider.storage.claims.held_claim import HeldClaim
from batch_provider.storage.claims.standing import KEPT_BYTES, Adopted
from batch_provider.storage.claims.stored import StoredGeneration
from batch_provider.storage.reading.checkpoint_file import open_checkpoint

_LOOKS = 5
"""How often an attempt looks again. Each of its claims stops the others, so that more than two mean a slow network."""


@dataclass(frozen=True)
class Seen:
    """What there is of (step, shard), apart from the claims of the attempt that looks.

    Attributes:
        claims: all of them, oldest first.
        highest: the last one of them.
        close: its end.
        files: those that count because of it.
    """

    claims: tuple[ClaimId, ...]
    highest: Claim | None
    close: Close | None
    files: tuple[FileRef, ...]


def look(generation: StoredGeneration, step: str, shard_id: str, own: Sequence[ClaimId] = ()) -> Seen:
    """What there is now, without the claims in ``own``."""
    ids = tuple(each for each in generation.claim_ids(step, shard_id) if each not in own)
    highest = generation.claim_of(step, shard_id, ids[-1]) if ids else None
    close = generation.close_of(step, shard_id, highest.id) if highest else None
    return Seen(ids, highest, close, generation.files_of(highest, close))


def take(
    generation: StoredGeneration, step: str, shard_id: str, make: Callable[[ClaimId, Seen], HeldClaim]
) -> tuple[HeldClaim, Seen]:
    """Claim (step, shard); returns the claim that holds, and over what it was put.

    A process may stand still after it has looked, while others work, and put its claim when they have ended. With the
    same epoch and the higher token it would then be the truth, and know nothing of their work. So it looks again when
    its claim is there, and if there is more now, it claims once more over that.

    Args:
        generation: of the instance.
        step: what is claimed.
        shard_id: for which records.
        make: the claim with this id, over what was seen.

    Raises:
        FencedError: another attempt claimed it at the same moment, and wins.
    """
    held: list[HeldClaim] = []
    while True:
        own = [each.claim.id for each in held]
        seen = look(generation, step, shard_id, own)
        held.append(make(ClaimId.next(max([*seen.claims, *own], default=None)), seen))
        latest = held[-1].claim
        _put(generation, latest)
        if len(held) == _LOOKS or look(generation, step, shard_id, [*own, latest.id]) == seen:
            break
    for passed_over in held[:-1]:
        passed_over.abandon("other attempts had worked since it looked; it claimed again")
    return held[-1], seen


def _put(generation: StoredGeneration, claim: Claim) -> None:
    name = paths.claim_file(generation.base, claim.step, claim.shard, claim.id)
    put_json(generation.blobs, name, claim.to_json())
    generation.blobs.sync()  # a claim lost with the power would leave its fence in the targets of writers
    winner = generation.claim_ids(claim.step, claim.shard)[-1]
    if winner != claim.id:
        raise FencedError(claim.step, claim.shard, str(claim.id), str(winner))


def adopt(generation: StoredGeneration, step: str, shard_id: str, files: Sequence[FileRef]) -> dict[FileRef, Adopted]:
    """Those of ``files`` that are whole, with what their footers count; the first of them stay open for a redrive."""
    found: dict[FileRef, Adopted] = {}
    left = KEPT_BYTES
    for file in files:
        name = paths.output_file(generation.base, step, shard_id, file)
        try:
            opened = open_checkpoint(generation.blobs, name, file)
        except CorruptCheckpointError:
            continue  # its records are a gap now, and are processed again from upstream
        left -= opened.nbytes
        found[file] = Adopted(
            opened.footer.tally, opened.schema, opened.footer.fused_types, opened if left >= 0 else None
        )
    if found:  # whoever wrote them may not have lived to make them durable
        directory = paths.output_dir(generation.base, step, shard_id)
        generation.blobs.sync(f"{directory}/{file.name}" for file in found)
    return found

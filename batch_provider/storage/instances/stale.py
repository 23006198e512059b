"""Whether a result still tells what is in the store: a step may have been cleared without Downstream."""

from __future__ import annotations

from collections.abc import Iterable

from batch_provider.domain.result import BatchJobResult
from batch_provider.storage.claims.stored import StoredGeneration


def staleness(generation: StoredGeneration, result: BatchJobResult) -> str:
    """What was done after ``result``, and what to clear so that there is a new one; empty if nothing was done."""
    counted = set(result.closes)
    redone: dict[str, list[str]] = {}
    for step in generation.checkpoint_names:
        for shard in generation.manifest.shards:
            claims = generation.claim_ids(step, shard.id)
            if claims and f"{step}/{shard.id}/{claims[-1]}" not in counted:
                redone.setdefault(step, []).append(shard.id)
    if not redone:
        return ""
    steps = ", ".join(f"step {step!r} ({_named(shards)})" for step, shards in redone.items())
    return f"after this result there was another attempt at {steps}. {_advice(generation, redone)}"


def _advice(generation: StoredGeneration, redone: dict[str, list[str]]) -> str:
    behind: dict[str, list[str]] = {}
    for shard in sorted({shard for shards in redone.values() for shard in shards}):
        if (step := _first_behind(generation, shard)) is not None:
            behind.setdefault(step, []).append(shard)
    if not behind:
        return "Clear on_complete, when its task has ended."
    steps = ", ".join(f"step {step!r} ({_named(shards)})" for step, shards in behind.items())
    return f"Clear {steps} with Downstream, when its task has ended."


def _first_behind(generation: StoredGeneration, shard: str) -> str | None:
    """The first step that has not read the latest attempt of the step before; None: all have."""
    above = None
    for step in generation.checkpoint_names:
        claim = generation.highest_claim(step, shard)
        if claim is None or (claim.upstream.claim if claim.upstream else None) != above:
            return step
        above = claim.id
    return None


def _named(shards: Iterable[str]) -> str:
    return ", ".join(f"shard {shard}" for shard in shards)

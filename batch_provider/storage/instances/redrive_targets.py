"""What a redrive of an instance has to clear: of each shard the earliest step that is not done with its records."""

from __future__ import annotations

from dataclasses import dataclass

from batch_provider.domain.errors import RedriveRefusedError
from batch_provider.domain.layout import ShardRef
from batch_provider.domain.outcome import CloseOutcome
from batch_provider.storage.claims.stored import StoredGeneration


@dataclass(frozen=True)
class RedriveTarget:
    """A step of a shard that a redrive begins with.

    Attributes:
        task_id: the Airflow task that worked on this step; empty if none ever did.
        map_index: of the shard's mapped task; -1: the step's task is not mapped.
        failed: records that failed in this step.
        not_run: records that it never came to.
    """

    step: str
    shard: str
    task_id: str
    map_index: int
    failed: int
    not_run: int


def redrive_targets(generation: StoredGeneration) -> list[RedriveTarget]:
    """Where a redrive begins, shard by shard; shards whose records are all done are not in it.

    Raises:
        RedriveRefusedError: there is nothing to process again.
    """
    manifest = generation.manifest
    found = [
        target
        for position, shard in enumerate(manifest.shards)
        if (target := _of_shard(generation, position, shard)) is not None
    ]
    if not found and manifest.failed_on_input:
        reason = (
            f"its {manifest.failed_on_input:,} failed records are malformed input, which no step can mend. Put the "
            "input right and clear the load task with Downstream."
        )
        raise RedriveRefusedError(manifest.instance.id, reason)
    if not found:
        raise RedriveRefusedError(manifest.instance.id, "no record failed, and none is left to process.")
    return found


def _of_shard(generation: StoredGeneration, position: int, shard: ShardRef) -> RedriveTarget | None:
    for step in generation.checkpoint_names:
        _, close = generation.latest(step, shard.id)
        if close is not None and close.outcome is CloseOutcome.DONE and not close.tally.failed:
            continue
        task_id, mapped = _task_of(generation, step)
        return RedriveTarget(
            step=step,
            shard=shard.id,
            task_id=task_id,
            map_index=position if mapped else -1,
            failed=close.tally.failed if close else 0,
            not_run=len(shard.span) - (close.tally.received if close else 0),
        )
    return None


def _task_of(generation: StoredGeneration, step: str) -> tuple[str, bool]:
    """Who worked on this step, on whichever shard, and whether it was a mapped task."""
    for shard in generation.manifest.shards:
        for claim in reversed(generation.claim_ids(step, shard.id)):
            info = generation.claim_of(step, shard.id, claim).info
            if info.task_id:
                return info.task_id, info.map_index >= 0
    return "", True

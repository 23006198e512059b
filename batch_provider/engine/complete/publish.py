"""What writers do when an instance is completed: those that write parts say which of them count."""

from __future__ import annotations

import numpy as np

from batch_provider.domain.errors import InvalidOptionError
from batch_provider.domain.instance import Close
from batch_provider.domain.layout import ClaimId, ShardRef
from batch_provider.domain.outcome import Outcome
from batch_provider.domain.result import BatchJobResult
from batch_provider.domain.spec import JobSpec, WriterSpec
from batch_provider.engine.columns.block import OUTCOME_BITS
from batch_provider.engine.complete.account import Closes
from batch_provider.engine.ports.completion import GenerationStore
from batch_provider.engine.ports.writing import BlockWriter, Targets, Written, WrittenBlock


def publish(
    job: JobSpec,
    store: GenerationStore,
    closes: Closes,
    claim: ClaimId,
    result: BatchJobResult,
    targets: Targets | None,
) -> None:
    """Let every writer of parts publish what the closes that count have written.

    Args:
        job: whose steps they are.
        store: the generation.
        closes: the sealed ones.
        claim: of this on-complete.
        result: what it is about to report.
        targets: how writers reach their targets.

    Raises:
        DataLossError: a part is missing.
        InvalidOptionError: there is such a writer, and no way to reach its target.
        StorageError: the target cannot be reached.
    """
    for step in job.steps:
        writer = step.function.writer if isinstance(step.function, WriterSpec) else None
        sealed = {shard.id: closes.get((step.name, shard.id)) for shard in store.manifest.shards}
        present = {shard: close for shard, close in sealed.items() if close is not None}
        if not isinstance(writer, BlockWriter) or len(present) < len(sealed):
            continue
        if targets is None:
            raise InvalidOptionError("targets", None, f"file systems: step {step.name!r} writes to one")
        blocks = [b for shard in store.manifest.shards for b in _blocks(store, step.name, shard, present[shard.id])]
        writer.publish(
            targets.access,
            Written(
                instance=store.manifest.instance.id,
                generation=store.manifest.generation,
                step=step.name,
                claim=claim,
                state=result.state,
                at=result.ended_at,
                blocks=blocks,
                sealed={shard: close.claim for shard, close in present.items()},
                dag_id=store.manifest.instance.dag_id,
                job=store.manifest.instance.job,
                ticket=store.ticket(),
            ),
        )


def _blocks(store: GenerationStore, step: str, shard: ShardRef, close: Close) -> list[WrittenBlock]:
    found = []
    for file in close.files:
        status = store.rows(step, shard.id, close, file.span, ["_status"])["_status"].to_numpy()
        rows = int(np.count_nonzero((status & OUTCOME_BITS) == Outcome.SUCCEEDED))
        found.append(WrittenBlock(shard.id, file.span, file.claim, rows))
    return found

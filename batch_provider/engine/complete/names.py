"""Names of columns that no record turned out to have: a misspelt one skips every record and looks like success."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from batch_provider.domain.accept import AcceptPolicy
from batch_provider.domain.fused import checkpoint_steps, described
from batch_provider.domain.outcome import CloseOutcome, Outcome
from batch_provider.domain.spec import JobSpec, StepSpec
from batch_provider.domain.text import count
from batch_provider.engine.complete.account import Account, Closes
from batch_provider.engine.expressions.names import Named, contract_columns, named_by, written_by
from batch_provider.engine.ports.completion import GenerationStore

log = logging.getLogger(__name__)


def look_for_names(job: JobSpec, store: GenerationStore, closes: Closes, account: Account) -> str | None:
    """Warn of each name that no record has; the reason why the job failed, if a step did nothing because of one.

    Columns of the contract and of ``writes=`` may be absent: then the author has said that they exist.
    """
    if not closes or any(close.outcome is not CloseOutcome.DONE for close in closes.values()):
        return None
    reasons: list[str] = []
    for step, named in _declared_by_nobody(job, store):
        if _has_it(job, store, closes, step, named):
            continue
        what = f"the expression {named.expression!r}" if named.expression is not None else "the writer"
        text = f"No record has a column {named.column!r}, which {what} of step {step.name!r} names"
        log.warning("%s; it counted as NULL", text)
        if named.expression is not None and (idle := _did_nothing(job, store, account, step)):
            reasons.append(
                f"{text}: it {idle}. Correct the name and clear the load task with Downstream; if the column is "
                "merely absent today, name it in the source's schema= or in writes= of the step that adds it."
            )
    return reasons[0] if reasons else None


def _declared_by_nobody(job: JobSpec, store: GenerationStore) -> Iterator[tuple[StepSpec, Named]]:
    known = [*store.manifest.columns, *contract_columns(job)]
    for step in job.steps:
        yield from ((step, named) for named in named_by(step) if not named.is_in(known))
        known += written_by(step) or ()


def _has_it(job: JobSpec, store: GenerationStore, closes: Closes, step: StepSpec, named: Named) -> bool:
    """Whether any record had the column when it came to the step, or after the steps that share its checkpoints."""
    own = next(
        str(described(one)["name"]) for one in checkpoint_steps(job) if step.name in store.manifest.fused(one.name)
    )
    for shard in store.manifest.shards:
        close = closes[own, shard.id]
        for reader in (store.output_reader(close), store.upstream_reader(close, shard.id)):
            if named.is_in(reader.owners(shard.span)):
                return True
    return False


def _did_nothing(job: JobSpec, store: GenerationStore, account: Account, step: StepSpec) -> str:
    """What became of the records of a step that succeeded with none of those its policy admits; empty: nothing."""
    outcomes = account.outcomes[step.name]
    failed = store.manifest.failed_on_input
    failed += sum(int(account.outcomes[earlier.name][Outcome.FAILED]) for earlier in job.upstream_of(step.name))
    asked = {AcceptPolicy.ALL: store.manifest.total, AcceptPolicy.ONLY_FAILURES: failed}
    if asked.get(step.accept_policy, store.manifest.total - failed) <= 0 or outcomes[Outcome.SUCCEEDED]:
        return ""
    skipped, lost = int(outcomes[Outcome.SKIPPED]), int(outcomes[Outcome.FAILED])
    return f"took none of {count(skipped + lost, 'record')}" if skipped else f"failed {count(lost, 'record')}"

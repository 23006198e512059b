"""On complete: seal, reconcile, report, then the author's callback and the verdict."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import reduce
from typing import Any, Protocol

import numpy as np

from batch_provider.domain.errors import StepsChangedError
from batch_provider.domain.fused import checkpoint_steps
from batch_provider.domain.instance import AttemptInfo, Close, JobInstance
from batch_provider.domain.limits import FailureCounts
from batch_provider.domain.names import INPUT_PHASE
from batch_provider.domain.outcome import CloseOutcome, JobState, Outcome
from batch_provider.domain.result import BatchJobResult, ErrorCount, StepResult
from batch_provider.domain.spec import JobSpec, WriterSpec
from batch_provider.domain.tally import Tally
from batch_provider.domain.text import count
from batch_provider.engine.calls.invoke import RecordError
from batch_provider.engine.complete.account import Account, Closes, reconcile
from batch_provider.engine.complete.dead_letters import write_dead_letters
from batch_provider.engine.complete.names import look_for_names
from batch_provider.engine.complete.publish import publish
from batch_provider.engine.ports.completion import GenerationStore
from batch_provider.engine.ports.store import Clock
from batch_provider.engine.ports.writing import Targets
from batch_provider.engine.process.fingerprint import fingerprint

log = logging.getLogger(__name__)


class LoadProblem(Protocol):
    """Why a load failed."""

    @property
    def state(self) -> JobState:
        """FAILED_INPUT or FAILED_LOADING."""
        ...

    @property
    def error_type(self) -> str:
        """Name of the exception."""
        ...

    @property
    def message(self) -> str:
        """Its text."""
        ...


def complete(
    job: JobSpec,
    store: GenerationStore,
    *,
    info: AttemptInfo,
    clock: Clock,
    callback: Callable[[BatchJobResult], Any] | None = None,
    targets: Targets | None = None,
) -> BatchJobResult:
    """Close an instance: the report is durable before the callback runs, so a callback can lose nothing.

    Raises:
        DataLossError: the records do not add up; this check cannot be switched off.
    """
    claim = store.begin_result(info)
    stops = tuple(store.stop_requests())
    closes = seal_all(store, info)
    account = reconcile(store, closes, job.max_redrives)
    result = _result(job, store, closes, account, clock.now())
    result = replace(result, stops=stops, dead_letters=write_dead_letters(store, closes, account.late, claim))
    publish(job, store, closes, claim, result, targets)
    store.put_ledger(claim, result, list(closes.values()))
    store.put_result(claim, result)
    _shout(job, result)
    called = _call_back(callback, result)
    if called is not result:
        store.put_result(store.begin_result(info), called)
    return called


def seal_all(store: GenerationStore, info: AttemptInfo) -> dict[tuple[str, str], Close]:
    """The close that counts for every (step, shard), made where an attempt never closed itself."""
    return {
        (str(step["name"]), shard.id): store.seal(str(step["name"]), shard, info)
        for step in store.manifest.steps
        for shard in store.manifest.shards
    }


def _result(job: JobSpec, store: GenerationStore, closes: Closes, account: Account, now: datetime) -> BatchJobResult:
    manifest = store.manifest
    state, reason = _verdict(job, closes, account, manifest.failed_on_input)
    loaded, declared = [str(step["name"]) for step in manifest.steps], [step.name for step in checkpoint_steps(job)]
    if loaded != declared:
        state, reason = JobState.FAILED_PROCESS_RECORDS, str(StepsChangedError(job.name, loaded, declared))
    elif (nameless := look_for_names(job, store, closes, account)) is not None and state is JobState.SUCCESSFUL:
        state, reason = JobState.FAILED_PROCESS_RECORDS, nameless
    created = datetime.fromisoformat(manifest.created_at)
    return BatchJobResult(
        job_instance_id=manifest.instance.id,
        total_records=manifest.total,
        loaded_records=manifest.total,
        processed_records=account.successful + account.failed,
        successful_records=account.successful,
        failed_records=account.failed,
        elapsed_seconds=max(0.0, (now - created).total_seconds()) + manifest.seconds,
        failed_on_input_phase=False,
        failed_on_loading_phase=False,
        failed_on_complete_phase=False,
        input_phase_exception=None,
        loading_phase_exception=None,
        on_complete_phase_exception=None,
        state=state,
        reason=reason,
        job=manifest.instance.job,
        dag_id=manifest.instance.dag_id,
        run_id=manifest.instance.run_id,
        generation=manifest.generation,
        not_run_records=account.not_run,
        skipped_records=sum(int(counts[Outcome.SKIPPED]) for counts in account.outcomes.values()),
        steps=_steps(job, store, account),
        errors=_errors(account),
        closes=tuple(f"{step}/{shard}/{close.claim}" for (step, shard), close in closes.items()),
        started_at=manifest.created_at,
        ended_at=now.isoformat(),
    )


def _steps(job: JobSpec, store: GenerationStore, account: Account) -> tuple[StepResult, ...]:
    work: dict[str, Tally] = {}
    tried: dict[str, int] = {}
    older: dict[str, dict[str, int]] = {}
    codes = {step.name: fingerprint(step) for step in checkpoint_steps(job)}
    for entry in store.manifest.steps:
        name = str(entry["name"])
        attempts = [close for shard in store.manifest.shards for close in store.tries(name, shard.id)]
        for step in store.manifest.fused(name):
            work[step] = reduce(Tally.__add__, (attempt.work_in(step) for attempt in attempts), Tally())
            tried[step] = len(attempts)
            known = {code: n for code, n in account.codes[name].items() if code}
            older[step] = {code: n for code, n in known.items() if code != codes.get(name, code)}
    seconds = sum(tally.seconds for tally in work.values()) or 1.0
    return tuple(
        StepResult.of(
            step,
            _outcome_tally(counts),
            work[step],
            not_run=int(counts[Outcome.NOT_RUN]),
            share=work[step].seconds / seconds,
            attempts=tried[step],
            older_code=older[step],
            given_up=account.given_up[step],
            remark=_remark(job, step),
        )
        for step, counts in account.outcomes.items()
    )


def _remark(job: JobSpec, name: str) -> str:
    """What the step's writer says of itself, if it has one."""
    writers = (
        step.function.writer for step in job.steps if step.name == name and isinstance(step.function, WriterSpec)
    )
    return "".join(str(getattr(writer, "remark", "")) for writer in writers)


def _outcome_tally(counts: np.ndarray) -> Tally:
    return Tally(
        succeeded=int(counts[Outcome.SUCCEEDED]),
        failed=int(counts[Outcome.FAILED]),
        skipped=int(counts[Outcome.SKIPPED]),
    )


def _errors(account: Account) -> tuple[ErrorCount, ...]:
    """The error table in the order of the steps, the commonest error first."""
    order = [INPUT_PHASE, *account.outcomes]
    rows = [ErrorCount(kind[1], kind[0], count, account.samples[kind]) for kind, count in account.errors.items()]
    return tuple(sorted(rows, key=lambda row: (order.index(row.step), -row.count, row.exception, row.sample)))


def _verdict(job: JobSpec, closes: Closes, account: Account, on_input: int) -> tuple[JobState, str]:
    counts = FailureCounts(account.failed - on_input, _come_to(account), on_input, _loaded(account))
    if (error := job.limit.exceeded(counts, final=account.not_run == 0)) is not None:
        return JobState.FAILED_PROCESS_RECORDS, f"{error.fact}. Look at the error table, {error.advice}"
    if limited := _ended_as(closes, CloseOutcome.LIMITED):
        return JobState.FAILED_PROCESS_RECORDS, limited[0].reason
    if stopped := _ended_as(closes, CloseOutcome.STOPPED):
        return JobState.STOPPED, stopped[0].reason
    if unfinished := _ended_as(closes, CloseOutcome.FAILED) + _ended_as(closes, CloseOutcome.ABANDONED):
        first = unfinished[0]
        more = f" (and {len(unfinished) - 1} more)" if len(unfinished) > 1 else ""
        reason = (
            f"Step {first.step!r} of shard {first.shard}{more} did not finish: {first.reason.removesuffix('.')}. "
            "See that task's log, then clear the failed tasks with Downstream."
        )
        return JobState.FAILED_PROCESS_RECORDS, reason
    if account.not_run:
        reason = (
            f"{count(account.not_run, 'record')} processed again by a step and not yet by the steps after it. "
            f"Clear step {_first_late(account)!r} with Downstream."
        )
        return JobState.FAILED_PROCESS_RECORDS, reason
    return JobState.SUCCESSFUL, _success_reason(job, account.failed)


def _ended_as(closes: Closes, outcome: CloseOutcome) -> list[Close]:
    return [close for close in closes.values() if close.outcome is outcome]


def _loaded(account: Account) -> int:
    return account.successful + account.failed + account.not_run


def _come_to(account: Account) -> int:
    """Records that the first step has an outcome of: no later one has come to more."""
    first = next(iter(account.outcomes.values()), np.zeros(4, np.int64))
    return _loaded(account) - int(first[Outcome.NOT_RUN])


def _first_late(account: Account) -> str:
    """The first step that has to process records again."""
    late = {step for (step, _), rows in account.late.items() if rows.any()}
    return next(step for step in account.outcomes if step in late)


def _success_reason(job: JobSpec, failed: int) -> str:
    if not failed:
        return ""
    if job.limit.is_unlimited:
        return f"{count(failed, 'RECORD').upper()} FAILED; max_failed_records=-1 lets the job succeed all the same."
    return f"{count(failed, 'failed record')} {'is' if failed == 1 else 'are'} within the limit."


def _shout(job: JobSpec, result: BatchJobResult) -> None:
    """Failures under an unlimited limit are the commonest way to lose data in silence (seed on batch failures)."""
    if job.limit.is_unlimited and result.failed_records:
        log.error(
            "FAILED RECORDS: %s of %s records of job %s failed, and max_failed_records=-1 lets the job succeed all "
            "the same. They are in the dead letters: %s",
            f"{result.failed_records:,}",
            f"{result.total_records:,}",
            result.job,
            ", ".join(result.dead_letters),
        )


def load_failed(
    instance: JobInstance,
    failure: LoadProblem | None,
    callback: Callable[[BatchJobResult], Any] | None,
    clock: Clock,
) -> BatchJobResult:
    """The result of an instance that never came to be, because its load failed or never ended."""
    state = failure.state if failure else JobState.FAILED_LOADING
    problem = f"{failure.error_type}: {failure.message}" if failure else "the load task did not finish"
    on_input = state is JobState.FAILED_INPUT
    result = BatchJobResult(
        job_instance_id=instance.id,
        total_records=0,
        loaded_records=0,
        processed_records=0,
        successful_records=0,
        failed_records=0,
        elapsed_seconds=0.0,
        failed_on_input_phase=on_input,
        failed_on_loading_phase=not on_input,
        failed_on_complete_phase=False,
        input_phase_exception=problem if on_input else None,
        loading_phase_exception=None if on_input else problem,
        on_complete_phase_exception=None,
        state=state,
        reason=problem,
        job=instance.job,
        dag_id=instance.dag_id,
        run_id=instance.run_id,
        ended_at=clock.now().isoformat(),
    )
    return _call_back(callback, result)


def _call_back(callback: Callable[[BatchJobResult], Any] | None, result: BatchJobResult) -> BatchJobResult:
    """Call the author's function; what it raises goes into the result, and hides no earlier failure."""
    if callback is None:
        return result
    try:
        callback(result)
    except Exception as error:
        log.exception("The on_complete function of job %s raised; the report was written before it ran", result.job)
        found = RecordError.of(error)
        return replace(
            result,
            state=JobState.FAILED_ON_COMPLETE if result.is_successful else result.state,
            reason=f"on_complete raised {found.type}: {found.message}. {result.reason}".strip(),
            failed_on_complete_phase=True,
            on_complete_phase_exception=f"{found.type}: {found.message}",
        )
    return result

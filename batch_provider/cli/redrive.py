"""``airflow batch redrive``: clears what has to run again, through Airflow's REST API."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from batch_provider.airflow_compat import AirflowConsole
from batch_provider.cli.api import AirflowApi
from batch_provider.cli.runs import ALIVE
from batch_provider.cli.session import confirm, find
from batch_provider.domain.errors import RedriveRefusedError
from batch_provider.domain.instance import JobInstance
from batch_provider.domain.result import BatchJobResult
from batch_provider.storage.instances.redrive_targets import RedriveTarget, redrive_targets
from batch_provider.storage.instances.store import InstanceStore


def redrive(args: Namespace) -> None:
    """Find out what to clear, say so, and clear it.

    Raises:
        RedriveRefusedError: the run is running, or nothing is left to process.
    """
    store = find(args)
    owner, generation = store.instance, store.latest()
    if args.generation is not None:
        _refuse_older(store, args.generation)
    if generation is None:
        raise store.not_loaded()
    targets = redrive_targets(generation)
    with AirflowApi(args.api_url, args.api_token) as api:
        if (state := api.run_state(owner.dag_id, owner.run_id)) in ALIVE:
            reason = f"its DAG run is {state}. Wait until it has ended, or stop it: airflow batch stop"
            raise RedriveRefusedError(owner.id, reason)
        tasks = tasks_to_clear(api, owner, targets)
        rows = [_row(target) for target in targets]
        AirflowConsole().print_as(rows, args.output)
        _tell_given_up(args, store.result())
        if args.dry_run:
            _tell(args, api.clear(owner.dag_id, owner.run_id, tasks, dry_run=True), "would be cleared")
            return
        confirm(f"Clear {len(tasks)} tasks and what comes after them?", args)
        _tell(args, api.clear(owner.dag_id, owner.run_id, tasks, dry_run=False), "cleared")


def _refuse_older(store: InstanceStore, generation: str) -> None:
    """Only what was loaded last is worked on: the tasks of a DAG run are given no other generation."""
    store.named(generation)
    if generation == (current := store.current()):
        return
    reason = (
        f"its input was loaded again since generation {generation}, as {current}, and only the latest load is worked "
        f"on. Redrive it without --generation, or read the older one: airflow batch show {store.instance.id} "
        f"--generation {generation}"
    )
    raise RedriveRefusedError(store.instance.id, reason)


def tasks_to_clear(
    api: AirflowApi, owner: JobInstance, targets: Sequence[RedriveTarget]
) -> list[str | tuple[str, int]]:
    """Task ids with their map indexes, each once."""
    found: dict[str | tuple[str, int], None] = {}
    for target in targets:
        task_id = target.task_id or _by_name(api, owner, target.step)
        found[(task_id, target.map_index) if target.map_index >= 0 else task_id] = None
    return list(found)


def _by_name(api: AirflowApi, owner: JobInstance, step: str) -> str:
    """The task of a step that nobody has begun: by its name, as the builder gives it."""
    ids = [str(task["task_id"]) for task in api.tasks(owner.dag_id)]
    named = [task_id for task_id in ids if task_id.rsplit(".", 1)[-1] == step]
    of_job = [task_id for task_id in named if owner.job in task_id.split(".")]
    for candidates in (of_job, named):
        if len(candidates) == 1:
            return candidates[0]
    reason = f"no task of DAG {owner.dag_id!r} is known to be that of step {step!r}. Clear it in Airflow's UI."
    raise RedriveRefusedError(owner.id, reason)


def _row(target: RedriveTarget) -> dict[str, object]:
    return {
        "shard": target.shard,
        "step": target.step,
        "task_id": target.task_id,
        "map_index": target.map_index,
        "failed": target.failed,
        "not_run": target.not_run,
    }


def _tell_given_up(args: Namespace, result: BatchJobResult | None) -> None:
    """Whether ``max_redrives`` was raised since only the DAG file knows, so this is said and refuses nothing."""
    for step in result.steps if result else ():
        if step.given_up and args.output in ("table", "plain"):
            print(f"{step.given_up:,} failed records of step {step.name} have used up max_redrives: unless it was")
            print("raised, they are not tried again.")


def _tell(args: Namespace, cleared: Sequence[object], what: str) -> None:
    if args.output in ("table", "plain"):
        print(f"{len(cleared)} task instances {what}")

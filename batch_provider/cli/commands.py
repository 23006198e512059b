"""The commands below ``airflow batch``, apart from redrive."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from batch_provider import wiring
from batch_provider.airflow_compat import AirflowConsole, getuser
from batch_provider.cli.runs import ALIVE, NoDatabaseError, is_alive, run_states
from batch_provider.cli.session import command, confirm, find, open_catalog
from batch_provider.config import load_settings
from batch_provider.domain.errors import InvalidOptionError
from batch_provider.domain.result import BatchJobResult
from batch_provider.engine.complete.report import render_report
from batch_provider.engine.ports.clock import SystemClock
from batch_provider.engine.purge import Removal, purge
from batch_provider.storage.instances.store import InstanceStore
from batch_provider.storage.views.instance_view import InstanceStatus, InstanceView

_UNITS = {"d": "days", "h": "hours", "m": "minutes"}


# --- looking --------------------------------------------------------------------------------------------------


@command
def list_command(args: Namespace) -> None:
    """List the instances, the latest first."""
    stores = list(open_catalog().instances(dag_id=args.dag_id, job=args.job))
    try:
        states: Mapping[tuple[str, str], str] | None = run_states(store.instance for store in stores)
    except NoDatabaseError:
        states = None  # then an instance whose run was marked failed reads EXECUTING
    rows = [_row(store, states) for store in stores]
    wanted = [row for row in rows if args.state in (None, row["state"])]
    wanted.sort(key=lambda row: row["started_at"], reverse=True)
    AirflowConsole().print_as(wanted, args.output)


def _row(store: InstanceStore, states: Mapping[tuple[str, str], str] | None) -> dict[str, Any]:
    owner, generation = store.instance, store.latest()
    ended = None if states is None else states.get((owner.dag_id, owner.run_id)) not in ALIVE
    status = InstanceView(store).status(run_has_ended=ended)
    result = None if status.is_at_work else status.result  # the counts of a round before are not those of this one
    started = store.load_started()
    return {
        "job_instance_id": owner.id,
        "dag_id": owner.dag_id,
        "job": owner.job,
        "run_id": owner.run_id,
        "state": str(status.state),
        "round": status.round,
        "records": generation.manifest.total if generation else "",
        "successful": result.successful_records if result else "",
        "failed": result.failed_records if result else "",
        "out_of_date": "yes" if result and result.stale else "",
        "started_at": started.isoformat(timespec="seconds"),
        "age": _in_words(store.clock.now() - started),
    }


def _in_words(age: timedelta) -> str:
    """In its largest unit."""
    minutes = int(age.total_seconds() // 60)
    if minutes < 120:
        return f"{minutes}m"
    return f"{minutes // 60}h" if minutes < 48 * 60 else f"{minutes // 1440}d"


@command
def show_command(args: Namespace) -> None:
    """Show the report; without one, or while a redrive runs, how far the instance is."""
    store = find(args)
    view = InstanceView(store, args.generation)
    status = view.status(run_has_ended=_run_has_ended(store))
    if status.result is None or status.is_at_work:
        _show_progress(store, view, status, args.output)
    elif args.output == "table":
        print(render_report(status.result))
    else:
        AirflowConsole().print_as([status.result.to_json()], args.output)


def _run_has_ended(store: InstanceStore) -> bool | None:
    try:
        return not is_alive(store.instance)
    except NoDatabaseError:
        return None


def _show_progress(store: InstanceStore, view: InstanceView, status: InstanceStatus, output: str) -> None:
    if output == "table":
        print(f"{store.instance.id} is {status.state}" + (f" in round {status.round}" if status.round > 1 else ""))
        if (failure := store.load_failure()) is not None:
            print(f"{failure.error_type}: {failure.message}")
        for line in status.failed:
            print(line)
        if status.result is not None:
            print(f"The round before: {status.result.summary()}")
    rows = [
        {"step": step, **{name: getattr(tally, name) for name in ("received", "succeeded", "failed", "skipped")}}
        for step, tally in view.progress().items()
    ]
    AirflowConsole().print_as(rows, output)


@command
def errors_command(args: Namespace) -> None:
    """Show the kinds of failures, or the failed records."""
    store = find(args)
    view = InstanceView(store, args.generation)
    status = view.status(run_has_ended=_run_has_ended(store))
    result = None if status.is_at_work else status.result
    if result is not None and result.stale:
        _note(args, f"OUT OF DATE: {result.stale}")
    if args.records or result is None:
        found = view.errors(args.step, limit=args.limit)
        rows = [{**vars(failure), "failed_at": failure.failed_at.isoformat()} for failure in found]
    else:
        rows = [vars(row) for row in _errors_of(result, args.step)[: args.limit]]
    AirflowConsole().print_as(rows, args.output)


def _errors_of(result: BatchJobResult, step: str | None) -> list[Any]:
    known = [each.name for each in result.steps] + ["input"]
    if step is not None and step not in known:
        raise InvalidOptionError("--step", step, f"one of {', '.join(known)}")
    return [row for row in result.errors if step in (None, row.step)]


# --- doing ----------------------------------------------------------------------------------------------------


@command
def stop_command(args: Namespace) -> None:
    """Write a request to stop."""
    store = find(args)
    if not is_alive(store.instance):
        raise SystemExit(f"The DAG run of {store.instance.id} is not running, so there is nothing to stop.")
    store.request_stop(args.reason, by=getuser())
    print(f"{store.instance.id} stops at the next block boundary: {args.reason}")


@command
def purge_command(args: Namespace) -> None:
    """Show what is old; remove it unless told otherwise."""
    open_catalog()
    settings = load_settings()
    older_than = duration(args.older_than) if args.older_than else timedelta(days=settings.retention_days)
    options: dict[str, Any] = {"dag_id": args.dag_id, "job": args.job}
    store, clock = wiring.retention(settings), SystemClock()
    planned = purge(store, clock, older_than, is_alive, dry_run=True, **options)
    AirflowConsole().print_as([_removal_row(removal) for removal in planned.removed], args.output)
    for instance in planned.kept_running:
        _note(args, f"{instance.id} is old, but its DAG run has not ended: it stays.")
    total = f"{len(planned.removed)} to remove, {planned.bytes:,} bytes"
    if args.dry_run or not planned.removed:
        _note(args, total)
        return
    confirm(f"{total}. Remove?", args)
    report = purge(store, clock, older_than, is_alive, **options)
    archived = sum(removal.archives for removal in report.removed)
    _note(args, f"{len(report.removed)} removed, {report.bytes:,} bytes; {archived} files of dead letters archived")
    if report.problems:
        raise SystemExit("\n".join(["Not removed:", *report.problems]))


def _note(args: Namespace, text: str) -> None:
    """For a person; what a program reads stays free of it."""
    if args.output in ("table", "plain"):
        print(text)


def _removal_row(removal: Removal) -> dict[str, Any]:
    base, _, part = removal.name.partition(f"/{removal.instance_id}/")
    return {
        "reason": removal.reason,
        "dag_id": removal.dag_id,
        "job": removal.job,
        "job_instance_id": removal.instance_id,
        "part": part if removal.instance_id else base,
        "last_written": removal.last_written.isoformat(timespec="seconds") if removal.last_written else "",
        "bytes": removal.bytes,
        "dead_letter_files": removal.archives,
    }


def duration(text: str) -> timedelta:
    """Read ``7d``, ``12h`` or ``30m``.

    Raises:
        InvalidOptionError: it is nothing of the kind.
    """
    match = re.fullmatch(r"([1-9]\d{0,5})([dhm])", text.strip())
    if match is None:
        raise InvalidOptionError("--older-than", text, "a number with d, h or m for days, hours or minutes: 7d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def redrive_command(args: Namespace) -> None:
    """See :mod:`batch_provider.cli.redrive`."""
    from batch_provider.cli.redrive import redrive

    command(redrive)(args)

"""Retention: which instances, generations and half-written files go, and in what order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import chain
from typing import Protocol

from batch_provider.domain.errors import BatchError
from batch_provider.domain.instance import JobInstance
from batch_provider.engine.ports.store import Clock

log = logging.getLogger(__name__)

LEFTOVER_AGE = timedelta(days=1)
"""A write takes seconds; what was not finished within a day never will be."""


class Reason(StrEnum):
    """Why something goes."""

    EXPIRED = "expired"
    """An instance that nothing was written to for the whole retention."""
    ORPHAN = "orphan"
    """What a killed load or a killed purge has left: nobody can read it."""
    SUPERSEDED = "superseded"
    """A generation of a living instance whose input has been loaded again since."""
    UNFINISHED = "unfinished"
    """A file whose writer died."""


@dataclass(frozen=True)
class Removal:
    """Something that goes, or would.

    Attributes:
        name: where it lies in the store.
        owner: the instance it belongs to, if that is known.
        last_written: when anything in it was last written.
        archives: dead letter files that are copied to the archive first.
    """

    reason: Reason
    name: str
    dag_id: str = ""
    job: str = ""
    instance_id: str = ""
    owner: JobInstance | None = None
    last_written: datetime | None = None
    bytes: int = 0
    archives: int = 0


@dataclass(frozen=True)
class PurgeReport:
    """What a purge did, or would do.

    Attributes:
        removed: what is gone.
        kept_running: instances old enough to go whose DAG run is still running.
        problems: what could not be removed, and why; the next purge tries again.
    """

    removed: tuple[Removal, ...] = ()
    kept_running: tuple[JobInstance, ...] = ()
    problems: tuple[str, ...] = field(default_factory=tuple)

    @property
    def bytes(self) -> int:
        """How many were freed."""
        return sum(removal.bytes for removal in self.removed)


class PurgeStore(Protocol):
    """Where old things are found, archived and removed."""

    def candidates(self, before: datetime, *, dag_id: str | None, job: str | None) -> Iterator[Removal]:
        """Instances and generations that nothing was written to since ``before``."""
        ...

    def leftovers(self, age: timedelta) -> Sequence[Removal]:
        """Files whose writer died."""
        ...

    def is_unchanged(self, removal: Removal) -> bool:
        """Whether nothing was written to it since it was found."""
        ...

    def archive(self, removal: Removal) -> int:
        """Copy its dead letters to the archive, durably; returns how many files it has there."""
        ...

    def remove(self, removal: Removal) -> None:
        """Remove it, so that a crash on the way leaves nothing that reads as a whole."""
        ...


def purge(
    store: PurgeStore,
    clock: Clock,
    older_than: timedelta,
    is_running: Callable[[JobInstance], bool],
    *,
    dag_id: str | None = None,
    job: str | None = None,
    dry_run: bool = False,
) -> PurgeReport:
    """Remove what is older than the retention, dead letters to the archive first.

    Two things guard a running instance: Airflow is asked for the state of its DAG run right before anything of it
    goes, and nothing goes that was written to within the retention.

    Args:
        store: where things lie.
        clock: for the age.
        older_than: the retention.
        is_running: whether an instance's DAG run is queued or running, as Airflow says.
        dag_id: only instances of this DAG.
        job: only instances of jobs of this name. With either, files whose writer died stay, whoever it was.
        dry_run: only find out.
    """
    removed: list[Removal] = []
    kept: dict[str, JobInstance] = {}
    problems: list[str] = []
    everything = dag_id is None and job is None
    found = store.candidates(clock.now() - older_than, dag_id=dag_id, job=job)
    for removal in chain(found, store.leftovers(LEFTOVER_AGE) if everything else ()):
        if removal.owner is not None and is_running(removal.owner):
            kept[removal.instance_id] = removal.owner
            continue
        try:
            if (done := _take(store, removal, dry_run)) is not None:
                removed.append(done)
        except (BatchError, OSError) as error:
            log.exception("%s stays", removal.name)
            problems.append(f"{removal.name}: {error}")
    return PurgeReport(tuple(removed), tuple(kept.values()), tuple(problems))


def _take(store: PurgeStore, removal: Removal, dry_run: bool) -> Removal | None:
    if dry_run:
        return removal
    done = replace(removal, archives=store.archive(removal))
    if not store.is_unchanged(removal):
        log.info("%s is in use again and stays", removal.name)
        return None
    store.remove(removal)
    return done

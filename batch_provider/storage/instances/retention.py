"""Finds what is old in a store, archives its dead letters, and removes it (a PurgeStore)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta

from batch_provider.domain.result import BatchJobResult
from batch_provider.engine.ports.store import Clock
from batch_provider.engine.purge import Reason, Removal
from batch_provider.storage import paths
from batch_provider.storage.blobs.protocol import AgingBlobs
from batch_provider.storage.blobs.usage import Usage
from batch_provider.storage.claims.loads import load_claims
from batch_provider.storage.claims.stored import StoredGeneration
from batch_provider.storage.instances.catalog import Catalog, Folder
from batch_provider.storage.instances.store import InstanceStore, read_result
from batch_provider.storage.instances.tickets import Tickets

log = logging.getLogger(__name__)

ARCHIVE = "archive"


class Retention:
    """The old parts of a store.

    Args:
        blobs: the store.
        clock: for what is opened of it.
    """

    def __init__(self, blobs: AgingBlobs, clock: Clock) -> None:
        self._blobs, self._clock = blobs, clock

    # --- finding ----------------------------------------------------------------------------------------------

    def candidates(self, before: datetime, *, dag_id: str | None, job: str | None) -> Iterator[Removal]:
        """Whole instances, and of the others the generations that are no longer theirs."""
        for folder in Catalog(self._blobs, self._clock).folders(dag_id=dag_id, job=job):
            usage = self._blobs.usage(folder.base)
            if _is_old(usage, before):
                reason = Reason.EXPIRED if self._is_readable(folder) else Reason.ORPHAN
                yield self._removal(reason, folder, folder.base, usage)
            elif usage.newest is not None:
                yield from self._generations(folder, before)

    def _removal(self, reason: Reason, folder: Folder, name: str, usage: Usage) -> Removal:
        letters = sum(len(result.dead_letters) for _, result in self._results(name))
        return Removal(
            reason, name, folder.dag_id, folder.job, folder.id, folder.owner, usage.newest, usage.bytes, letters
        )

    def _is_readable(self, folder: Folder) -> bool:
        """Whether it says anything to anybody: what was loaded, or why loading failed."""
        if folder.owner is None:
            return False
        store = InstanceStore(self._blobs, self._clock, folder.owner)
        return store.latest() is not None or store.load_failure() is not None

    def _generations(self, folder: Folder, before: datetime) -> Iterator[Removal]:
        """Those before the current one: no task is given them any more, and no pin leads from one to another."""
        names = [name for name in self._blobs.directories(folder.base) if paths.generation_number(name)]
        claims = load_claims(self._blobs, folder.base)
        if folder.owner is None or not claims:
            return
        current = InstanceStore(self._blobs, self._clock, folder.owner).generation_name(claims[-1])
        for name in names:
            base = f"{folder.base}/{name}"
            if name != current and _is_old(usage := self._blobs.usage(base), before):
                yield self._removal(self._reason(base), folder, base, usage)

    def _reason(self, generation: str) -> Reason:
        committed = "manifest.json" in self._blobs.files(generation)
        return Reason.SUPERSEDED if committed else Reason.ORPHAN

    def leftovers(self, age: timedelta) -> Sequence[Removal]:
        """Temporary files."""
        return [
            Removal(Reason.UNFINISHED, name, last_written=usage.newest, bytes=usage.bytes)
            for name in self._blobs.leftovers(age)
            if (usage := self._blobs.usage(name)).files
        ]

    def is_unchanged(self, removal: Removal) -> bool:
        """By the time of the last write."""
        return self._blobs.usage(removal.name).newest == removal.last_written

    # --- archiving --------------------------------------------------------------------------------------------

    def _results(self, name: str) -> Iterator[tuple[StoredGeneration, BatchJobResult]]:
        """The latest result of every generation at or below ``name``."""
        names = [f"{name}/{child}" for child in self._blobs.directories(name) if paths.generation_number(child)]
        for base in names or [name]:
            generation = StoredGeneration(self._blobs, self._clock, base)
            if (result := read_result(generation)) is not None:
                yield generation, result

    def archive(self, removal: Removal) -> int:
        """Copy the files as they are; one that is there already was copied by a purge that did not come to its end.

        They lie at ``archive/<dag>/<job>/date=<date>/``, the date being the business date, or if there is none the
        day on which the result was made.
        """
        copied = 0
        for generation, result in self._results(removal.name):
            directory = f"{ARCHIVE}/{removal.dag_id}/{removal.job}/date={_date_of(removal, result)}"
            present = set(self._blobs.files(directory))
            for letter in result.dead_letters:
                name = f"{removal.instance_id}-{result.generation}-{letter.rpartition('/')[2]}"
                copied += name in present or self._copy(f"{generation.base}/{letter}", f"{directory}/{name}")
        self._blobs.sync()
        return copied

    def _copy(self, source: str, target: str) -> bool:
        try:
            data = self._blobs.get(source)
        except FileNotFoundError:
            log.warning("%s is gone already and cannot be archived", source)
            return False
        self._blobs.put(target, data, durable=True)
        return True

    # --- removing ---------------------------------------------------------------------------------------------

    def remove(self, removal: Removal) -> None:
        """Attempts to load first, oldest first, then manifests, then the rest.

        Without its attempts to load an instance does not exist, without its manifest a generation does not; the
        latest attempt goes last, so no older generation is ever taken for the current one.
        """
        if removal.reason is Reason.UNFINISHED:
            self._blobs.delete(removal.name)
            return
        for claim in load_claims(self._blobs, removal.name):
            self._blobs.delete(paths.load_file(removal.name, claim))
        for name in self._blobs.directories(removal.name):
            self._blobs.delete(paths.manifest_file(f"{removal.name}/{name}"))
        self._blobs.delete(paths.manifest_file(removal.name))
        self._blobs.delete(removal.name)
        if removal.instance_id and removal.name.endswith(f"/{removal.instance_id}"):
            Tickets(self._blobs, removal.dag_id, removal.job).forget(removal.instance_id)


def _is_old(usage: Usage, before: datetime) -> bool:
    return usage.newest is not None and usage.newest < before


def _date_of(removal: Removal, result: BatchJobResult) -> str:
    given = removal.owner.business_date if removal.owner else None
    try:
        return date.fromisoformat(str(given)).isoformat()
    except ValueError:
        return result.ended_at[:10]

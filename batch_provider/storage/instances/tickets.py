"""Whose turn it is: the order in which the instances of one job were loaded (``scheduling="ordered_sequential"``).

A ticket is taken like a claim: put one, list again, and if it is not the highest, take it back and try again. Of two
tickets that hold, the holder of the later one has therefore seen the earlier one; no lock is needed.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from batch_provider.domain.errors import StorageError
from batch_provider.domain.instance import JobInstance
from batch_provider.domain.layout import ClaimId
from batch_provider.storage import paths
from batch_provider.storage.blobs.protocol import Blobs, get_json, put_json

_TRIES = 100


@dataclass(frozen=True)
class Ticket:
    """The place of one loaded generation in the order of its job.

    Attributes:
        id: compared as text; the lower one comes first.
        last_task: id of the Airflow task that closes the instance; empty if the DAG has none.
    """

    id: ClaimId
    instance_id: str
    run_id: str
    generation: str
    last_task: str = ""


class Tickets:
    """The tickets of one job.

    Args:
        blobs: the store.
        dag_id, job: whose.
    """

    def __init__(self, blobs: Blobs, dag_id: str, job: str) -> None:
        self._blobs, self._directory = blobs, paths.tickets_dir(dag_id, job)
        self._read: dict[ClaimId, Ticket] = {}  # they never change, so each is read once

    def take(self, instance: JobInstance, generation: str, last_task: str = "") -> Ticket:
        """Get in line at the end; an older ticket of the same instance is given back.

        Raises:
            StorageError: a hundred others were quicker, one after the other.
        """
        for _ in range(_TRIES):
            ids = self._ids()
            ticket = Ticket(ClaimId.next(ids[-1] if ids else None), instance.id, instance.run_id, generation, last_task)
            put_json(self._blobs, self._name(ticket.id), {**asdict(ticket), "id": str(ticket.id)})
            if self._ids()[-1] == ticket.id:
                self._blobs.sync()
                self.forget(instance.id, but=ticket.id)
                return ticket
            self._blobs.delete(self._name(ticket.id))
            time.sleep(random.uniform(0, 0.05))  # noqa: S311  # keeps racers apart, guards nothing
        raise StorageError("take a ticket in", self._blobs.address(self._directory), "others were always quicker")

    def held(self, instance: JobInstance, generation: str) -> ClaimId:
        """The ticket of a generation; one is taken for it if it has none: not every load takes one.

        Raises:
            StorageError: as :meth:`take`.
        """
        found = [t.id for t in self._tickets() if t.instance_id == instance.id and t.generation == generation]
        return found[-1] if found else self.take(instance, generation).id

    def before(self, own: ClaimId) -> Sequence[Ticket]:
        """The tickets of other instances that come first, in order; of each instance its highest counts.

        Raises:
            StorageError: the own ticket is not to be seen here.
        """
        found = {ticket.instance_id: ticket for ticket in self._tickets()}
        holder = [ticket.instance_id for ticket in found.values() if ticket.id == own]
        if not holder:
            raise StorageError(
                "find",
                self._blobs.address(self._name(own)),
                "this process does not see the store of the worker that wrote it, or its instance was purged; "
                "[batch_provider] storage_path must be the same for workers and triggerer",
            )
        return [ticket for ticket in found.values() if ticket.id < own]

    def forget(self, instance_id: str, *, but: ClaimId | None = None) -> None:
        """Give back the tickets of an instance; not the highest of all, or its number would be given again."""
        tickets = self._tickets()
        for ticket in tickets:
            if ticket.instance_id == instance_id and ticket.id not in (but, tickets[-1].id):
                self._blobs.delete(self._name(ticket.id))

    def _tickets(self) -> list[Ticket]:
        """All, in order."""
        return [ticket for identity in self._ids() if (ticket := self._get(identity)) is not None]

    def _get(self, identity: ClaimId) -> Ticket | None:
        if identity not in self._read:
            try:
                data = get_json(self._blobs, self._name(identity))
            except FileNotFoundError:
                return None  # given back since it was listed
            self._read[identity] = Ticket(
                identity, data["instance_id"], data["run_id"], data["generation"], data["last_task"]
            )
        return self._read[identity]

    def _ids(self) -> list[ClaimId]:
        return paths.claims_among(self._blobs.files(self._directory))

    def _name(self, identity: ClaimId) -> str:
        return f"{self._directory}/{identity}.json"

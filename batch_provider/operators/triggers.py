"""Waiting without a worker slot: until the instances that were loaded before this one are done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.sdk.exceptions import AirflowRuntimeError
from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from batch_provider import wiring
from batch_provider.domain.layout import ClaimId
from batch_provider.operators._runs import still_at_work
from batch_provider.storage.instances.tickets import Tickets

_TROUBLES = 12
"""So many looks in a row may fail (a minute) before the task does, and can be retried."""


class BatchTurnTrigger(BaseTrigger):
    """Fires when no instance with a lower ticket is at work any more.

    Looks at the store, because tickets come and go, and asks Airflow for the state of the DAG runs: one that has
    failed, crashed or was deleted is not running, and holds nobody up.

    Args:
        dag_id, job: whose line it is.
        ticket: of the instance that waits.
        generation: of that instance; handed back in the event.
        seconds: between two looks.
    """

    def __init__(self, dag_id: str, job: str, ticket: str, generation: str, seconds: float = 5.0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dag_id, self.job, self.ticket, self.generation, self.seconds = dag_id, job, ticket, generation, seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """For the triggerer."""
        facts = {"dag_id": self.dag_id, "job": self.job, "ticket": self.ticket, "generation": self.generation}
        return (f"{type(self).__module__}.{type(self).__qualname__}", {**facts, "seconds": self.seconds})

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look again and again."""
        line = await sync_to_async(wiring.tickets)(self.dag_id, self.job)
        told: list[str] = []
        troubles = 0
        while True:
            try:
                waiting_for = await sync_to_async(self._ahead)(line)
                troubles = 0
            except (AirflowRuntimeError, OSError) as error:
                troubles += 1
                if troubles >= _TROUBLES:
                    raise
                self.log.warning("Cannot find out whose turn it is (%s); looks again in %g s", error, self.seconds)
                waiting_for = told
            if not waiting_for and not troubles:
                yield TriggerEvent({"generation": self.generation})  # type: ignore[no-untyped-call]
                return
            if waiting_for != told:
                told = waiting_for
                self.log.info("Waits for %s", ", ".join(told))
            await asyncio.sleep(self.seconds)

    def _ahead(self, line: Tickets) -> list[str]:
        return [ticket.run_id for ticket in still_at_work(self.dag_id, line.before(ClaimId.parse(self.ticket)))]

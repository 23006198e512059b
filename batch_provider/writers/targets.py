"""How tasks reach databases to write to."""

from __future__ import annotations

from dataclasses import dataclass

from batch_provider.domain.instance import Claim
from batch_provider.engine.ports.store import SourceAccess
from batch_provider.writers.sql.commits import Place
from batch_provider.writers.sql.transactions import ConnectionTransaction, RecordTransactions


@dataclass(frozen=True)
class DatabaseTargets:
    """Targets behind the connections that sources use too (a Targets)."""

    access: SourceAccess

    def transaction(self, conn_id: str) -> ConnectionTransaction:
        """A connection for an aggregator that writes by itself."""
        return ConnectionTransaction(self.access, conn_id)

    def records(self, conn_id: str, instance: str, generation: str, claim: Claim) -> RecordTransactions:
        """A connection for a record step that writes by itself."""
        return RecordTransactions(self.access, conn_id, Place.of(instance, generation, claim), str(claim.id))

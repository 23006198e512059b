"""How tasks reach databases to write to."""

from __future__ import annotations

from dataclasses import dataclass

from batch_provider.engine.ports import SourceAccess
from batch_provider.storage.writers.transactions import ConnectionTransaction


@dataclass(frozen=True)
class DatabaseTargets:
    """Targets behind the connections that sources use too (a Targets)."""

    access: SourceAccess

    def transaction(self, conn_id: str) -> ConnectionTransaction:
        """A connection for an aggregator that writes by itself."""
        return ConnectionTransaction(self.access, conn_id)

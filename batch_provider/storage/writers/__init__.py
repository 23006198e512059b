"""Where records go: writers that commit rows and the ids they are of in one transaction."""

from batch_provider.storage.writers.sql_table import SqlTable

__all__ = ["SqlTable"]

"""Where records go: writers that commit rows, each record exactly once."""

from batch_provider.storage.writers.parquet_files import ParquetFiles
from batch_provider.storage.writers.sql_table import SqlTable

__all__ = ["ParquetFiles", "SqlTable"]

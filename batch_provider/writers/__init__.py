"""Where records go: writers that commit rows, each record exactly once."""

from batch_provider.writers.parquet.files import ParquetFiles
from batch_provider.writers.sql.table import SqlTable

__all__ = ["ParquetFiles", "SqlTable"]

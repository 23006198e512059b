"""Rows in Parquet files, each exactly once for readers of the manifest."""

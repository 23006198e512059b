"""Reaching file systems and databases without Airflow: for tests, notebooks and ``job.run``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

from batch_provider.domain.errors import SourceError


class LocalAccess:
    """File systems through fsspec, databases through functions handed in.

    Args:
        databases: connection id → a function that opens a DB-API connection, such as
            ``{"warehouse": lambda: sqlite3.connect("warehouse.db")}``.
    """

    def __init__(self, databases: Mapping[str, Callable[[], Any]] | None = None) -> None:
        self._databases = dict(databases or {})

    def filesystem(self, url: str) -> tuple[Any, str]:
        """An fsspec file system for ``url``, chained URLs included, and the path in it."""
        from fsspec.core import url_to_fs

        filesystem, path = url_to_fs(url)
        return filesystem, path

    @contextmanager
    def database(self, conn_id: str) -> Iterator[Any]:
        """Open the connection ``conn_id``; it is closed at the end.

        Raises:
            SourceError: nobody said how to open it.
        """
        if conn_id not in self._databases:
            raise SourceError(
                f"connection {conn_id!r}",
                "connections need Airflow. Run the job in a DAG, or hand over how to open it: "
                f"LocalAccess({{{conn_id!r}: lambda: sqlite3.connect(...)}})",
                retryable=False,
            )
        with closing(self._databases[conn_id]()) as connection:
            yield connection

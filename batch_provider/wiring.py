"""The composition root: from settings to stores, and from Airflow connections to sources."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from batch_provider.config import Settings, load_settings
from batch_provider.domain.errors import InvalidOptionError
from batch_provider.domain.instance import JobInstance
from batch_provider.engine.ports.clock import SystemClock
from batch_provider.sources.access import LocalAccess
from batch_provider.storage.blobs.local import LocalBlobs
from batch_provider.storage.blobs.protocol import AgingBlobs
from batch_provider.storage.instances.catalog import Catalog
from batch_provider.storage.instances.retention import Retention
from batch_provider.storage.instances.store import InstanceStore
from batch_provider.storage.instances.tickets import Tickets


def open_blobs(settings: Settings) -> AgingBlobs:
    """The configured store.

    Raises:
        InvalidOptionError: it is the URL of an object store.
    """
    if "://" in settings.storage_path:
        raise InvalidOptionError(
            "[batch_provider] storage_path", settings.storage_path, "a directory that all workers see; no URL yet"
        )
    return LocalBlobs(settings.storage_path)


def instance_store(instance: JobInstance, settings: Settings | None = None) -> InstanceStore:
    """The files of one instance in the configured store."""
    return InstanceStore(open_blobs(settings or load_settings()), SystemClock(), instance)


def catalog(settings: Settings | None = None) -> Catalog:
    """The instances of the configured store."""
    return Catalog(open_blobs(settings or load_settings()), SystemClock())


def retention(settings: Settings | None = None) -> Retention:
    """The old parts of the configured store."""
    return Retention(open_blobs(settings or load_settings()), SystemClock())


def tickets(dag_id: str, job: str, settings: Settings | None = None) -> Tickets:
    """The order of a job's instances in the configured store."""
    return Tickets(open_blobs(settings or load_settings()), dag_id, job)


def worker_slots() -> int:
    """How many tasks can run side by side: Airflow's parallelism, at most two for each core."""
    from airflow.sdk import conf

    parallelism = conf.getint("core", "parallelism", fallback=32) or 32
    return int(min(parallelism, 2 * (os.cpu_count() or 1)))


class AirflowAccess:
    """Sources reach outside through Airflow connections (a SourceAccess)."""

    def filesystem(self, url: str) -> tuple[Any, str]:
        """``scheme://conn_id@…`` through Airflow's object storage, everything else through fsspec."""
        scheme, separator, rest = url.partition("://")
        if separator and "@" in rest.split("/", 1)[0] and "::" not in url:
            from airflow.sdk import ObjectStoragePath

            path = ObjectStoragePath(f"{scheme}://{rest}")
            return path.fs, path.path
        return LocalAccess().filesystem(url)

    @contextmanager
    def database(self, conn_id: str) -> Iterator[Any]:
        """A DB-API connection of the connection's own hook."""
        from airflow.sdk import BaseHook

        with closing(BaseHook.get_hook(conn_id).get_conn()) as connection:
            yield connection

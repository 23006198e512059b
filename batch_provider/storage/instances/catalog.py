"""Which instances there are in a store: for listings, for finding one by a part of its name, and for purge."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from batch_provider.domain.errors import InstanceNotFoundError
from batch_provider.domain.instance import JobInstance
from batch_provider.engine.ports.store import Clock
from batch_provider.storage import paths
from batch_provider.storage.blobs.protocol import Blobs
from batch_provider.storage.claims.loads import load_claims, load_of
from batch_provider.storage.instances.store import InstanceStore


@dataclass(frozen=True)
class Folder:
    """A directory of the layout that is an instance, or what is left of one.

    Attributes:
        owner: whose it is, as the latest attempt to load says; None: nobody began to load it, or purge was killed
            while it removed it.
    """

    dag_id: str
    job: str
    id: str
    owner: JobInstance | None

    @property
    def base(self) -> str:
        """Where it lies."""
        return f"{paths.ROOT}/{self.dag_id}/{self.job}/{self.id}"


class Catalog:
    """Lists a store.

    Args:
        blobs: the store.
        clock: for what is opened of it.
    """

    def __init__(self, blobs: Blobs, clock: Clock) -> None:
        self._blobs, self._clock = blobs, clock

    def folders(self, *, dag_id: str | None = None, job: str | None = None) -> Iterator[Folder]:
        """Every directory of an instance, of one DAG and job or of all, by name."""
        for found_dag in self._names(paths.ROOT, dag_id):
            for found_job in self._names(f"{paths.ROOT}/{found_dag}", job):
                for identity in self._names(f"{paths.ROOT}/{found_dag}/{found_job}", None):
                    folder = Folder(found_dag, found_job, identity, None)
                    yield Folder(found_dag, found_job, identity, self._owner(folder.base))

    def _names(self, directory: str, only: str | None) -> list[str]:
        names = [name for name in self._blobs.directories(directory) if not name.startswith(".")]
        return [name for name in names if only in (None, name)]

    def _owner(self, base: str) -> JobInstance | None:
        claims = load_claims(self._blobs, base)
        attempt = load_of(self._blobs, base, claims[-1]) if claims else None
        return attempt.instance if attempt else None

    def instances(self, *, dag_id: str | None = None, job: str | None = None) -> Iterator[InstanceStore]:
        """The store of each instance that somebody began to load."""
        for folder in self.folders(dag_id=dag_id, job=job):
            if folder.owner is not None:
                yield InstanceStore(self._blobs, self._clock, folder.owner)

    def find(self, text: str, *, dag_id: str | None = None, job: str | None = None) -> InstanceStore:
        """The one instance that ``text`` means: its id, its DAG run's id, or a part of the id.

        Raises:
            InstanceNotFoundError: there is none, or there are several.
        """
        stores = list(self.instances(dag_id=dag_id, job=job))
        owners = [store.instance for store in stores]
        for means in (
            lambda owner: owner.id == text,
            lambda owner: owner.run_id == text,
            lambda owner: text in owner.id,
        ):
            found = [store for store, owner in zip(stores, owners, strict=True) if means(owner)]
            if len(found) == 1:
                return found[0]
            if found:
                raise InstanceNotFoundError(text, [store.instance.id for store in found])
        raise InstanceNotFoundError(text, [])

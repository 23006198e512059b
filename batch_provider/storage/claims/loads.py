"""Attempts to load: the one reader and writer of their documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Self

from batch_provider.domain.documents import known_fields
from batch_provider.domain.instance import AttemptInfo, JobInstance
from batch_provider.domain.layout import ClaimId
from batch_provider.storage import paths
from batch_provider.storage.blobs.protocol import Blobs, get_json, put_json


@dataclass(frozen=True)
class LoadAttempt:
    """One attempt to load an instance.

    Attributes:
        instance: whose input.
        generation: the name of what it makes.
        info: who makes the attempt.
        started_at: when it began.
    """

    instance: JobInstance
    generation: str
    info: AttemptInfo
    started_at: datetime

    def to_json(self) -> dict[str, Any]:
        """As it stands in ``load/<claim>.json``."""
        return {
            "instance": asdict(self.instance),
            "generation": self.generation,
            "info": asdict(self.info),
            "started_at": self.started_at.isoformat(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        return cls(
            instance=JobInstance(**known_fields(JobInstance, data["instance"])),
            generation=str(data["generation"]),
            info=AttemptInfo(**known_fields(AttemptInfo, data["info"])),
            started_at=datetime.fromisoformat(data["started_at"]),
        )


def put_load(blobs: Blobs, base: str, claim: ClaimId, attempt: LoadAttempt) -> None:
    """Begin to load the instance at ``base``."""
    put_json(blobs, paths.load_file(base, claim), attempt.to_json())


def load_claims(blobs: Blobs, base: str) -> list[ClaimId]:
    """The attempts to load the instance at ``base``, oldest first."""
    return paths.load_claims(blobs.files(paths.load_dir(base)))


def load_of(blobs: Blobs, base: str, claim: ClaimId) -> LoadAttempt | None:
    """An attempt to load, or None: it was purged since it was listed."""
    try:
        return LoadAttempt.from_json(get_json(blobs, paths.load_file(base, claim)))
    except FileNotFoundError:
        return None

"""How far an attempt is: advice for other attempts, pages and the report, and the only file that is written again.

It is not synced, so a power loss can leave it empty or torn. Whoever reads it reads it here, and gets what can be read:
nothing that counts relies on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from batch_provider.domain.errors import StorageError
from batch_provider.domain.layout import ClaimId
from batch_provider.domain.tally import Tally
from batch_provider.storage import paths
from batch_provider.storage.blobs.protocol import Blobs, get_json, put_json


@dataclass(frozen=True)
class Progress:
    """What an attempt last said of its work.

    Attributes:
        round: number of results there were when it began.
        at: when it said so.
        tally: outcomes over all files of the shard, with the attempt's own work.
        fused: fused step → the attempt's own work in it.
    """

    round: int
    at: datetime
    tally: Tally
    fused: Mapping[str, Tally] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As it stands in ``progress/``."""
        fused = {"fused": {name: tally.to_json() for name, tally in self.fused.items()}} if self.fused else {}
        return {"round": self.round, "at": self.at.isoformat(), "tally": self.tally.to_json(), **fused}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: it did not write it.
        """
        return cls(
            round=int(data["round"]),
            at=datetime.fromisoformat(data["at"]),
            tally=Tally.from_json(data["tally"]),
            fused={name: Tally.from_json(tally) for name, tally in data.get("fused", {}).items()},
        )


def put_progress(blobs: Blobs, generation: str, step: str, shard_id: str, claim: ClaimId, progress: Progress) -> None:
    """Write it; it is not made durable, because it is written again in a second."""
    put_json(blobs, paths.progress_file(generation, step, shard_id, claim), progress.to_json(), durable=False)


def progress_of(blobs: Blobs, generation: str, step: str, shard_id: str, claim: ClaimId) -> Progress | None:
    """What an attempt last said, or None: it has said nothing, or it cannot be read."""
    try:
        return Progress.from_json(get_json(blobs, paths.progress_file(generation, step, shard_id, claim)))
    except (FileNotFoundError, StorageError, AttributeError, KeyError, TypeError, ValueError):
        return None


def latest_progress(blobs: Blobs, generation: str, step: str, shard_id: str) -> Progress | None:
    """What the latest attempt that said anything said, or None: it cannot be read, or there is none."""
    claims = paths.claims_among(blobs.files(paths.progress_dir(generation, step, shard_id)))
    return progress_of(blobs, generation, step, shard_id, claims[-1]) if claims else None

"""What the tests of the engine share: small jobs, a step that remembers its calls, questions to the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from batch_provider import BatchJob, JobSpec
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.storage.blobs.protocol import Blobs
from batch_provider.testing import LocalRun


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


@dataclass
class Step:
    """A step's function that remembers for which records it was called, and fails or dies at some.

    Attributes:
        fails: record ids for which it raises ValueError.
        dies_at: record id at which the process dies, once.
        returns: makes the patch.
    """

    fails: set[int] = field(default_factory=set)
    dies_at: int | None = None
    returns: Callable[[dict[str, Any]], Any] | None = None
    seen: list[int] = field(default_factory=list)

    def __call__(self, record: dict[str, Any], record_id: int) -> Any:
        if record_id == self.dies_at:
            self.dies_at = None
            raise Killed
        self.seen.append(record_id)
        if record_id in self.fails:
            raise ValueError(f"record {record_id} is bad")
        return self.returns(record) if self.returns else None

    def forget(self) -> list[int]:
        """What was seen since the last time."""
        seen, self.seen = self.seen, []
        return seen


class DyingBlobs(MemoryBlobs):
    """A store in which the process dies at a write.

    Attributes:
        left: writes until it dies; None: it does not.
        after: the write that kills is done, or not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.left: int | None = None
        self.after = False

    def put(self, name: str, data: Any, **options: Any) -> None:
        dies = self.left == 0
        if self.left is not None:
            self.left = None if dies else self.left - 1
        if not dies or self.after:
            super().put(name, data, **options)
        if dies:
            raise Killed


def job_of(*steps: Callable[..., Any] | tuple[Callable[..., Any], dict[str, Any]], **options: Any) -> JobSpec:
    """A job named ``job`` whose steps are ``s1``, ``s2``, …; a pair is a function and its options.

    It never stops at failures unless a limit is given.
    """
    options.setdefault("max_failed_records", -1)
    job = BatchJob("job", **options)
    for number, declared in enumerate(steps, 1):
        function, own = declared if isinstance(declared, tuple) else (declared, {})
        job.step(**{"name": f"s{number}", **own})(function)
    return job.spec


def numbers(count: int) -> list[dict[str, int]]:
    """Records whose ``n`` is their id."""
    return [{"n": n} for n in range(count)]


def outcomes(run: LocalRun, step: str) -> dict[int, str]:
    """Record id → its outcome in a step, as the ledger says."""
    return dict(run.query(f"SELECT record_id, outcome FROM outcomes WHERE step = '{step}' ORDER BY 1"))


def with_outcome(run: LocalRun, step: str, outcome: str) -> set[int]:
    """Ids of the records that have this outcome in a step."""
    return {record for record, found in outcomes(run, step).items() if found == outcome}


def failures(run: LocalRun) -> list[tuple[Any, ...]]:
    """(record id, step, type, message) of every failure, in order."""
    return run.query("SELECT record_id, step, error_type, message FROM failures ORDER BY 1, step")


def checkpoint_files(blobs: Blobs, run: LocalRun, step: str, shard: str = "01") -> list[str]:
    """Full names of the checkpoint files of a step."""
    directory = f"{run.generation.base}/steps/{step}/{shard}"
    return [f"{directory}/{name}" for name in blobs.files(directory)]


def spans(names: Iterable[str]) -> list[tuple[int, int]]:
    """First and last id of each of these checkpoint files."""
    plain = [name.rpartition("/")[2] for name in names]
    return [(int(name[:12]), int(name[13:25])) for name in plain]

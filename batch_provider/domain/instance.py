"""One execution of a job over one loaded input, and what is written down about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from batch_provider.domain.documents import known_fields
from batch_provider.domain.layout import ClaimId, FileRef, ShardRef, Span
from batch_provider.domain.names import check_name, check_path_part
from batch_provider.domain.outcome import CloseOutcome
from batch_provider.domain.references import InputReference
from batch_provider.domain.tally import Tally

LAYOUT_VERSION = 1


@dataclass(frozen=True)
class JobInstance:
    """Who an instance is: survives retries and clears of its DAG run.

    Attributes:
        id: the job instance id (Mule's ``batchJobInstanceId``).
        dag_id, run_id, job: its owner; another owner of the same id is refused.
        business_date: ISO date the run stands for, if one is known.
    """

    id: str
    dag_id: str
    run_id: str
    job: str
    business_date: str | None = None

    def __post_init__(self) -> None:
        """Refuse ids that may not stand in a path."""
        check_path_part("job_instance_id", self.id)
        check_path_part("dag_id", self.dag_id)
        check_name("job name", self.job)

    @property
    def owner(self) -> str:
        """For messages."""
        return f"DAG {self.dag_id!r}, run {self.run_id!r}, job {self.job!r}"


@dataclass(frozen=True)
class AttemptInfo:
    """What is known of the process that makes an attempt.

    Attributes:
        round_token: tells a retry (same token) from a clear or a new run (another one).
        host, pid, try_number: for the report.
        task_id, map_index: the Airflow task, for whoever has to clear it; empty and -1 outside of Airflow.
    """

    round_token: str = "local"  # noqa: S105  # no secret: it names a round
    host: str = ""
    pid: int = 0
    try_number: int = 1
    task_id: str = ""
    map_index: int = -1


@dataclass(frozen=True)
class Manifest:
    """What a load committed, written last: without it there is no instance.

    Attributes:
        generation: ``g<n>-<8 hex>``, the plan id that tasks pass through XCom.
        load: the load attempt that made it.
        round_token: of that attempt; a retry with the same token returns this generation.
        total, failed_on_input: records, and how many of them failed in the input phase.
        shards, files: id ranges of the mapped tasks, and the input's files.
        references: the files that the input is read from where they are (``copy=False``); there are no ``files`` then.
        columns: name → Arrow type of the input's columns, for readers.
        steps: what writes checkpoints, in order: name, options as text, and the names of the ``steps`` fused in it.
        variables: what every record's variables start with.
        created_at: ISO time of the commit; ``seconds``: how long the load took.
    """

    instance: JobInstance
    generation: str
    load: ClaimId
    round_token: str
    total: int
    failed_on_input: int
    shards: tuple[ShardRef, ...]
    files: tuple[FileRef, ...]
    columns: Mapping[str, str]
    steps: tuple[Mapping[str, Any], ...]
    variables: Mapping[str, Any]
    source: str
    created_at: str
    seconds: float
    input_errors: Mapping[str, int] = field(default_factory=dict)
    references: tuple[InputReference, ...] = ()
    version: int = LAYOUT_VERSION

    @property
    def input_spans(self) -> list[Span]:
        """The ids of every file of the input, or of every part of what it refers to."""
        parts = [part.span for reference in self.references for part in reference.parts]
        return [*(file.span for file in self.files), *parts]

    @property
    def step_names(self) -> tuple[str, ...]:
        """Every step in order, fused ones by their own names."""
        return tuple(name for step in self.steps for name in self.fused(str(step["name"])))

    def fused(self, name: str) -> tuple[str, ...]:
        """The steps that share the checkpoints of that name; most often just the step itself."""
        for step in self.steps:
            if step["name"] == name:
                return tuple(step.get("steps", (name,)))
        return (name,)

    def shard(self, shard_id: str) -> ShardRef:
        """The shard of that id.

        Raises:
            KeyError: this generation has none of that id.
        """
        for shard in self.shards:
            if shard.id == shard_id:
                return shard
        raise KeyError(shard_id)

    def to_json(self) -> dict[str, Any]:
        """As it stands in ``manifest.json``."""
        return {
            **vars(self),
            "instance": asdict(self.instance),
            "load": str(self.load),
            "shards": [shard.to_json() for shard in self.shards],
            "files": [file.name for file in self.files],
            "columns": dict(self.columns),
            "steps": [dict(step) for step in self.steps],
            "variables": dict(self.variables),
            "input_errors": dict(self.input_errors),
            "references": [reference.to_json() for reference in self.references],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        return cls(
            **{
                **known_fields(cls, data),
                "instance": JobInstance(**known_fields(JobInstance, data["instance"])),
                "load": ClaimId.parse(data["load"]),
                "shards": tuple(map(ShardRef.from_json, data["shards"])),
                "files": file_refs(data["files"]),
                "steps": tuple(data["steps"]),
                "references": tuple(map(InputReference.from_json, data.get("references", ()))),
            }
        )


@dataclass(frozen=True)
class Pin:
    """The close of one step that a later reader read, and therefore goes on reading."""

    step: str
    claim: ClaimId

    def to_json(self) -> dict[str, str]:
        """As it stands in claims."""
        return {"step": self.step, "claim": str(self.claim)}

    @classmethod
    def from_json(cls, data: Mapping[str, str]) -> Self:
        """Read what :meth:`to_json` wrote."""
        return cls(data["step"], ClaimId.parse(data["claim"]))


@dataclass(frozen=True)
class Claim:
    """The right of one attempt to write the output of (step, shard).

    Attributes:
        since: epoch of the first claim of this redrive; a failed row that was made before it is tried again.
        adopted: verified files of earlier claims that it builds on.
        upstream: the close of the step before that it reads; None: it reads the input.
        round: number of sealed results there were; limits and progress count within one round.
        fingerprint: of the code that the attempt runs; empty: not known.
    """

    id: ClaimId
    step: str
    shard: str
    since: int
    adopted: tuple[FileRef, ...]
    upstream: Pin | None
    round: int
    info: AttemptInfo
    started_at: str
    fingerprint: str = ""

    def to_json(self) -> dict[str, Any]:
        """As it stands in ``claims/``."""
        return {
            **vars(self),
            "id": str(self.id),
            "adopted": [file.name for file in self.adopted],
            "upstream": self.upstream.to_json() if self.upstream else None,
            "info": asdict(self.info),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        return cls(
            **{
                **known_fields(cls, data),
                "id": ClaimId.parse(data["id"]),
                "adopted": file_refs(data["adopted"]),
                "upstream": Pin.from_json(data["upstream"]) if data["upstream"] else None,
                "info": AttemptInfo(**known_fields(AttemptInfo, data["info"])),
            }
        )


@dataclass(frozen=True)
class Close:
    """The end of an attempt: the files of the whole tiling, and what it did.

    Attributes:
        tally: of the whole tiling by outcome, with the attempt's own work (``processed``, ``seconds``, …).
        reason: why it stopped, for outcomes other than ``done``.
        stacks: exception type → the stack of the first of its kind.
        fused: fused step → the attempt's own work in it.
    """

    claim: ClaimId
    step: str
    shard: str
    outcome: CloseOutcome
    files: tuple[FileRef, ...]
    tally: Tally
    info: AttemptInfo
    started_at: str
    ended_at: str
    fingerprint: str
    reason: str = ""
    stacks: Mapping[str, str] = field(default_factory=dict)
    fused: Mapping[str, Tally] = field(default_factory=dict)

    def work_in(self, step: str) -> Tally:
        """What the attempt itself did in a step, which may be one of several that share its checkpoints."""
        return self.tally if step == self.step else self.fused.get(step, Tally())

    def to_json(self) -> dict[str, Any]:
        """As it stands in ``attempts/``."""
        return {
            **vars(self),
            "claim": str(self.claim),
            "files": [file.name for file in self.files],
            "tally": self.tally.to_json(),
            "info": asdict(self.info),
            "fused": {name: tally.to_json() for name, tally in self.fused.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        return cls(
            **{
                **known_fields(cls, data),
                "claim": ClaimId.parse(data["claim"]),
                "outcome": CloseOutcome(data["outcome"]),
                "files": file_refs(data["files"]),
                "tally": Tally.from_json(data["tally"]),
                "info": AttemptInfo(**known_fields(AttemptInfo, data["info"])),
                "fused": {name: Tally.from_json(tally) for name, tally in data.get("fused", {}).items()},
            }
        )


def file_refs(names: list[str]) -> tuple[FileRef, ...]:
    """The files of these names.

    Raises:
        ValueError: one is not a checkpoint's file name.
    """
    refs = [FileRef.parse(name) for name in names]
    if None in refs:
        raise ValueError(f"not a checkpoint file name: {names[refs.index(None)]!r}")
    return tuple(ref for ref in refs if ref is not None)

"""Every path of the layout, formatted in one place (docs/layout.md)."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable

from batch_provider.domain.instance import LAYOUT_VERSION, JobInstance
from batch_provider.domain.layout import ClaimId, FileRef

ROOT = f"v{LAYOUT_VERSION}"
INPUT = "input"

_GENERATION = re.compile(r"g(\d+)-[0-9a-f]{8}")
_RESULT = re.compile(r"result\.(\d{6}-[0-9a-f]{8})\.json")


def instance_dir(instance: JobInstance) -> str:
    """Everything of one instance."""
    return f"{ROOT}/{instance.dag_id}/{instance.job}/{instance.id}"


def tickets_dir(dag_id: str, job: str) -> str:
    """The order of a job's instances; no instance id begins with a dot."""
    return f"{ROOT}/{dag_id}/{job}/.tickets"


def new_generation(present: list[str]) -> str:
    """The name of the generation after those ``present``."""
    return f"g{max((generation_number(name) or 0 for name in present), default=0) + 1}-{secrets.token_hex(4)}"


def generation_number(name: str) -> int | None:
    """The n of ``g<n>-<8 hex>``, or None for another name."""
    match = _GENERATION.fullmatch(name)
    return int(match[1]) if match else None


def load_dir(base: str) -> str:
    """The attempts to load."""
    return f"{base}/load"


def load_claims(names: Iterable[str]) -> list[ClaimId]:
    """The attempts to load among the files of :func:`load_dir`, lowest first."""
    return claims_among(name for name in names if not name.endswith(".failed.json"))


def load_file(base: str, claim: ClaimId) -> str:
    """An attempt to load."""
    return f"{load_dir(base)}/{claim}.json"


def load_failure(base: str, claim: ClaimId) -> str:
    """Why an attempt to load failed."""
    return f"{load_dir(base)}/{claim}.failed.json"


def stops_dir(generation: str) -> str:
    """The requests to stop."""
    return f"{generation}/stop"


def stop_file(generation: str, name: str) -> str:
    """A request to stop."""
    return f"{stops_dir(generation)}/{name}.json"


def manifest_file(generation: str) -> str:
    """What the load committed, written last."""
    return f"{generation}/{manifest_name()}"


def manifest_name() -> str:
    """Of the file without which there is no generation."""
    return "manifest.json"


def output_dir(generation: str, step: str, shard: str) -> str:
    """The checkpoints of (step, shard); the input is not divided by shard (ADR 0006)."""
    return f"{generation}/{INPUT}" if step == INPUT else f"{generation}/steps/{step}/{shard}"


def output_file(generation: str, step: str, shard: str, file: FileRef) -> str:
    """One checkpoint, or one file of the input."""
    return f"{output_dir(generation, step, shard)}/{file.name}"


def claims_dir(generation: str, step: str, shard: str) -> str:
    """Who may write (step, shard)."""
    return f"{generation}/claims/{step}/{shard}"


def claim_file(generation: str, step: str, shard: str, claim: ClaimId) -> str:
    """One claim."""
    return f"{claims_dir(generation, step, shard)}/{claim}.json"


def claims_among(names: Iterable[str]) -> list[ClaimId]:
    """The claims that files are named after (``<c>.json``), lowest first."""
    return sorted(ClaimId.parse(name.removesuffix(".json")) for name in names)


def closes_dir(generation: str, step: str, shard: str) -> str:
    """The ends of the attempts at (step, shard)."""
    return f"{generation}/attempts/{step}/{shard}"


def close_file(generation: str, step: str, shard: str, claim: ClaimId) -> str:
    """The end of an attempt."""
    return f"{closes_dir(generation, step, shard)}/{claim}.json"


def progress_dir(generation: str, step: str, shard: str) -> str:
    """How far the attempts at (step, shard) are."""
    return f"{generation}/progress/{step}/{shard}"


def progress_file(generation: str, step: str, shard: str, claim: ClaimId) -> str:
    """How far an attempt is."""
    return f"{progress_dir(generation, step, shard)}/{claim}.json"


def result_file(generation: str, claim: ClaimId) -> str:
    """The report."""
    return f"{generation}/result.{claim}.json"


def result_claim(name: str) -> ClaimId | None:
    """The claim in a result's file name, or None for another file."""
    match = _RESULT.fullmatch(name)
    return ClaimId.parse(match[1]) if match else None

"""The instances of a store: loading one, finding its generations, reading its result."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime

import pyarrow as pa

from batch_provider.domain.errors import DuplicateInstanceError, FencedError, InvalidOptionError, NotLoadedError
from batch_provider.domain.instance import AttemptInfo, JobInstance, Manifest
from batch_provider.domain.layout import ClaimId, FileRef, Span
from batch_provider.domain.names import RESERVED_COLUMNS
from batch_provider.domain.outcome import JobState
from batch_provider.domain.result import BatchJobResult
from batch_provider.domain.tally import Tally
from batch_provider.engine.ports.store import Clock
from batch_provider.storage import paths
from batch_provider.storage.blobs.protocol import Blobs, get_json, put_json
from batch_provider.storage.claims.generation import Generation
from batch_provider.storage.claims.loads import LoadAttempt, load_claims, load_of, put_load
from batch_provider.storage.claims.stored import StoredGeneration
from batch_provider.storage.instances.stale import staleness
from batch_provider.storage.reading.checkpoint_file import Footer, encode


@dataclass(frozen=True)
class LoadFailure:
    """Why the latest attempt to load failed."""

    state: JobState
    error_type: str
    message: str
    at: str


class LoadWork:
    """One attempt to load: writes the input's files, then the manifest."""

    def __init__(self, store: InstanceStore, claim: ClaimId, generation: str, info: AttemptInfo) -> None:
        self.claim, self.generation, self.info = claim, generation, info
        self._store = store
        self._base = f"{store.base}/{generation}"
        self.files: list[FileRef] = []

    def write(self, table: pa.Table, span: Span, tally: Tally) -> None:
        """Write a run of the input's records; nothing reads it before :meth:`commit`."""
        owners = {name: paths.INPUT for name in table.column_names if name not in RESERVED_COLUMNS - {"_kept"}}
        buffer, digest = encode(table, Footer(paths.INPUT, owners, tally))
        file = FileRef(span, self.claim, digest)
        self._store.blobs.put(paths.output_file(self._base, paths.INPUT, "", file), buffer)
        self.files.append(file)  # in any order: several threads write

    def commit(self, manifest: Manifest) -> None:
        """Make everything durable, then write the manifest: from now on there is an instance.

        Raises:
            FencedError: a later attempt to load has started; this one does not count.
        """
        highest = self._store.load_claims()[-1]
        if highest != self.claim:
            raise FencedError("load", "all", str(self.claim), str(highest))
        self._store.blobs.sync()
        put_json(self._store.blobs, paths.manifest_file(self._base), manifest.to_json())
        self._store.blobs.sync()

    def fail(self, state: JobState, error_type: str, message: str, at: str) -> None:
        """Remove what was half made and write down why."""
        failure = LoadFailure(state, error_type, message, at)
        self._store.blobs.delete(self._base)
        put_json(self._store.blobs, paths.load_failure(self._store.base, self.claim), asdict(failure))
        self._store.blobs.sync()


class InstanceStore:
    """The files of one job instance."""

    def __init__(self, blobs: Blobs, clock: Clock, instance: JobInstance) -> None:
        self.blobs, self.clock, self.instance = blobs, clock, instance
        self.base = paths.instance_dir(instance)

    # --- loading ----------------------------------------------------------------------------------------------

    def begin_load(self, info: AttemptInfo) -> LoadWork | Manifest:
        """Start an attempt to load, or return what an earlier try of the same task has committed.

        Raises:
            DuplicateInstanceError: the id belongs to another DAG, run or job; nothing was created.
        """
        self._refuse_other_owners()
        claims = self.load_claims()
        if manifest := self._committed(claims, info):
            return manifest
        claim = ClaimId.next(claims[-1] if claims else None)
        generation = paths.new_generation(self.blobs.directories(self.base))
        name = paths.load_file(self.base, claim)
        put_load(self.blobs, self.base, claim, LoadAttempt(self.instance, generation, info, self.clock.now()))
        try:
            self._refuse_other_owners()
        except DuplicateInstanceError:
            self.blobs.delete(name)
            raise
        if manifest := self._committed([each for each in self.load_claims() if each != claim], info):
            self.blobs.delete(name)  # it was committed while this attempt stood still (ADR 0018)
            return manifest
        return LoadWork(self, claim, generation, info)

    def _committed(self, claims: Sequence[ClaimId], info: AttemptInfo) -> Manifest | None:
        """What the last of these attempts to load committed, if it was one of the same round."""
        manifest = self.manifest_of(claims[-1]) if claims else None
        if manifest is None or manifest.round_token != info.round_token:
            return None
        self.blobs.sync([paths.manifest_file(f"{self.base}/{manifest.generation}")])
        return manifest

    def _refuse_other_owners(self) -> None:
        """Of two owners that claim one id at the same moment at most one goes on; it may be that neither does.

        Each looks again after it has put its claim, so the one that puts it last sees the other. To let the lower
        claim win would be wrong: it may be put after the holder of the higher one has looked.
        """
        for dag_id in self.blobs.directories(paths.ROOT):
            for job in self.blobs.directories(f"{paths.ROOT}/{dag_id}"):
                base = f"{paths.ROOT}/{dag_id}/{job}/{self.instance.id}"
                for claim in load_claims(self.blobs, base):
                    attempt = load_of(self.blobs, base, claim)
                    if attempt and attempt.instance.owner != self.instance.owner:
                        raise DuplicateInstanceError(self.instance.id, attempt.instance.owner)

    def load_claims(self) -> list[ClaimId]:
        """Attempts to load, oldest first."""
        return load_claims(self.blobs, self.base)

    def manifest_of(self, claim: ClaimId) -> Manifest | None:
        """What an attempt to load committed, or None."""
        try:
            return self.generation(self.generation_name(claim)).manifest
        except FileNotFoundError:
            return None

    def generation_name(self, claim: ClaimId) -> str:
        """Which generation an attempt to load writes.

        Raises:
            FileNotFoundError: it was purged since it was listed.
        """
        if (attempt := load_of(self.blobs, self.base, claim)) is None:
            raise FileNotFoundError(paths.load_file(self.base, claim))
        return attempt.generation

    def load_started(self) -> datetime:
        """When the latest attempt to load began.

        Raises:
            LookupError: there was none.
        """
        claims = self.load_claims()
        attempt = load_of(self.blobs, self.base, claims[-1]) if claims else None
        if attempt is None:
            raise LookupError(f"nobody began to load instance {self.instance.id!r}")
        return attempt.started_at

    def load_failure(self) -> LoadFailure | None:
        """Why the latest attempt to load failed, if it did: another owner's id is never loaded."""
        try:
            self._refuse_other_owners()
        except DuplicateInstanceError as error:
            at = self.clock.now().isoformat()
            return LoadFailure(JobState.FAILED_INPUT, type(error).__name__, str(error), at)
        claims = self.load_claims()
        if not claims:
            return None
        try:
            data = get_json(self.blobs, paths.load_failure(self.base, claims[-1]))
        except FileNotFoundError:
            return None
        return LoadFailure(JobState(data["state"]), data["error_type"], data["message"], data["at"])

    def load_problem(self) -> LoadFailure | None:
        """Why there is nothing to work on: the latest attempt to load failed, or there is no trace of any."""
        if (failure := self.load_failure()) is not None or self.load_claims():
            return failure
        reason = (
            f"nothing of the instance is in {self.blobs.address(self.base)}: its load task never began, it was purged, "
            "or [batch_provider] storage_path is another one here. Clear the load task with Downstream."
        )
        return LoadFailure(JobState.FAILED_LOADING, NotLoadedError.__name__, reason, self.clock.now().isoformat())

    def not_loaded(self) -> NotLoadedError:
        """For those who want something done with what is not there."""
        problem = self.load_problem()
        if problem is None:
            return NotLoadedError(self.instance.id)
        if not self.load_claims():
            return NotLoadedError(self.instance.id, problem.message)
        older = self.generations()
        also = f" What was loaded before is kept for reading only: generation {older[-1]}." if older else ""
        reason = (
            f"its latest load failed ({problem.error_type}: {problem.message.removesuffix('.')}). Put the input right "
            f"and clear the load task with Downstream.{also}"
        )
        return NotLoadedError(self.instance.id, reason)

    # --- reading ----------------------------------------------------------------------------------------------

    def generations(self) -> list[str]:
        """The names of all that was loaded and is kept, oldest first; a load that failed has none."""
        names = [name for name in self.blobs.directories(self.base) if paths.generation_number(name)]
        loaded = [name for name in names if paths.manifest_name() in self.blobs.files(f"{self.base}/{name}")]
        return sorted(loaded, key=lambda name: paths.generation_number(name) or 0)

    def current(self) -> str:
        """The name of the generation that the latest attempt to load made, makes or would have made.

        Raises:
            LookupError: nobody began to load.
        """
        return self.generation_name(self.load_claims()[-1])

    def named(self, generation: str) -> Generation:
        """An older generation, or the latest, for reading.

        Raises:
            InvalidOptionError: there is none of that name.
        """
        if generation not in (known := self.generations()):
            raise InvalidOptionError(
                "generation", generation, f"one of {', '.join(known) or 'none: nothing is loaded'}"
            )
        return self.generation(generation)

    def generation(self, name: str) -> Generation:
        """A generation by its name."""
        return Generation(self.blobs, self.clock, f"{self.base}/{name}")

    def latest(self) -> Generation | None:
        """The generation of the latest attempt to load, if that one is committed and not another owner's."""
        claims = self.load_claims()
        manifest = self.manifest_of(claims[-1]) if claims else None
        if manifest is None or manifest.instance.owner != self.instance.owner:
            return None
        return self.generation(manifest.generation)

    def result(self, generation: str | None = None) -> BatchJobResult | None:
        """The latest result of a generation (default: of the latest load), or None while there is none.

        Its ``stale`` says if a step was run again after it.
        """
        found = self.named(generation) if generation else self.latest()
        result = read_result(found) if found else None
        return replace(result, stale=staleness(found, result)) if found and result else None

    def request_stop(self, reason: str, *, by: str = "") -> str:
        """Ask the instance to stop at the next block boundary; returns the name of the request.

        It holds until a result answers it: one that comes too late stops the next rerun.

        Raises:
            NotLoadedError: nothing is loaded yet, so there is nothing to stop.
        """
        generation = self.latest()
        if generation is None:
            raise self.not_loaded()
        name = str(uuid.uuid4())
        document = {"reason": reason, "by": by, "at": self.clock.now().isoformat()}
        put_json(self.blobs, paths.stop_file(generation.base, name), document)
        self.blobs.sync()
        return name


def read_result(generation: StoredGeneration, claim: ClaimId | None = None) -> BatchJobResult | None:
    """A result of a generation as it was written, the latest one by default; None: there is none."""
    found = claim or next(iter(generation.result_claims()[::-1]), None)
    if found is None:
        return None
    return BatchJobResult.from_json(get_json(generation.blobs, paths.result_file(generation.base, found)))


def rounds_reported(generation: StoredGeneration) -> int:
    """How many rounds have a result: one that counts the same attempts as the one before it is of the same round."""
    found = [read_result(generation, claim) for claim in generation.result_claims()]
    closes = [result.closes for result in found if result is not None]
    return sum(at == 0 or counted != closes[at - 1] for at, counted in enumerate(closes))

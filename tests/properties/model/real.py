"""A drawn job in the product, and what is to be seen of it."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batch_provider import BatchJobResult
from batch_provider.domain.fused import FusedStep, checkpoint_steps
from batch_provider.engine.complete.complete import complete
from batch_provider.sources.access import LocalAccess
from batch_provider.storage.blobs.disk import Disk
from batch_provider.storage.instances.completion import Completion
from batch_provider.testing import FakeClock, Fault, Faults, FaultyAccess, FaultyBlobs, LocalRun, MemoryBlobs, Point
from batch_provider.writers.targets import DatabaseTargets
from tests.properties.model.author import Author
from tests.properties.model.functions import plain
from tests.properties.model.plan import PAYLOAD, Job, Killed, World

OUTCOMES = ("NOT_RUN", "SUCCEEDED", "FAILED", "SKIPPED")


class QuickDisk(Disk):
    """A disk that is not waited for: no power is lost here."""

    def sync(self, path: Path) -> None:
        """Nothing."""


def counted(*counts: int) -> dict[str, int]:
    """Outcome → how many, without those that nobody has."""
    return {name: count for name, count in zip(OUTCOMES, counts, strict=False) if count}


def payload_of(letter: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Of a dead letter, kept values in their place."""
    whole = {**letter, **json.loads(letter.get("_kept") or "{}")}
    return tuple(plain({name: value for name, value in whole.items() if not name.startswith("_")}).items())


class WithoutLedger(Completion):
    """A store of results that makes no ledger."""

    def put_ledger(self, claim: Any, result: BatchJobResult, closes: Any) -> None:
        """Nothing."""


class Real:
    """The job in the product.

    Args:
        job: what is drawn.
        folder: for its database and its files.
    """

    def __init__(self, job: Job, folder: Path) -> None:
        self.job, self.folder, self.world = job, folder, World()
        self.author = Author(job, self.world, folder)
        faults = Faults(Fault("*", self.die, times=None))
        self.commits = 0
        self.names: dict[str, str] = {}
        self.has_ledger = job.seed % 100 == 0
        access = self.access = FaultyAccess(LocalAccess({"db": self.connect}), faults, disk=QuickDisk())
        self.prepare()
        self.run = LocalRun(
            self.author.spec(),
            store=FaultyBlobs(MemoryBlobs(), faults) if any(each.crashes for each in job.rounds) else MemoryBlobs(),
            clock=FakeClock(tick_seconds=5),
            access=access,
            shards=job.shards,
        )
        self.world.on_stop = lambda: self.run.store.request_stop("somebody asked") and None
        self.names = {
            step.name: step.steps[0].name if isinstance(step, FusedStep) else step.name
            for step in checkpoint_steps(self.run.job)
        }

    def connect(self) -> sqlite3.Connection:
        """The database, which is not waited for."""
        connection = sqlite3.connect(self.folder / "db")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA journal_mode = MEMORY")
        return connection

    def prepare(self) -> None:
        """The tables."""
        steps = [step for step in self.job.steps if step.kind == "table" or step.transaction]
        if not steps:
            return
        with closing(self.connect()) as connection:
            for step in steps:
                if step.transaction:
                    connection.execute(f"CREATE TABLE log_{step.name} (id INTEGER)")
                    continue
                unique = f", UNIQUE ({step.key})" if step.key else ", UNIQUE (k)" if step.unique else ""
                connection.execute(
                    f"CREATE TABLE rows_{step.name} (id INTEGER NOT NULL, n INTEGER CHECK (n < {step.bound}), t TEXT,"
                    f" k INTEGER NOT NULL, a INTEGER{unique})"
                )
            connection.commit()

    def die(self, point: Point) -> None:
        """The process dies here, if that is the plan."""
        crash = self.world.crash
        if crash is None:
            return
        if crash.kind == "commit" and point.action == "commit":
            self.world.reach("commit", "", 0, point.when)
        elif crash.kind == "put" and point.action == "put" and "/steps/" in point.name:
            _, _, tail = point.name.partition("/steps/")
            step, shard, _ = tail.split("/")
            self.world.reach("put", self.names[step], int(shard) - 1, point.when)

    def round(self, number: int) -> dict[str, Any]:
        """Process, with deaths and retries, and complete; returns what is to be seen."""
        plan = self.job.rounds[number]
        self.world.round, self.world.stop = number, plan.stop
        self.world.begin(None)
        if number:
            self.run.job = self.author.spec()
            self.run.next_round()
        else:
            self.run.load(self.author.source())
        for crash in (*plan.crashes, None):
            self.world.begin(crash)
            try:
                self.run.process_all()
                break
            except Killed:
                self.world.life += 1
        self.world.begin(None)
        return self.result()

    def result(self) -> dict[str, Any]:
        """The report, the checkpoints as docs/layout.md says they are read, the payloads and what was written."""
        self.generation = self.run.generation
        result = self.complete()
        outcomes, failures = self.account(result)
        final = counted(result.not_run_records, result.successful_records, result.failed_records)
        steps = {s.name: counted(s.not_run, s.successful, s.failed, s.skipped) for s in result.steps}
        errors: Counter[tuple[str, str]] = Counter()
        for error in result.errors:  # checks of a step are told apart by their message
            errors[error.step, error.exception] += error.count
        letters = [row for name in result.dead_letters for row in self.table(name).to_pylist()]
        ends = {self.close(name)["outcome"] for name in result.closes}
        is_done = ends <= {"done"} and not any("NOT_RUN" in tally for tally in steps.values())
        return {
            "state": str(result.state),
            "final": final,
            "steps": steps,
            "errors": dict(errors),
            "outcomes": outcomes,
            "failures": sorted(failures),
            "letters": sorted((r["_id"], r["_step"], r["_error_type"], payload_of(r)) for r in letters),
            "older": {s.name: n for s in result.steps if (n := sum(s.older_code.values()))},
            "given_up": {step.name: step.given_up for step in result.steps if step.given_up},
            "output": dict(enumerate(map(plain, self.run.output()))) if is_done else None,
            "tables": dict(self.rows("table")),
            "log": dict(self.rows("log")),
            "files": dict(self.files()) if is_done else None,
        }

    def complete(self) -> BatchJobResult:
        """On complete; most jobs without the ledger, which would cost more than all the rest."""
        if self.has_ledger:
            return self.run.complete()
        completion = WithoutLedger(self.generation)
        targets = DatabaseTargets(self.access)
        return complete(self.run.job, completion, info=self.run.info, clock=self.run.clock, targets=targets)

    def table(self, name: str) -> pa.Table:
        """A Parquet file of the generation."""
        found = self.generation.blobs.get(f"{self.generation.base}/{name}")
        return pq.ParquetFile(pa.BufferReader(found)).read(use_threads=False)

    def close(self, name: str) -> dict[str, Any]:
        """How an attempt ended."""
        generation = self.generation
        return json.loads(bytes(generation.blobs.get(f"{generation.base}/attempts/{name}.json")))  # type: ignore[no-any-return]

    def account(self, result: BatchJobResult) -> tuple[dict[tuple[str, int], str], list[tuple[int, str, str]]]:
        """(step, record) → outcome, and the failures; the ledger, where there is one, says the same."""
        manifest = self.generation.manifest
        outcomes: dict[tuple[str, int], str] = {}
        failures: list[tuple[int, str, str]] = []
        for name in manifest.files:
            rows = self.table(f"input/{name.name}").to_pylist()
            failures += [(row["_id"], "input", row["_error"]["type"]) for row in rows if row.get("_error")]
        for shard in manifest.shards:
            above = dict.fromkeys(range(shard.span.first, shard.span.last + 1), 0)
            for entry in manifest.steps:
                steps = manifest.fused(entry["name"])
                rows = self.rows_of(result, entry["name"], shard.id)
                rows = {number: row for number, row in rows.items() if row["_in"] == above.get(number)}
                for number in range(shard.span.first, shard.span.last + 1):
                    row = rows.get(number)
                    for at, step in enumerate(steps):
                        packed = 0 if row is None else row["_outcomes"] >> 2 * at if len(steps) > 1 else row["_status"]
                        bits = packed & 3
                        outcomes[step, number] = OUTCOMES[bits]
                        if bits == OUTCOMES.index("FAILED"):
                            failures.append((number, step, row["_error"]["type"]))
                above = {number: row["_out"] for number, row in rows.items()}
        if self.has_ledger:
            said = self.run.query("SELECT step, record_id, outcome FROM outcomes WHERE step <> 'input'")
            assert {(step, number): outcome for step, number, outcome in said} == outcomes, "the ledger is another one"
            said = self.run.query("SELECT record_id, step, error_type FROM failures")
            assert sorted(said) == sorted(failures), "the failures in the ledger are others"
        return outcomes, failures

    def rows_of(self, result: BatchJobResult, step: str, shard: str) -> dict[int, dict[str, Any]]:
        """The rows that count, by the number of their record."""
        (close,) = [name for name in result.closes if name.startswith(f"{step}/{shard}/")]
        tables = [self.table(f"steps/{step}/{shard}/{name}") for name in self.close(close)["files"]]
        wanted = ("_id", "_in", "_out", "_status", "_outcomes", "_error")
        found = [table.select([n for n in wanted if n in table.column_names]).to_pylist() for table in tables]
        return {row["_id"]: row for rows in found for row in rows}

    def rows(self, what: str) -> Iterator[tuple[str, list[str]]]:
        """What stands in the database."""
        for step in self.job.steps:
            if step.kind != "table" and not (what == "log" and step.transaction):
                continue
            if (step.kind == "table") is (what == "log"):
                continue
            with closing(self.connect()) as connection:
                columns = step.columns or PAYLOAD
                query = "SELECT id FROM log_" if what == "log" else f"SELECT {', '.join(columns)} FROM rows_"
                found = connection.execute(query + step.name).fetchall()
            if found:
                shown = found if what == "log" else [tuple(zip(columns, row, strict=True)) for row in found]
                yield step.name, sorted(map(repr, shown))

    def files(self) -> Iterator[tuple[str, list[str]]]:
        """What readers of the manifests see."""
        for step in self.job.steps:
            if step.kind == "files":
                parts = self.author.lake(step).read_manifest()
                rows = [row for part in parts for row in pq.ParquetFile(part).read(use_threads=False).to_pylist()]
                yield step.name, sorted(repr(plain(row)) for row in rows)

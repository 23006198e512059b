"""The job of the crash suite: every kind of step, an input with bad lines, two ways into a database."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb  # noqa: F401  # not opened here: only so that no forked process has to import it
import pyarrow.parquet as pq

from batch_provider import AcceptPolicy, BatchJob, BatchJobResult, Files, JobSpec, ParquetFiles, SqlTable
from batch_provider.domain.fused import checkpoint_steps
from batch_provider.engine.ports.clock import SystemClock
from batch_provider.sources.access import LocalAccess
from batch_provider.storage.blobs.disk import Disk
from batch_provider.storage.blobs.local import LocalBlobs
from batch_provider.testing import Fault, Faults, FaultyAccess, FaultyDisk, LocalRun, kill, stop
from tests.crash.power import VolatileDisk

RECORDS, SHARDS, BLOCK = 64, 2, 8
GOOD_LINES = RECORDS - 2
MALFORMED = (20, 50)
"""Lines with a column too many; their records come last in the input's order or where the reader puts them."""

TABLES = (
    "CREATE TABLE IF NOT EXISTS orders (n INTEGER, price INTEGER, total INTEGER)",  # no key: a second row would show
    "CREATE TABLE IF NOT EXISTS log (n INTEGER)",
)
COLUMNS = ["n", "price", "total"]
STREAM = "notify"
STEPS = ("validate", "price", "group", "log", "store", STREAM, "quarantine")


def write_input(folder: Path) -> Path:
    """The CSV file, once."""
    file = folder / "orders.csv"
    lines = ["n,price"]
    lines += [f"{n},{n * 3 % 50}" + (",what is this" if n in MALFORMED else "") for n in range(RECORDS)]
    file.write_text("\n".join(lines) + "\n")
    return file


class Trace:
    """Notes which records each function saw, so that a SIGKILL takes none of it."""

    def __init__(self, folder: Path) -> None:
        self._handle = os.open(folder / "calls", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def saw(self, step: str, numbers: Iterable[int]) -> None:
        os.write(self._handle, "".join(f"{step} {n}\n" for n in numbers).encode())


class TensError(ValueError):
    """Every tenth order is refused."""


@dataclass(frozen=True)
class Form:
    """What may differ between forms of the job, none of which may change what it comes to.

    Attributes:
        keyed: orders have a key, so that a redrive may change their rows.
        fused: the job has ``fuse_steps``.
        files: orders are written to Parquet files, not to a table.
    """

    keyed: bool = False
    fused: bool = False
    files: bool = False


PLAIN = Form()


def lake(folder: Path) -> ParquetFiles:
    """Where orders go, if they go to files."""
    return ParquetFiles(str(folder / "lake"), columns=COLUMNS)


def make_job(folder: Path, mark: str = "?", form: Form = PLAIN) -> JobSpec:
    """The job; its functions note in ``folder`` what they see."""
    trace = Trace(folder)
    options = {"max_failed_records": -1, "block_size": BLOCK, "shards": SHARDS, "fuse_steps": form.fused}
    with BatchJob("crash", source=Files(str(folder / "orders.csv")), **options) as job:

        @job.step
        def validate(record):
            trace.saw("validate", [record["n"]])
            if record["n"] % 10 == 3:
                raise TensError(f"{record['n']} is refused")

        job.sql_step(
            "price", checks={"price must be positive": "price > 0"}, assign={"total": "price * 2", "tax": "price / 5"}
        )

        @job.aggregator("group", size=5)
        def group(records):
            trace.saw("group", [record["n"] for record in records])
            return [{"price": record["price"] + 1} for record in records]

        @job.aggregator("log", size=3, transaction="warehouse")
        def log(records, *, connection):
            numbers = [record["n"] for record in records]
            trace.saw("log", numbers)
            connection.cursor().executemany(f"INSERT INTO log VALUES ({mark})", [[n] for n in numbers])

        table = SqlTable("warehouse", "orders", key=["n"] if form.keyed else [], columns=COLUMNS)
        job.write("store", lake(folder) if form.files else table, size=6)

        @job.aggregator(STREAM, streaming=True)
        def notify(records):
            trace.saw(STREAM, [record["n"] for record in records])

        @job.step(accept_policy=AcceptPolicy.ONLY_FAILURES)
        def quarantine(record, *, record_id, failures):
            trace.saw("quarantine", [record_id])
            assert failures

        @job.on_complete
        def report(result: BatchJobResult):
            trace.saw("report", [result.failed_records])

    return job.spec


class Runner:
    """Does the tasks of the job as Airflow would: those that have ended well are not done again.

    Args:
        folder: where everything is.
        connect: opens the warehouse.
        mark: placeholder of its driver.
        faults: what goes wrong in this process.
        disk: below the faults.
        forgets: whether Airflow never learned that the last task had ended, so that it tries it again.
        form: which form of the job.
    """

    def __init__(
        self,
        folder: Path,
        connect: Callable[[], Any],
        mark: str = "?",
        faults: Faults | None = None,
        disk: Disk | None = None,
        forgets: bool = False,
        form: Form = PLAIN,
    ) -> None:
        self.folder = folder
        self.job = make_job(folder, mark, form)
        faults = faults or Faults()
        faulty = FaultyDisk(faults, disk)
        access = FaultyAccess(LocalAccess({"warehouse": connect}), faults, disk=faulty)
        blobs = LocalBlobs(folder / "store", faulty)
        self.run = LocalRun(self.job, store=blobs, access=access, clock=SystemClock())
        self._journal = folder / "journal"
        if forgets and self._journal.exists():
            self._journal.write_text("".join(self._journal.read_text().splitlines(keepends=True)[:-1]))

    def work(self) -> None:
        """Every task that is not done."""
        self._once("load", self.run.load)
        shards = [shard.id for shard in self.run.generation.manifest.shards]
        for stage in self.job.stages():
            steps = checkpoint_steps(self.job, [step for step in stage if not step.is_streaming])
            for shard in shards:
                for step in steps:
                    self._once(f"{step.name}/{shard}", lambda step=step, shard=shard: self.run.process(step, shard))
            if stage[-1].is_streaming:
                self._once(stage[-1].name, lambda step=stage[-1]: self.run.stream(step))
        self._once("complete", self._complete)

    def _complete(self) -> None:
        self.run.complete()
        self.sum_up()

    def sum_up(self) -> None:
        """Write down what the store says now."""
        result = self.run.store.result()
        assert result is not None
        (self.folder / "summary.json").write_text(json.dumps(self.summary(result)))

    def clear(self, step: str | None) -> None:
        """What clearing a step (None: the load) with Downstream does: it and all after it are done again."""
        earlier = ["load", *STEPS[: STEPS.index(step)]] if step else []
        kept = [task for task in self._journal.read_text().split() if task.split("/")[0] in earlier]
        self._journal.write_text("".join(f"{task}\n" for task in kept))
        self.run.next_round()

    def _once(self, task: str, do: Callable[[], Any]) -> None:
        done = self._journal.read_text().split() if self._journal.exists() else []
        if task in done:
            return
        do()
        with self._journal.open("a") as journal:
            journal.write(f"{task}\n")

    def summary(self, result: BatchJobResult) -> dict[str, Any]:
        """What must be the same however often the job was killed."""
        return {
            "state": str(result.state),
            "counts": [
                result.total_records,
                result.processed_records,
                result.successful_records,
                result.failed_records,
                result.skipped_records,
                result.not_run_records,
            ],
            "steps": [[s.name, s.received, s.successful, s.failed, s.skipped, s.not_run] for s in result.steps],
            "errors": [[e.exception, e.step, e.count, e.sample] for e in result.errors],
            "ledger": self.run.query(
                "SELECT step, record_id, o.shard, outcome, error_type, message "
                "FROM outcomes o LEFT JOIN failures USING (step, record_id) ORDER BY 1, 2, 5"
            ),
            "output": self.run.output(),
            "dead_letters": sorted(row for name in result.dead_letters for row in self._dead_letters(name)),
        }

    def _dead_letters(self, name: str) -> Iterator[list[Any]]:
        (file,) = (self.folder / "store").rglob(name)
        for row in pq.read_table(file).to_pylist():
            yield [row["_id"], row["n"], row["price"], row["_step"], row["_error_type"], row["_error_message"]]


def sqlite_warehouse(folder: Path) -> Callable[[], sqlite3.Connection]:
    """Opens the warehouse in a file."""
    return lambda: sqlite3.connect(folder / "warehouse.db", timeout=60)


def postgres_warehouse(port: int, name: str) -> Callable[[], Any]:
    """Opens a database of the tests' own server."""

    def connect() -> Any:
        import psycopg

        return psycopg.connect(host="127.0.0.1", port=port, user="postgres", dbname=name)

    return connect


def warehouse(folder: Path, postgres: list[Any] | None) -> tuple[Callable[[], Any], str]:
    """How to open the warehouse, and the placeholder of its driver."""
    return (postgres_warehouse(*postgres), "%s") if postgres else (sqlite_warehouse(folder), "?")


def execute(folder: Path, request: dict[str, Any]) -> None:
    """What a forked process does: work until it is done or dies.

    Args:
        folder: where everything is.
        request: ``at`` (a number or a pattern) and ``action`` (kill, stop, lose_power) of a fault, ``skip``;
            ``postgres`` (port, database); ``forgets``; ``seed`` of a disk that forgets what was not synced;
            those of a :class:`Form`.
    """
    connect, mark = warehouse(folder, request.get("postgres"))
    points: list[str] = []
    disk = VolatileDisk(folder, request["seed"]) if "seed" in request else None
    planned = []
    if "at" in request:
        action = {"kill": kill, "stop": stop}.get(request.get("action", "kill"))
        if action is None:
            action = disk.lose_power
        planned.append(Fault(request["at"], action, skip=request.get("skip", 0)))
    faults = Faults(*planned, tell=lambda point: points.append(str(point).replace(str(folder), "")))
    form = Form(**{name: request[name] for name in ("keyed", "fused", "files") if name in request})
    runner = Runner(folder, connect, mark, faults, disk, request.get("forgets", False), form)
    if request.get("reads"):
        runner.sum_up()
        return
    runner.work()
    (folder / "points.json").write_text(json.dumps(points))

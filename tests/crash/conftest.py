"""A folder for each disturbed job, what the undisturbed one came to, and a count of all kills."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.crash.forks import KILLED, Forks
from tests.crash.work import BLOCK, COLUMNS, STREAM, TABLES, lake, warehouse, write_input
from tests.unit.writers.conftest import postgres, postgres_server  # noqa: F401  # fixtures

KILLS = pytest.StashKey[Counter[str]]()
FUSED_BLOCK = 3 * BLOCK
"""Calls for one block of fused steps: to end it where a group ends, records behind it may have been done too."""


@dataclass
class Job:
    """The job in a folder of its own, and how often it was killed."""

    folder: Path
    forks: Forks
    killed: Callable[[str], None]
    postgres: list[Any] | None = None
    kills: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def prepare(self) -> Job:
        self.folder.mkdir(exist_ok=True)
        write_input(self.folder)
        with closing(self.connect()) as connection:
            cursor = connection.cursor()
            for table in ("orders", "log", "_batch_fence", "_batch_commits"):
                cursor.execute(f"DROP TABLE IF EXISTS {table}")
            for statement in TABLES:
                cursor.execute(statement)
            connection.commit()
        return self

    def connect(self) -> Any:
        return warehouse(self.folder, self.postgres)[0]()

    def work(self, **options: Any) -> int:
        """Work until done, killed or stopped."""
        code = self.forks.run(self.folder, **{"postgres": self.postgres, **self.options, **options})
        if code == KILLED:
            self.kills += 1
            self.killed("in a process of its own")
        return code

    def fails(self, **options: Any) -> str:
        """Work until it raises; returns the traceback."""
        code = self.forks.start(self.folder, **{"fails": True, **self.options, **options})[1]
        assert code == 1
        return (self.folder / "error").read_text()

    @property
    def calls(self) -> Counter[str]:
        """``step record`` → how often its function saw it."""
        return Counter((self.folder / "calls").read_text().splitlines())

    @property
    def outcome(self) -> dict[str, Any]:
        """All that must not depend on crashes."""
        with closing(self.connect()) as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT * FROM orders ORDER BY n, price")
            orders = [list(row) for row in cursor.fetchall()]
            if self.options.get("files"):
                assert orders == []
                orders = self.shown()
            cursor.execute("SELECT DISTINCT n FROM log ORDER BY n")
            logged = [row[0] for row in cursor.fetchall()]
            connection.commit()
        summary = json.loads((self.folder / "summary.json").read_text())
        return {**summary, "orders": orders, "logged": logged, "seen": sorted(self.calls)}

    def shown(self) -> list[list[Any]]:
        """Orders as readers of the manifest of Parquet files see them."""
        tables = [pq.read_table(file) for file in lake(self.folder).read_manifest()]
        return sorted([row[name] for name in COLUMNS] for table in tables for row in table.to_pylist())

    def logged_rows(self) -> int:
        with closing(self.connect()) as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT count(*) FROM log")
            (count,) = cursor.fetchone()
            connection.commit()
        return count

    def is_as_if_undisturbed(self, undisturbed: Job, power_lost: bool = False) -> None:
        """Nothing lost, nothing twice, and no more done again than the blocks in flight.

        A loss of power may take the work of the last second too: files are synced no more often than that.
        """
        found, wanted = self.outcome, undisturbed.outcome
        in_flight = FUSED_BLOCK if self.options.get("fused") else BLOCK
        for part, expected in wanted.items():
            assert found[part] == expected, part
        assert max(self.calls.values()) <= 1 + self.kills
        if power_lost:
            return
        again = self.calls - undisturbed.calls
        streamed = sum(count for call, count in again.items() if call.startswith(f"{STREAM} "))
        reported = sum(count for call, count in again.items() if call.startswith("report "))
        others = sum(again.values()) - streamed - reported
        assert others <= self.kills * in_flight, "more was done again than the blocks in flight"
        assert streamed <= self.kills * sum(call.startswith(f"{STREAM} ") for call in undisturbed.calls)
        assert reported <= self.kills
        assert self.logged_rows() - undisturbed.logged_rows() <= self.kills * BLOCK


@pytest.fixture(scope="session")
def forks():
    server = Forks()
    yield server
    server.close()


@pytest.fixture(scope="session")
def killed(request):
    """Counts a kill of some sort."""
    counts = request.config.stash.setdefault(KILLS, Counter())

    def count(sort: str) -> None:
        counts[sort] += 1

    return count


@pytest.fixture(scope="session")
def undisturbed(forks, tmp_path_factory):
    """What the job comes to if nothing happens."""
    job = Job(tmp_path_factory.mktemp("undisturbed"), forks, lambda sort: None).prepare()
    assert job.work() == 0
    return job


@pytest.fixture
def job(forks, killed, tmp_path):
    """A fresh job over SQLite."""
    yield (job := Job(tmp_path / "job", forks, killed).prepare())
    shutil.rmtree(job.folder, ignore_errors=True)


@pytest.fixture
def postgres_job(forks, killed, tmp_path, postgres, request):  # noqa: F811
    """A fresh job over PostgreSQL."""
    import psycopg

    name = f"crash_{request.config.getoption('dist', 'no')}"
    with psycopg.connect(host="127.0.0.1", port=postgres, user="postgres", autocommit=True) as admin:
        if not admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
            admin.execute(f"CREATE DATABASE {name}")
    yield (job := Job(tmp_path / "job", forks, killed, postgres=[postgres, name]).prepare())
    shutil.rmtree(job.folder, ignore_errors=True)


# --- the count of all kills, also from the workers of pytest-xdist ----------------------------------------------


def pytest_sessionfinish(session):
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["kills"] = dict(session.config.stash.get(KILLS, Counter()))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    counts = node.config.stash.setdefault(KILLS, Counter())
    counts.update(getattr(node, "workeroutput", {}).get("kills", {}))


def pytest_terminal_summary(terminalreporter, config):
    if counts := config.stash.get(KILLS, None):
        terminalreporter.section("kills")
        for sort, count in sorted(counts.items()):
            terminalreporter.line(f"{count:5} {sort}")
        terminalreporter.line(f"{sum(counts.values()):5} in all")

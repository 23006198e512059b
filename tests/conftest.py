"""Isolation: no test sees the Airflow of the person who runs it.

Airflow reads its environment at import, so it is set here, before any test module is imported.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import pytest

_DAGS_FOLDER = Path(__file__).parent / "dags"
_HOME = Path(tempfile.mkdtemp(prefix="batch-provider-tests-"))


def _isolate() -> None:
    for name in [name for name in os.environ if name.startswith("AIRFLOW")]:
        del os.environ[name]
    (_HOME / "airflow.cfg").write_text("# Every setting comes from the environment.\n")
    os.environ |= {
        "AIRFLOW_HOME": str(_HOME),
        "AIRFLOW__CORE__DAGS_FOLDER": str(_DAGS_FOLDER),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_HOME / 'airflow.db'}",
    }


_isolate()


def pytest_unconfigure() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def airflow_home() -> Path:
    """The home folder of the Airflow under test."""
    return _HOME


@pytest.fixture(scope="session")
def airflow_db(airflow_home: Path, request: pytest.FixtureRequest) -> Path:
    """A migrated metadata database, so that `dag.test()` can run the DAGs in tests/dags.

    The migration takes seconds; its result is kept in pytest's cache for each version of Airflow.
    """
    database = airflow_home / "airflow.db"
    cache = request.config.cache
    assert cache is not None
    migrated = cache.mkdir("airflow-db") / f"{version('apache-airflow-core')}.db"
    if migrated.exists():
        return Path(shutil.copy(migrated, database))
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)
    fresh = shutil.copy(database, migrated.with_suffix(f".{os.getpid()}"))
    Path(fresh).replace(migrated)  # whole or absent, also for another test process
    return database

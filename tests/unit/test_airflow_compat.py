"""What Airflow may move is imported in one file, and a test of each name says what breaks then."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from batch_provider import airflow_compat
from batch_provider.airflow_compat import PRIVATE, Private

PACKAGE = Path(airflow_compat.__file__).parent
PUBLIC = {"airflow.sdk", "airflow.sdk.exceptions", "airflow.sdk.plugins_manager", "airflow.triggers.base"}


@pytest.mark.parametrize("name", sorted(PRIVATE))
def test_airflow_still_has_what_we_need_of_it(name):
    module, breaks = PRIVATE[name]

    assert getattr(airflow_compat, name) is not None, f"{module}.{name} has moved, which breaks {breaks}"


def test_every_name_is_known_to_type_checkers_too():
    tree = ast.parse((PACKAGE / "airflow_compat.py").read_text(encoding="utf-8"))
    imported = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("airflow.")
        for alias in node.names
    }

    assert imported == {name: private.module for name, private in PRIVATE.items()}


def test_only_that_file_imports_what_airflow_does_not_call_public():
    import airflow.sdk

    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else names
            private = {name for name in names if str(name).partition(".")[0] == "airflow" and name not in PUBLIC}
            if isinstance(node, ast.ImportFrom) and node.module == "airflow.sdk":
                private |= {alias.name for alias in node.names} - set(airflow.sdk.__all__)
            if private and file.name != "airflow_compat.py":
                found.append((str(file.relative_to(PACKAGE)), sorted(map(str, private))))

    assert found == []


def test_what_airflow_has_moved_is_named_with_what_breaks(monkeypatch):
    monkeypatch.setitem(PRIVATE, "Moved", Private("airflow.sdk.nowhere", "the masking of secrets"))
    monkeypatch.setitem(PRIVATE, "Renamed", Private("airflow.sdk", "the turns of instances"))

    with pytest.raises(ImportError, match=r"Airflow 3\.\S+ has no airflow\.sdk\.nowhere\.Moved, .* masking of secrets"):
        airflow_compat.Moved  # noqa: B018
    with pytest.raises(ImportError, match=r"has no airflow\.sdk\.Renamed, .* the turns of instances\. Use a version"):
        airflow_compat.Renamed  # noqa: B018
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        airflow_compat.nothing  # noqa: B018


def test_importing_the_file_imports_nothing_of_airflow():
    code = (
        "import sys, batch_provider.airflow_compat; print([m for m in sys.modules if m.partition('.')[0] == 'airflow'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.strip() == "[]"

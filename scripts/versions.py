"""``python -m scripts.versions``: which versions of other people's packages are used, locked, newest or oldest.

Needs the standard library only, so that it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path
from typing import Final

_REPOSITORY: Final = Path(__file__).resolve().parents[1]
_FLOOR: Final = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*>=\s*([0-9][^\s,;]*)")
_NOT_LOCKED: Final = {"airflow-provider-batch", "pip"}
"""This project, and what installs the others."""
_HEADER: Final = """\
# The versions that the README's commands install: those that the tests passed with. `make lock` makes this file.
# Made with Python {python}; under another version pip may need a package more, and takes its newest.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    parser = argparse.ArgumentParser(prog="versions", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("floors", help="print the lower bounds of pyproject.toml as constraints for pip")
    commands.add_parser("lock", help="print what is installed here as constraints for pip")
    check = commands.add_parser("check", help="fail unless what is installed here is exactly what a file says")
    check.add_argument("file", type=Path)
    options = parser.parse_args(arguments)
    if options.command == "floors":
        print("\n".join(f"{name}=={version}" for name, version in sorted(floors().items())))
    elif options.command == "lock":
        python = ".".join(map(str, sys.version_info[:2]))
        print(_HEADER.format(python=python) + "\n".join(f"{n}=={v}" for n, v in sorted(installed().items())))
    else:
        problems = differences(options.file.read_text(encoding="utf-8"), installed())
        print("\n".join(problems) or f"{options.file} is complete: {len(installed())} packages.")
        return 1 if problems else 0
    return 0


def floors(toml: str | None = None) -> dict[str, str]:
    """The lower bound of each dependency of the package and of the demo.

    Args:
        toml: the text of a pyproject.toml; None: this project's.

    Raises:
        ValueError: one has none, so that nobody can say what is the oldest version.
    """
    project = tomllib.loads(toml or (_REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = {}
    for text in (*project["dependencies"], *project["optional-dependencies"]["demo"]):
        match = _FLOOR.match(text)
        if match is None:
            raise ValueError(f"{text} in pyproject.toml has no lower bound (>=)")
        found[_name(match[1])] = match[2]
    return found


def installed() -> dict[str, str]:
    """Name → version of every package of this environment that can be locked."""
    names = {_name(each.metadata["Name"]): each.version for each in distributions()}
    return {name: version for name, version in names.items() if name not in _NOT_LOCKED}


def differences(constraints: str, found: dict[str, str]) -> list[str]:
    """What is wrong with an environment, or with the file it was made from; a sentence for each package."""
    lines = [line.partition("#")[0].strip() for line in constraints.splitlines()]
    locked = dict(line.split("==") for line in lines if line)
    python = re.search(r"Made with Python (\S+);", constraints)
    here = ".".join(map(str, sys.version_info[:2]))
    problems = [
        f"{name} {found[name]} is installed, but {version} is locked. Remove .venv and run make setup"
        for name, version in sorted(locked.items())
        if name in found and found[name] != version
    ]
    if python is not None and python[1] == here:  # another version of Python needs other packages
        problems += [
            f"{name} {found[name]} is installed and not locked. Lock it: make lock"
            for name in sorted(found.keys() - locked)
        ]
    return problems


def _name(text: str) -> str:
    """As PyPI compares names (PEP 503)."""
    return re.sub(r"[-_.]+", "-", text).lower()


if __name__ == "__main__":
    sys.exit(main())

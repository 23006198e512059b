"""Virtual environments of the peers: one for each, made when it is first needed, never a reason to fail.

What a peer needs stands in `peers/requirements/<name>.txt`. An environment that cannot be made, or not within the
time limit, is remembered with the reason until its requirements change or `--retry` is given.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parent
REQUIREMENTS = BENCH / "peers" / "requirements"
ENVIRONMENTS = BENCH / ".venvs"
LIMIT_SECONDS = 420


class NotInstallableError(Exception):
    """The environment cannot be made; the message says why."""


def clean_environment() -> dict[str, str]:
    """The environment of every process that is measured: with byte code, as on a user's machine."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def python_of(name: str, limit: float = LIMIT_SECONDS) -> str:
    """The interpreter of the environment, which is made if need be.

    Raises:
        NotInstallableError: it cannot be.
    """
    wanted = hashlib.sha256((REQUIREMENTS / f"{name}.txt").read_bytes()).hexdigest()
    folder = ENVIRONMENTS / name
    python = folder / "bin" / "python"
    done, failed = folder / ".installed", ENVIRONMENTS / f"{name}.failed"
    if done.exists() and done.read_text() == wanted:
        return str(python)
    if failed.exists() and failed.read_text().startswith(wanted):
        raise NotInstallableError(failed.read_text().removeprefix(wanted).strip())
    try:
        _install(name, folder, python, limit)
    except (subprocess.SubprocessError, OSError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        reason = _reason(error)
        ENVIRONMENTS.mkdir(exist_ok=True)
        failed.write_text(f"{wanted}\n{reason}\n")
        raise NotInstallableError(reason) from error
    done.write_text(wanted)
    failed.unlink(missing_ok=True)
    return str(python)


def _install(name: str, folder: Path, python: Path, limit: float) -> None:
    print(f"Making the environment of {name} (at most {limit:.0f} s) ...", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", f"{name}.txt"],
        [str(python), "-m", "compileall", "-q", "-j", "2", str(folder / "lib")],
    ):
        finished = subprocess.run(
            command,
            cwd=REQUIREMENTS,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
        if finished.returncode and "compileall" not in command:  # some packages ship files that do not compile
            raise subprocess.CalledProcessError(finished.returncode, command[2:4], finished.stdout, finished.stderr)


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.TimeoutExpired):
        return f"not installed within {error.timeout:.0f} s"
    if isinstance(error, subprocess.CalledProcessError):
        lines = [line for line in str(error.stderr).splitlines() if "ERROR" in line]
        return (lines[0] if lines else str(error))[:300]
    return str(error)[:300]


def main() -> None:
    """Make environments, and say what became of them."""
    every = sorted(path.stem for path in REQUIREMENTS.glob("*.txt"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=every, help=f"default: {' '.join(every)}")
    parser.add_argument("--limit", type=float, default=LIMIT_SECONDS, help="seconds for each")
    parser.add_argument("--retry", action="store_true", help="try again what could not be made before")
    options = parser.parse_args()
    for name in options.names:
        if options.retry:
            (ENVIRONMENTS / f"{name}.failed").unlink(missing_ok=True)
        try:
            python_of(name, options.limit)
            print(f"{name}: ready", flush=True)
        except NotInstallableError as error:
            print(f"{name}: skipped: {error}", flush=True)


if __name__ == "__main__":
    main()

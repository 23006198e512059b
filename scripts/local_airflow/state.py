"""Who runs in a home folder: a small file in it, true only while that process lives."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

_PATIENCE_SECONDS = 30


@dataclass(frozen=True, slots=True)
class RunningInstance:
    """An Airflow and the process that keeps it."""

    home: str
    url: str
    pid: int
    created: float
    """When the process was created: a pid alone may belong to another one by now."""
    ready: bool = False

    @classmethod
    def find(cls, home: Path) -> RunningInstance | None:
        """Return the instance that lives in the home, or None."""
        try:
            instance = cls(**json.loads(_file(home).read_text()))
        except FileNotFoundError:
            return None
        return instance if instance._process() is not None else None

    @classmethod
    @contextmanager
    def declared(cls, home: Path, url: str) -> Iterator[RunningInstance]:
        """Declare this process the one that runs in the home, for the time of the block."""
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        instance = cls(str(home), url, os.getpid(), psutil.Process().create_time())
        instance._write()
        try:
            yield instance
        finally:
            _file(home).unlink(missing_ok=True)

    def mark_ready(self) -> None:
        """Say that Airflow can be used now."""
        replace(self, ready=True)._write()

    def end(self) -> None:
        """End the process, and with it all of this Airflow; kill it if it does not end by itself."""
        process = self._process()
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_PATIENCE_SECONDS)
        except psutil.TimeoutExpired:
            process.kill()  # its guard ends the components
            process.wait()

    def _process(self) -> psutil.Process | None:
        try:
            process = psutil.Process(self.pid)
            return process if process.create_time() == self.created else None
        except psutil.NoSuchProcess:
            return None

    def _write(self) -> None:
        file = _file(Path(self.home))
        new = file.with_suffix(".new")
        new.write_text(json.dumps(asdict(self)))
        new.replace(file)


def _file(home: Path) -> Path:
    return home / "runner.json"

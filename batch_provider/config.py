"""The options of `[batch_provider]`, read when asked for and never at import."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from batch_provider.domain.errors import InvalidOptionError
from batch_provider.get_provider_info import get_provider_info

_SECTION: Final = "batch_provider"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the installation decides for every job that does not decide for itself."""

    storage_path: str
    """A directory, never empty."""
    block_size: int | None
    """Records in a block; None: chosen from the input's size."""
    max_failed_records: int
    """Failed records a job takes before it stops; -1: it never stops."""
    retention_days: int
    """Days that purge keeps an instance after the last write to it."""


def load_settings() -> Settings:
    """Read the settings from Airflow's configuration, from tasks, DAG files and the command line alike.

    Raises:
        InvalidOptionError: if a value is not one of those the option allows.
    """
    return Settings(
        storage_path=_storage_path(_option("storage_path")),
        block_size=_block_size(_option("block_size")),
        max_failed_records=_whole_number("max_failed_records", minimum=-1),
        retention_days=_whole_number("retention_days", minimum=1),
    )


def _option(name: str) -> str:
    """Return the configured text of an option, or the default the provider declares for it."""
    from airflow.sdk import conf

    default = get_provider_info()["config"][_SECTION]["options"][name]["default"]
    return str(conf.get(_SECTION, name, fallback=default)).strip()


def _storage_path(value: str) -> str:
    if "://" in value:
        return value.rstrip("/")
    path = Path(os.path.expandvars(value)) if value else _airflow_home() / "batch"
    return str(path.expanduser().absolute())


def _airflow_home() -> Path:
    """Return Airflow's home, by the rule that Airflow itself follows."""
    return Path(os.path.expandvars(os.environ.get("AIRFLOW_HOME", "~/airflow"))).expanduser()


def _block_size(value: str) -> int | None:
    if value.lower() == "auto":
        return None
    allowed = "auto, or a whole number from 1"
    return _parse_whole_number("block_size", value, minimum=1, allowed=allowed)


def _whole_number(name: str, minimum: int) -> int:
    return _parse_whole_number(name, _option(name), minimum, allowed=f"a whole number from {minimum}")


def _parse_whole_number(name: str, value: str, minimum: int, allowed: str) -> int:
    try:
        number = int(value)
    except ValueError:
        raise InvalidOptionError(f"[{_SECTION}] {name}", value, allowed) from None
    if number < minimum:
        raise InvalidOptionError(f"[{_SECTION}] {name}", value, allowed)
    return number

"""Names and ids: checked before they become a part of any path."""

from __future__ import annotations

import hashlib
import re

from batch_provider.domain.errors import InvalidOptionError

SIDE_COLUMNS = ("_vars", "_kept")
"""Columns that travel with a record beside its payload: its variables as JSON, and as JSON the values that could
not stay in their column because a step gave the column another type for other records."""

RESERVED_COLUMNS = frozenset(
    {"_id", "_status", "_outcomes", "_in", "_out", "_error", "_redrives", "_line", "_raw", *SIDE_COLUMNS}
)
"""Columns of the provider's own in its files; a payload may not use them."""

INPUT_PHASE = "input"
"""The name under which failures of the input phase stand in ledger and report."""

TAKEN_STEP_NAMES = frozenset({INPUT_PHASE, "load", "process", "on_complete"})
"""Task ids and directories of the provider's own; a step may not use them."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,99}")
_PART = re.compile(r"(?!\.)[\w.~:+@=-]{1,200}")
_LONGEST_PART = 200  # bytes; file systems allow 255, temporary names need some of them


def check_name(option: str, value: object) -> str:
    """Return ``value`` if it may name a job or a step.

    Raises:
        InvalidOptionError: it is not 1 to 100 ASCII letters, digits, ``_`` or ``-`` beginning with a letter.
    """
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise InvalidOptionError(option, value, "1 to 100 ASCII letters, digits, '_' or '-', beginning with a letter")
    if option == "step" and value in TAKEN_STEP_NAMES:
        raise InvalidOptionError(option, value, f"a name other than {', '.join(sorted(TAKEN_STEP_NAMES))}")
    return value


def check_path_part(option: str, value: object) -> str:
    """Return ``value`` if it may be one part of a path: a DAG id or a job instance id.

    Raises:
        InvalidOptionError: it has a character other than word characters and ``. ~ : + @ = -``, begins with a
            dot, or is longer than 200 bytes.
    """
    fits = isinstance(value, str) and _PART.fullmatch(value) and len(value.encode()) <= _LONGEST_PART
    if not fits or not isinstance(value, str):
        shown = value[:60] + "…" if isinstance(value, str) and len(value) > 60 else value
        raise InvalidOptionError(
            option,
            shown,
            "at most 200 bytes of letters, digits and '_ . ~ : + @ = -', not beginning with a dot",
        )
    return value


def default_instance_id(dag_id: str, run_id: str, job: str) -> str:
    """Name the instance of ``job`` in one DAG run: the same after every retry and clear of that run.

    Characters that may not stand in a path are replaced and long ids shortened; both then end in a digest of
    the original, so that two runs never share an id.
    """
    plain = f"{dag_id}~{run_id}~{job}"  # neither a DAG id nor a job name may have a ~
    if _PART.fullmatch(plain) and len(plain.encode()) <= _LONGEST_PART:
        return plain
    digest = hashlib.blake2b(plain.encode(), digest_size=8).hexdigest()
    kept = re.sub(r"[^A-Za-z0-9_.~:+@=-]", "-", plain).lstrip(".")[:160]
    return f"{kept}-{digest}"

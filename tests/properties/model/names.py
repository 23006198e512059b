"""Names that no record can have are refused by the load, so a job names only what a step before may have added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tests.properties.model.plan import PAYLOAD, Step
from tests.properties.model.sql import EVERY


def with_known_names(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps, without expressions over and tables of columns that do not come from anywhere."""
    known, found = set(PAYLOAD), []
    for step in steps:
        if step.accept in EVERY and not set(EVERY[step.accept].reads) <= known | {"variables", "failures"}:
            step = replace(step, accept=None)  # noqa: PLW2901
        if step.columns is not None and not set(step.columns) <= known:
            step = replace(step, columns=tuple(name for name in step.columns if name in known) or PAYLOAD)  # noqa: PLW2901
        found.append(step)
        known |= {patch.key for patch in step.patches} | {name for name, _ in step.assign}
    return tuple(found)

"""Where the product differs from the model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.properties.model.model import Model
from tests.properties.model.plan import Job, World
from tests.properties.model.real import Real


def differences(job: Job, folder: Path) -> Iterator[str]:
    """What the product does otherwise than the model says."""
    model, real = Model(job), Real(job, folder)
    for number in range(len(job.rounds)):
        expected, found = model.round(number), real.round(number)
        if not job.is_exact:
            expected["log"] = found["log"] = {}
        for name, value in expected.items():
            if found[name] != value:
                yield f"round {number}, {name}: the product has {_apart(found[name], value)}"
        yield from calls_apart(job, model.world, real.world)


def calls_apart(job: Job, expected: World, found: World) -> Iterator[str]:
    """Which calls differ: in order, but for those that are made side by side or where it is not known who died when."""
    for step in job.steps:
        wanted = [given for name, given in expected.calls if name == step.name]
        made = [given for name, given in found.calls if name == step.name]
        if step.way != "plain":
            wanted, made = sorted(wanted), sorted(made)
        if not job.is_exact:
            wanted, made = sorted(set(map(repr, wanted))), sorted(set(map(repr, made)))
        if wanted != made:
            yield f"calls of {step.name}: the product made\n  {made}\n not\n  {wanted}"


def _apart(found: Any, expected: Any) -> str:
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = [key for key in {**found, **expected} if found.get(key) != expected.get(key)]
        return ", ".join(f"{key}: {found.get(key)} not {expected.get(key)}" for key in keys)
    if isinstance(found, list) and isinstance(expected, list):
        more, less = [x for x in found if x not in expected], [x for x in expected if x not in found]
        return f"{more} not {less}, {len(found)} not {len(expected)} in all"
    return f"{found} not {expected}"

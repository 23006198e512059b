"""Makes a job that fails smaller, as long as it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, replace
from typing import Any

from tests.properties.model.names import with_known_names
from tests.properties.model.plan import Job


def shrink(job: Job, fails: Callable[[Job], bool], tries: int = 300) -> Job:
    """The smallest job that is found within so many tries.

    Args:
        job: one that fails.
        fails: whether a job does.
        tries: how often it is asked.
    """
    changed = True
    while changed:
        changed = False
        for smaller in map(_named, _smaller(job)):
            tries -= 1
            if tries < 0:
                return job
            if fails(smaller):
                job, changed = smaller, True
                break
    return job


def _named(job: Job) -> Job:
    return replace(job, steps=with_known_names(job.steps))


def _smaller(job: Job) -> Iterator[Job]:
    """Jobs with something left out, the largest parts first."""
    for size in (8, 4, 2, 1):
        for start in range(0, len(job.records), size):
            yield replace(job, records=job.records[:start] + job.records[start + size :])
    for name in ("rounds", "steps"):
        parts = getattr(job, name)
        for at in range(len(parts) if len(parts) > 1 else 0):
            yield replace(job, **{name: parts[:at] + parts[at + 1 :]})
    for name in ("rounds", "steps"):
        parts = getattr(job, name)
        for at, part in enumerate(parts):
            for simpler in _simpler(part):
                yield replace(job, **{name: (*parts[:at], simpler, *parts[at + 1 :])})
    yield from _simpler(job, ("seed", "source", "records", "steps", "rounds", "variables"))


def _simpler(whole: Any, but: tuple[str, ...] = ("name", "kind")) -> Iterator[Any]:
    """With a field as it is by default, or with less in it."""
    for field in fields(whole):
        value = getattr(whole, field.name)
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if field.name in but or value == default:
            continue
        yield replace(whole, **{field.name: default})
        if isinstance(value, dict):
            for key in value:
                yield replace(whole, **{field.name: {k: v for k, v in value.items() if k != key}})
        if isinstance(value, tuple) and len(value) > 1:
            for at in range(len(value)):
                yield replace(whole, **{field.name: value[:at] + value[at + 1 :]})

"""Which of the instances in a directory a reader gets."""

from __future__ import annotations

from typing import Any

from batch_provider.domain.errors import InvalidOptionError
from batch_provider.domain.layout import ClaimId
from batch_provider.domain.options import check_choice

WHICH = ("latest", "all")
SHOWN = 5
"""Instances that an error names."""


def choose(manifests: list[dict[str, Any]], instance: str | None, which: str | None) -> list[dict[str, Any]]:
    """Those of one instance, of the latest, or of all.

    Args:
        manifests: the latest of every instance.
        instance: its id; None: there is only one, or ``which`` says.
        which: ``latest``, ``all`` or None.

    Raises:
        InvalidOptionError: there are several, and nobody said which; or it cannot be known which is the latest.
    """
    if which is not None:
        check_choice("which", which, WHICH)
        if instance is not None:
            raise InvalidOptionError("which", which, "either instance= or which=")
        return manifests if which == "all" else _latest(manifests)
    if instance is None and len(manifests) > 1:
        raise InvalidOptionError("instance", None, f"one of {_named(manifests)}, or which='latest' or which='all'")
    return [manifest for manifest in manifests if instance in (None, manifest["instance"])]


def _latest(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The one with the highest ticket; older versions wrote none, so one without was before those with one."""
    if len(manifests) < 2:
        return manifests
    placed = [(ClaimId.parse(found["ticket"]), found) for found in manifests if "ticket" in found]
    placed.sort(key=lambda pair: pair[0])
    jobs = {(found["dag_id"], found["job"]) for _, found in placed}
    epochs = [ticket.epoch for ticket, _ in placed]
    if len(jobs) != 1 or epochs[-1] in epochs[:-1]:  # of two stores, or the two loads were at the same moment
        raise InvalidOptionError(
            "which",
            "latest",
            f"instance= with one of {_named(manifests)}: it is not known which was loaded last, as "
            "only the tickets of one job in one store have an order",
        )
    return [placed[-1][1]]


def _named(manifests: list[dict[str, Any]]) -> str:
    """The first few of them."""
    names = [repr(found["instance"]) for found in manifests]
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more

"""Errors of those who ask for an instance, or for something to be done with it."""

from __future__ import annotations

from collections.abc import Iterable

from batch_provider.domain.errors.base import BatchError


class InstanceNotFoundError(BatchError):
    """No instance, or more than one, is what was asked for."""

    def __init__(self, text: str, candidates: Iterable[str]) -> None:
        found = sorted(candidates)
        if found:
            shown = ", ".join(found[:10]) + (f" and {len(found) - 10} more" if len(found) > 10 else "")
            message = f"{text!r} means {len(found)} instances: {shown}. Give the whole id, or name DAG and job."
        else:
            message = f"No instance is called {text!r}. List those there are with: airflow batch list"
        super().__init__(message)
        self.text, self.candidates = text, tuple(found)


class NotLoadedError(BatchError):
    """An instance has no loaded input, so it cannot be asked to do something."""

    def __init__(self, instance: str, reason: str = "") -> None:
        """Say why, and what to do.

        Args:
            instance: its id.
            reason: why there is none; empty: it is still being loaded.
        """
        loading = "yet. Wait until it is loaded, or mark its load task failed."
        super().__init__(f"Instance {instance!r} has no loaded input{f': {reason}' if reason else f' {loading}'}")
        self.instance, self.reason = instance, reason


class RedriveRefusedError(BatchError):
    """There is nothing to process again, or not now."""

    def __init__(self, instance: str, reason: str) -> None:
        super().__init__(f"Instance {instance!r} is not redriven: {reason}")
        self.instance, self.reason = instance, reason

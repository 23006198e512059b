"""Errors of on-complete: the account does not add up, or the job did not succeed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from batch_provider.domain.errors.base import BatchError

if TYPE_CHECKING:
    from batch_provider.domain.result import BatchJobResult


class DataLossError(BatchError):
    """Reconciliation found records without exactly one outcome."""

    def __init__(self, instance: str, reason: str, record_ids: Iterable[int] = ()) -> None:
        ids: Sequence[int] = tuple(record_ids)
        shown = ", ".join(map(str, ids[:20])) + (f" and {len(ids) - 20:,} more" if len(ids) > 20 else "")
        super().__init__(
            f"The account of instance {instance!r} does not add up: {reason}"
            + (f" (record ids {shown})" if ids else "")
            + ". Do not use its output; clear the step named here with Downstream, and report this as a bug."
        )
        self.instance, self.reason, self.record_ids = instance, reason, ids


class JobFailedError(BatchError):
    """The verdict: the instance did not end successfully."""

    def __init__(self, result: BatchJobResult) -> None:
        super().__init__(result.summary())
        self.result = result

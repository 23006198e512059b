"""Whether the next block may start: fenced, stopped, too many failures, too late."""

from __future__ import annotations

import logging
from collections.abc import Callable

from batch_provider.domain.errors import FailureLimitExceededError, FencedError, StopRequestedError
from batch_provider.domain.limits import FailureLimit
from batch_provider.domain.tally import Tally
from batch_provider.engine.ports import Clock, ShardWork

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
FENCE_SECONDS = 1.0
PROGRESS_SECONDS = 10.0


class Guard:
    """Asked before each block of one attempt.

    Args:
        work: the attempt.
        limit: of the job.
        clock: for the intervals.
        cancelled: whether the task was told to end (SIGTERM sets a flag that only this asks).
    """

    def __init__(self, work: ShardWork, limit: FailureLimit, clock: Clock, cancelled: Callable[[], bool]) -> None:
        self._work, self._limit, self._clock, self._cancelled = work, limit, clock, cancelled
        self._elsewhere = (0, 0)
        self._looked_at = self._fence_at = float("-inf")
        self._told_at = clock.monotonic()
        self._failed_then = 0

    def before_block(self) -> None:
        """Raise if no further block may start.

        Raises:
            FencedError: a later attempt has taken over.
            StopRequestedError: somebody asked, or the task was told to end.
            FailureLimitExceededError: more records failed than the job allows, over all shards.
        """
        if self._cancelled():
            raise StopRequestedError("the task was told to end")
        now = self._clock.monotonic()
        if now - self._fence_at >= FENCE_SECONDS:
            self._fence_at = now
            self._check_fence()
        self.check_limit()

    def _check_fence(self) -> None:
        claim = self._work.claim
        if (successor := self._work.successor()) is not None:
            raise FencedError(claim.step, claim.shard, str(claim.id), str(successor))
        if (reason := self._work.stop_reason()) is not None:
            raise StopRequestedError(reason)

    def check_limit(self) -> None:
        """Raise if the instance has failed by its failure limit.

        Other shards are looked at every 5 seconds, and whenever this one has failed more records.
        """
        own = self._work.tally
        now = self._clock.monotonic()
        if now - self._looked_at >= LOOK_SECONDS or own.newly_failed > self._failed_then:
            self._looked_at, self._failed_then = now, own.newly_failed
            self._elsewhere = self._work.failed_elsewhere()
        failed = own.newly_failed + self._elsewhere[0]
        if (limit := self._limit.exceeded(failed, own.received + self._elsewhere[1])) is not None:
            raise FailureLimitExceededError(failed, limit)

    def after_block(self, tally: Tally) -> None:
        """Tell the other shards and the log how far this one is."""
        self._work.report(tally)
        now = self._clock.monotonic()
        if now - self._told_at >= PROGRESS_SECONDS:
            self._told_at = now
            log.info(
                "Step %s, shard %s: %s of %s records, %s failed",
                self._work.claim.step,
                self._work.shard.id,
                f"{tally.received:,}",
                f"{len(self._work.shard.span):,}",
                f"{tally.failed:,}",
            )

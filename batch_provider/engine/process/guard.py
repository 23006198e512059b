"""Whether the next block may start: fenced, stopped, too many failures, too late."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from batch_provider.domain.errors import DeadlineExceededError, FencedError, StopRequestedError
from batch_provider.domain.limits import FailureCounts
from batch_provider.domain.spec import JobSpec
from batch_provider.domain.tally import Tally
from batch_provider.engine.ports.store import Clock, ShardWork

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
FENCE_SECONDS = 1.0
PROGRESS_SECONDS = 10.0


class Guard:
    """Asked before each block of one attempt.

    Args:
        work: the attempt.
        job: whose limit and SLA bind it.
        clock: for the intervals.
        cancelled: whether the task was told to end (SIGTERM sets a flag that only this asks).
        on_late: told once for each round when the SLA has passed and ``on_sla`` is ``alert``.
    """

    def __init__(
        self,
        work: ShardWork,
        job: JobSpec,
        clock: Clock,
        cancelled: Callable[[], bool] = lambda: False,
        on_late: Callable[[str], None] | None = None,
    ) -> None:
        self._work, self._job, self._clock, self._cancelled = work, job, clock, cancelled
        self._on_late = on_late
        self._elsewhere = FailureCounts(0, 0)
        self._looked_at = self._fence_at = float("-inf")
        self._told_at = clock.monotonic()
        self._failed_then = 0
        self._deadline = work.round_started() + job.sla if job.sla is not None else None

    def before_block(self) -> None:
        """Raise if no further block may start.

        Raises:
            FencedError: a later attempt has taken over.
            StopRequestedError: somebody asked, or the task was told to end.
            DeadlineExceededError: the SLA has passed and ``on_sla`` is ``stop``.
            FailureLimitExceededError: more records failed than the job allows, over all shards.
        """
        if self._cancelled():
            raise StopRequestedError("the task was told to end")
        now = self._clock.monotonic()
        if now - self._fence_at >= FENCE_SECONDS:
            self._fence_at = now
            self._check_fence()
        self._check_deadline()
        self.check_limit()

    def _check_deadline(self) -> None:
        """Compare instants, not intervals: the round may have begun on another machine."""
        now = self._clock.now()
        if self._deadline is None or now < self._deadline or self._job.sla is None:
            return
        deadline = self._deadline.isoformat(timespec="seconds")
        elapsed = str(now - (self._deadline - self._job.sla)).split(".")[0]
        if self._job.on_sla == "stop":
            raise DeadlineExceededError(deadline, elapsed)
        self._deadline = None
        if self._work.first_to_be_late():
            late = (
                f"Job {self._job.name!r} is late: its deadline {deadline} has passed after {elapsed}. The work goes "
                "on, and nothing has to be cleared (on_sla='alert')."
            )
            log.error("LATE: %s", late)
            if self._on_late is not None:
                self._on_late(late)

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
        elsewhere = self._elsewhere
        counts = replace(
            elsewhere, failed=elsewhere.failed + own.newly_failed, finished=elsewhere.finished + own.received
        )
        if (error := self._job.limit.exceeded(counts)) is not None:
            raise error

    def after_block(self, tally: Tally, fused: Mapping[str, Tally]) -> None:
        """Tell the other shards and the log how far this one is."""
        self._work.report(tally, fused)
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

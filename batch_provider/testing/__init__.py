"""For users' tests and notebooks: run a job in this process, with stores and clocks in memory."""

from __future__ import annotations

from batch_provider.storage.blobs import MemoryBlobs
from batch_provider.testing.clock import FakeClock
from batch_provider.testing.local import LocalRun, run_job

__all__ = ["FakeClock", "LocalRun", "MemoryBlobs", "run_job"]

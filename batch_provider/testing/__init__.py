"""For users' tests and notebooks: run a job in this process, with stores and clocks in memory, and let them fail."""

from __future__ import annotations

from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.testing.clock import FakeClock
from batch_provider.testing.faults import (
    Fault,
    Faults,
    FaultyAccess,
    FaultyBlobs,
    FaultyDisk,
    Point,
    kill,
    raising,
    stop,
)
from batch_provider.testing.local import LocalRun, run_job

__all__ = [
    "FakeClock",
    "Fault",
    "Faults",
    "FaultyAccess",
    "FaultyBlobs",
    "FaultyDisk",
    "LocalRun",
    "MemoryBlobs",
    "Point",
    "kill",
    "raising",
    "run_job",
    "stop",
]

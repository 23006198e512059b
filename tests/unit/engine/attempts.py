"""Jobs whose attempts are killed, repeated and redriven, shard by shard."""

from __future__ import annotations

import pytest

from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.testing import LocalRun
from tests.builders import Killed, job_of, numbers


def loaded(*steps, count=10, clock=None, shards=None, **options):
    """A loaded job, and its store."""
    options.setdefault("block_size", 4)
    blobs = MemoryBlobs()
    run = LocalRun(job_of(*steps, **options), store=blobs, clock=clock, shards=shards)
    run.load(numbers(count))
    return run, blobs


def process(run, step="s1", shard="01"):
    run.process(run.job.step(step), shard)


def die(run, step="s1", shard="01"):
    with pytest.raises(Killed):
        process(run, step, shard)


def last_attempt(run, step="s1", shard="01"):
    return run.generation.attempts(step, shard)[-1]

"""How many records the next block takes."""

from __future__ import annotations

import pytest

from batch_provider.domain.spec import JobSpec
from batch_provider.engine.load.load import planned_shards
from batch_provider.engine.process.sizing import FIRST_BLOCK, LARGEST_BLOCK, BlockSizer


def test_explicit_size_is_kept_exactly():
    sizer = BlockSizer(100)
    sizer.learn(100, 0.0001, 10)

    assert sizer.size == 100


@pytest.mark.parametrize(
    ("seconds", "size_bytes", "size"),
    [
        pytest.param(0.001, 1_000, FIRST_BLOCK * 8, id="fast: grows by 8 at most"),
        pytest.param(FIRST_BLOCK * 0.5, 1_000, 2, id="half a second each"),
        pytest.param(FIRST_BLOCK * 100.0, 1_000, 1, id="very slow: one"),
        pytest.param(0.0, 0, FIRST_BLOCK * 8, id="no time at all"),
        pytest.param(0.001, FIRST_BLOCK * 8 * 2**20, 2, id="8 MiB each"),
    ],
)
def test_auto_aims_at_a_second_and_bounded_memory(seconds, size_bytes, size):
    sizer = BlockSizer("auto")
    sizer.learn(FIRST_BLOCK, seconds, size_bytes)

    assert sizer.size == size


def test_auto_has_a_largest_block():
    sizer = BlockSizer("auto")
    for _ in range(20):
        sizer.learn(sizer.size, 1e-9, 1)

    assert sizer.size == LARGEST_BLOCK


def test_empty_block_teaches_nothing():
    sizer = BlockSizer("auto")
    sizer.learn(0, 100.0, 0)

    assert sizer.size == FIRST_BLOCK


@pytest.mark.parametrize(
    ("shards", "bound", "planned"), [(None, None, 8), (None, 3, 3), (2, 3, 2), (3, 3, 3), (None, 20, 8)]
)
def test_planned_shards(shards, bound, planned):
    job = JobSpec("job", shards=shards, max_concurrency=bound)
    assert planned_shards(job, total=1_000_000, slots=8) == planned

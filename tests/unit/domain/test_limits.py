"""The failure limit: what it accepts, and when it is exceeded."""

from __future__ import annotations

import math

import pytest

from batch_provider.domain.errors import InvalidOptionError
from batch_provider.domain.limits import FailureCounts, FailureLimit


@pytest.mark.parametrize(
    "ratio",
    [
        pytest.param(-0.01, id="below 0"),
        pytest.param(1.01, id="above 1"),
        pytest.param("x", id="text"),
        pytest.param({}, id="dict"),
        pytest.param(math.nan, id="nan"),
        pytest.param(math.inf, id="inf"),
        pytest.param(True, id="bool"),
    ],
)
def test_ratio_outside_0_to_1_is_refused(ratio):
    with pytest.raises(InvalidOptionError, match=r"max_failed_ratio=.*use a number from 0 to 1"):
        FailureLimit(max_failed_ratio=ratio)


@pytest.mark.parametrize("ratio", [0, 0.0, 0.011, 1, None])
def test_ratio_from_0_to_1_is_accepted(ratio):
    assert FailureLimit(max_failed_ratio=ratio).max_failed_ratio == ratio


@pytest.mark.parametrize("count", [-2, 1.0, "1", None, True])
def test_count_that_means_nothing_is_refused(count):
    with pytest.raises(InvalidOptionError, match="max_failed_records="):
        FailureLimit(count)


@pytest.mark.parametrize("sample", [0, -1, 2.5, "1", True])
def test_sample_that_means_nothing_is_refused(sample):
    with pytest.raises(InvalidOptionError, match="minimum_sample="):
        FailureLimit(minimum_sample=sample)


@pytest.mark.parametrize(
    ("limit", "failed", "finished", "exceeded"),
    [
        pytest.param(FailureLimit(), 0, 10, None, id="default, none failed"),
        pytest.param(FailureLimit(), 1, 10, "max_failed_records=0", id="default stops at the first"),
        pytest.param(FailureLimit(2), 2, 10, None, id="as many as allowed"),
        pytest.param(FailureLimit(2), 3, 10, "max_failed_records=2", id="one more than allowed"),
        pytest.param(FailureLimit(10_000), 10_001, 10_001, "max_failed_records=10,000", id="readable number"),
        pytest.param(FailureLimit(-1), 10, 10, None, id="unlimited"),
        pytest.param(FailureLimit(0, 0.1, 10), 1, 10, None, id="ratio reached"),
        pytest.param(FailureLimit(0, 0.1, 10), 2, 10, "max_failed_ratio=0.1", id="ratio exceeded"),
        pytest.param(FailureLimit(0, 0.1, 10), 9, 9, None, id="sample too small"),
        pytest.param(FailureLimit(3, 0.5, 10), 4, 100, "max_failed_records=3", id="explicit count beside a ratio"),
        pytest.param(FailureLimit(3, 0.01, 10), 2, 100, "max_failed_ratio=0.01", id="ratio beside an explicit count"),
        pytest.param(FailureLimit(-1, 0.5, 10), 6, 10, "max_failed_ratio=0.5", id="ratio alone"),
        pytest.param(FailureLimit(0, 0, 1), 1, 10, "max_failed_ratio=0", id="ratio 0"),
        pytest.param(FailureLimit(0, 1, 1), 10, 10, None, id="ratio 1 never stops"),
    ],
)
def test_limit_is_exceeded_only_by_more_than_it_allows(limit, failed, finished, exceeded):
    error = limit.exceeded(FailureCounts(failed, finished))
    assert (error and error.limit) == exceeded


def test_final_counts_are_asked_however_small_the_sample():
    limit = FailureLimit(max_failed_ratio=0.1, minimum_sample=1_000)

    assert limit.exceeded(FailureCounts(100, 100)) is None
    assert limit.exceeded(FailureCounts(100, 100), final=True).limit == "max_failed_ratio=0.1"
    assert limit.exceeded(FailureCounts(0, 0), final=True) is None


@pytest.mark.parametrize(
    ("limit", "unlimited"),
    [
        pytest.param(FailureLimit(-1), True, id="-1"),
        pytest.param(FailureLimit(0), False, id="0"),
        pytest.param(FailureLimit(-1, 0.5), False, id="-1 with a ratio"),
    ],
)
def test_unlimited_means_that_no_number_stops_it(limit, unlimited):
    assert limit.is_unlimited is unlimited

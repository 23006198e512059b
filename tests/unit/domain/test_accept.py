"""The accept policy."""

from __future__ import annotations

import pytest

from batch_provider import AcceptPolicy
from batch_provider.domain.errors import InvalidOptionError


@pytest.mark.parametrize("value", [*AcceptPolicy, *(str(policy) for policy in AcceptPolicy)])
def test_policy_is_found_by_its_name(value):
    assert AcceptPolicy.of(value) == value


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("SOME", id="unknown"),
        pytest.param("all", id="lower case"),
        pytest.param(None, id="None"),
        pytest.param({}, id="unhashable"),
        pytest.param(1, id="number"),
    ],
)
def test_unknown_policy_is_refused(value):
    with pytest.raises(InvalidOptionError, match="use NO_FAILURES or ONLY_FAILURES or ALL"):
        AcceptPolicy.of(value)


@pytest.mark.parametrize(
    ("policy", "good", "failed"),
    [
        pytest.param(AcceptPolicy.NO_FAILURES, True, False, id="NO_FAILURES"),
        pytest.param(AcceptPolicy.ONLY_FAILURES, False, True, id="ONLY_FAILURES"),
        pytest.param(AcceptPolicy.ALL, True, True, id="ALL"),
    ],
)
def test_policy_admits(policy, good, failed):
    assert policy.admits(failed_before=False) is good
    assert policy.admits(failed_before=True) is failed

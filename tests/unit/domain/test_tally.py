"""Tallies add up in any order."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_provider.domain.tally import Tally

counts = st.integers(0, 10**9)
seconds = st.integers(0, 10**6).map(float)  # whole numbers add without rounding, so that == can be asked
tallies = st.builds(
    Tally,
    succeeded=counts,
    failed=counts,
    skipped=counts,
    newly_failed=counts,
    processed=counts,
    blocks=counts,
    errors=st.dictionaries(st.sampled_from(["KeyError", "ValueError", "OSError"]), counts),
    seconds=seconds,
    call_seconds=seconds,
    call_squares=seconds,
    slowest_call=seconds,
)


@given(tallies, tallies, tallies)
def test_merging_is_associative(a, b, c):
    assert (a + b) + c == a + (b + c)


@given(tallies, tallies)
def test_merging_is_commutative(a, b):
    assert a + b == b + a


@given(tallies)
def test_empty_tally_is_neutral(tally):
    assert tally + Tally() == tally == Tally() + tally


@given(tallies)
def test_tally_survives_json(tally):
    assert Tally.from_json(json.loads(json.dumps(tally.to_json()))) == tally


def test_received_is_the_sum_of_outcomes():
    assert Tally(succeeded=3, failed=2, skipped=1).received == 6


def test_rates_of_an_idle_tally_are_unknown():
    tally = Tally()

    assert (tally.records_per_second, tally.mean_call_seconds, tally.call_deviation_seconds) == (None, None, None)


def test_rates_of_a_working_tally():
    tally = Tally(processed=2, seconds=4.0, call_seconds=4.0, call_squares=10.0)  # calls of 1 and 3 seconds

    assert tally.records_per_second == 0.5
    assert tally.mean_call_seconds == 2.0
    assert tally.call_deviation_seconds == pytest.approx(1.0)


def test_deviation_is_never_the_root_of_a_rounding_error():
    assert Tally(processed=3, call_seconds=0.3, call_squares=0.0299).call_deviation_seconds == 0.0


@given(whole=tallies, part=tallies)
def test_without_takes_the_outcomes_of_a_part_out_again(whole, part):
    left = (whole + part).without(part)

    assert (left.succeeded, left.failed, left.skipped, left.newly_failed) == (
        whole.succeeded,
        whole.failed,
        whole.skipped,
        whole.newly_failed,
    )
    assert left.errors == {name: count for name, count in whole.errors.items() if count}

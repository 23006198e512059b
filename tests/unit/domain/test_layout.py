"""Ranges of ids: shards, tilings, file names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_provider.domain.layout import ClaimId, FileRef, ShardRef, Span, gaps, overlaps, overlay, plan_shards, tiles

DIGEST = "0" * 32


def ids(spans):
    return [number for span in spans for number in range(span.first, span.last + 1)]


@st.composite
def span_lists(draw, highest=200):
    cuts = sorted(draw(st.sets(st.integers(0, highest), max_size=12)))
    pairs = list(zip(cuts[::2], cuts[1::2], strict=False))
    return draw(st.permutations([Span(first, last) for first, last in pairs]))


def file(first, last, epoch=1, digest=DIGEST):
    return FileRef(Span(first, last), ClaimId(epoch, "0a0b0c0d"), digest)


@given(total=st.integers(0, 5_000), shards=st.integers(1, 1_000))
def test_shards_tile_the_input_evenly(total, shards):
    found = plan_shards(total, shards)

    assert len(found) == min(total, shards)
    assert ids(shard.span for shard in found) == list(range(total))
    sizes = {len(shard.span) for shard in found}
    assert not sizes or max(sizes) - min(sizes) <= 1
    assert [shard.id for shard in found] == sorted(shard.id for shard in found)


@pytest.mark.parametrize(
    ("total", "shards", "expected"),
    [
        pytest.param(0, 4, [], id="no records"),
        pytest.param(1, 8, [("01", 0, 0)], id="one record"),
        pytest.param(5, 2, [("01", 0, 1), ("02", 2, 4)], id="uneven"),
    ],
)
def test_shards_of_small_inputs(total, shards, expected):
    assert [(s.id, s.span.first, s.span.last) for s in plan_shards(total, shards)] == expected


def test_shard_ids_sort_as_text_beyond_99():
    assert [shard.id for shard in plan_shards(1_000, 1_000)][:2] == ["0001", "0002"]


def test_shard_label_is_for_people():
    shard = ShardRef("02", Span(1_000, 1_999))

    assert shard.label == "shard 02: records 1,000 to 1,999"
    assert ShardRef.from_json(shard.to_json()) == shard


@given(spans=span_lists(), whole=st.tuples(st.integers(0, 200), st.integers(0, 200)))
def test_gaps_are_the_ids_that_no_span_has(spans, whole):
    first, last = sorted(whole)

    found = gaps(Span(first, last), spans)

    assert ids(found) == [number for number in range(first, last + 1) if number not in set(ids(spans))]


@given(spans=span_lists())
def test_gaps_and_spans_tile_the_whole(spans):
    whole = Span(0, 200)

    assert tiles(whole, [*spans, *gaps(whole, spans)])
    assert tiles(whole, spans) is (gaps(whole, spans) == [])


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        pytest.param([Span(0, 4), Span(5, 9)], True, id="exact"),
        pytest.param([Span(5, 9), Span(0, 4)], True, id="any order"),
        pytest.param([Span(0, 9)], True, id="one"),
        pytest.param([Span(0, 3), Span(5, 9)], False, id="gap"),
        pytest.param([Span(0, 5), Span(5, 9)], False, id="overlap"),
        pytest.param([Span(0, 8)], False, id="too short"),
        pytest.param([Span(0, 10)], False, id="too long"),
        pytest.param([Span(0, 9), Span(0, 9)], False, id="twice"),
        pytest.param([], False, id="nothing"),
    ],
)
def test_tiling_has_neither_gap_nor_overlap(spans, expected):
    assert tiles(Span(0, 9), spans) is expected


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        pytest.param(Span(15, 30), Span(15, 20), id="right"),
        pytest.param(Span(0, 10), Span(10, 10), id="one id"),
        pytest.param(Span(12, 13), Span(12, 13), id="inside"),
        pytest.param(Span(0, 9), None, id="before"),
        pytest.param(Span(21, 30), None, id="after"),
    ],
)
def test_overlap_is_the_ids_both_have(other, expected):
    assert Span(10, 20).overlap(other) == expected
    assert other.overlap(Span(10, 20)) == expected


def test_later_claim_over_the_same_ids_counts():
    old, new, other = file(0, 4, 1), file(0, 4, 3), file(5, 9, 2)

    assert overlay([other, new, old]) == (new, other)
    assert overlay([old, other, new]) == (new, other)
    assert overlay([]) == ()


@given(
    first=st.integers(0, 10**12 - 1),
    last=st.integers(0, 10**12 - 1),
    epoch=st.integers(1, 999_999),
    token=st.from_regex(r"[0-9a-f]{8}", fullmatch=True),
    digest=st.from_regex(r"[0-9a-f]{32}", fullmatch=True),
)
def test_file_name_says_it_all(first, last, epoch, token, digest):
    ref = FileRef(Span(first, last), ClaimId(epoch, token), digest)

    assert FileRef.parse(ref.name) == ref


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(".tmp-0a0b0c0d-000000000000-000000000004.parquet", id="temporary"),
        pytest.param("notes.txt", id="another file"),
        pytest.param(file(0, 4).name + ".bak", id="suffix"),
        pytest.param("x" + file(0, 4).name, id="prefix"),
        pytest.param(file(0, 4).name.upper(), id="upper case"),
        pytest.param("", id="empty"),
    ],
)
def test_other_file_names_are_not_ours(name):
    assert FileRef.parse(name) is None


def test_claim_ids_compare_by_epoch_also_as_text():
    early, late = ClaimId(9, "ffffffff"), ClaimId(10, "00000000")

    assert early < late
    assert str(early) < str(late)
    assert ClaimId.parse(str(late)) == late


def test_next_claim_comes_after():
    assert ClaimId.next(None).epoch == 1
    assert ClaimId.next(ClaimId(7, "0a0b0c0d")).epoch == 8
    assert ClaimId.next(None) != ClaimId.next(None)


@pytest.mark.parametrize(
    ("span", "found"), [(Span(0, 9), False), (Span(5, 10), True), (Span(12, 13), True), (Span(21, 29), False)]
)
def test_overlaps_says_whether_ids_are_in_one_of_several_spans(span, found):
    assert overlaps(span, [Span(10, 14), Span(15, 20), Span(30, 30)]) is found

"""Runs are narrowed down to the one that dies alone; what survives on the way is finished."""

from __future__ import annotations

import pytest

from batch_provider.domain.layout import Span
from batch_provider.engine.isolation.index import CallIndex, Trace
from batch_provider.engine.isolation.search import RUN_RECORDS, Search

NOWHERE = Trace(None, None, None)


def hunt(killers, count, *, tells, group=1, halves=True):
    """Work through ``count`` ids of which some kill; returns who is blamed, finished runs, and the deaths."""
    search, blamed, finished, deaths, at = Search(halves_groups=halves), [], [], 0, 0
    while at < count:
        part, size = search.next(Span(at, count - 1), 16)
        run = part.head(size)
        first = next(
            (k for k in killers if run.first <= k <= run.last and not any(b.first <= k <= b.last for b in blamed)), None
        )
        if first is None:
            search.survived(run)
            finished.append(run)
            at = run.last + 1
            continue
        deaths += 1
        low = max(first - first % group, run.first)
        inside = Span(low, min(low + group - 1, run.last)) if tells else None
        if guilty := search.died(part, size, Trace(0, run, inside)):
            blamed.append(guilty)
    assert [span.first for span in finished] == [0, *(span.last + 1 for span in finished[:-1])]
    return blamed, finished, deaths


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("killers", [[0], [9], [39], [5, 6], [0, 15, 16, 39], list(range(7, 20))])
def test_every_record_that_kills_is_blamed_alone(killers, tells):
    blamed, _, deaths = hunt(killers, 40, tells=tells)
    assert blamed == [Span(k, k) for k in killers]
    assert deaths <= len(killers) * (3 if tells else 7)


def test_a_group_that_may_not_be_cut_is_blamed_as_a_whole():
    blamed, _, deaths = hunt([17], 40, tells=True, group=4, halves=False)
    assert (blamed, deaths) == ([Span(16, 19)], 3)


def test_a_group_that_may_be_cut_is_halved():
    assert hunt([18], 40, tells=True, group=4, halves=True)[0] == [Span(18, 18)]


def test_who_dies_in_company_only_is_not_blamed():
    search = Search(halves_groups=True)
    rest = Span(0, 39)
    assert search.next(rest, 16) == (rest, 16)
    assert search.died(rest, 16, Trace(0, None, Span(3, 3))) is None
    assert search.next(rest, 16) == (Span(0, 2), 3)
    search.survived(Span(0, 2))
    assert search.next(Span(3, 39), 16) == (Span(3, 3), 1)
    search.survived(Span(3, 3))
    assert search.next(Span(4, 39), 16) == (Span(4, 9), 6), "half of those that are left of the sixteen"
    search.survived(Span(4, 9))
    search.survived(Span(10, 15))
    assert search.next(Span(16, 39), 16) == (Span(16, 39), 16), "nobody is under suspicion any more"


def test_a_death_in_looking_ahead_for_the_end_of_a_group_is_looked_for_there():
    search = Search(halves_groups=True)
    assert search.died(Span(0, 99), 8, Trace(None, None, Span(30, 30))) is None
    assert search.next(Span(0, 99), 8) == (Span(0, 29), 30)


def test_a_run_is_bounded():
    assert Search(halves_groups=True).next(Span(0, 10**6), 10**5) == (Span(0, 10**6), RUN_RECORDS)


def test_what_a_child_notes_is_read_by_its_parent():
    index = CallIndex()
    assert index.read() == NOWHERE
    index.at_block(Span(4, 9))
    index.at_step(2)
    index.at_call(5, 5)
    assert index.read() == Trace(2, Span(4, 9), Span(5, 5))
    index.outside()
    assert index.read() == Trace(2, Span(4, 9), None)
    index.reset()
    assert index.read() == NOWHERE

"""SIGKILL at every commit point: no finished work is lost, none is done twice."""

from __future__ import annotations

import json
import random
import re
from fnmatch import fnmatchcase
from zlib import crc32

import pytest

from tests.crash.forks import KILLED
from tests.crash.points import COMMITS, database_places, store_places

pytestmark = pytest.mark.crash

STORE, DATABASE, SERVER = list(store_places()), list(database_places()), list(database_places(every=4))
SEED = 20_260_101
PAIRS = [random.Random(f"{SEED}-{number}").sample([*STORE, *DATABASE], 2) for number in range(12)]
FAILURES = [random.Random(f"{SEED}+{number}").choice([*STORE, *DATABASE]) for number in range(12)]


def test_the_undisturbed_job_does_what_the_others_are_compared_with(undisturbed):
    """Otherwise all comparisons could be of nothing with nothing."""
    found = undisturbed.outcome
    assert found["state"] == "SUCCESSFUL"
    assert found["counts"] == [64, 64, 54, 10, 105, 0]
    assert found["steps"] == [
        ["validate", 64, 55, 7, 2, 0],
        ["price", 64, 54, 1, 9, 0],
        ["group", 64, 54, 0, 10, 0],
        ["log", 64, 54, 0, 10, 0],
        ["store", 64, 54, 0, 10, 0],
        ["notify", 64, 54, 0, 10, 0],
        ["quarantine", 64, 10, 0, 54, 0],
    ]
    assert [error[:3] for error in found["errors"]] == [
        ["MalformedRecord", "input", 2],
        ["TensError", "validate", 7],
        ["CheckFailed", "price", 1],
    ]
    assert len(found["orders"]) == len({row[0] for row in found["orders"]}) == len(found["logged"]) == 54
    assert undisturbed.logged_rows() == 54
    assert len(found["ledger"]) == 8 * 64
    assert len(found["dead_letters"]) == 10
    assert set(undisturbed.calls.values()) == {1}


def test_no_kind_of_commit_point_is_left_out(undisturbed):
    """A new kind of file, or a commit more, needs a place where it is killed."""
    points = json.loads((undisturbed.folder / "points.json").read_text())
    patterns = [place.pattern for place in [*STORE, *DATABASE]]
    patterns = [re.sub(":before |:after ", ":* ", pattern) for pattern in patterns]
    missed = [point for point in points if not any(fnmatchcase(point, pattern) for pattern in patterns)]
    shapes = {re.sub(r"/(0[12]|g1-\w+|store|v1|local|crash|local~run~crash)(?=/|$)", "", point) for point in missed}
    ancestors = {f"{do}:{when} " for do in ("sync", "make_directory") for when in ("before", "after")}
    parents = {shape for shape in shapes if re.fullmatch(r"(sync|make_directory):\w+ (/[a-z_]+){1,2}", shape)}
    assert shapes - ancestors - parents == set()
    assert sum(point == "commit:after warehouse" for point in points) == COMMITS


@pytest.mark.parametrize("place", [*STORE, *DATABASE], ids=str)
def test_killed_at(job, undisturbed, place):
    assert job.work(at=place.pattern, skip=place.skip) == KILLED
    assert job.work() == 0
    job.is_as_if_undisturbed(undisturbed)


@pytest.mark.parametrize("place", SERVER, ids=str)
def test_killed_over_a_database_server_at(postgres_job, undisturbed, place):
    assert postgres_job.work(at=place.pattern, skip=place.skip) == KILLED
    assert postgres_job.work() == 0
    postgres_job.is_as_if_undisturbed(undisturbed)


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=str)
def test_killed_twice(job, undisturbed, first, second):
    """At one place, and where it can be reached again at another one; the rest is done over and over."""
    assert job.work(at=first.pattern, skip=first.skip) == KILLED
    assert job.work(at=second.pattern, skip=second.skip // 2) in (KILLED, 0)
    assert job.work(at="rename:after */attempts/*", skip=3) in (KILLED, 0)
    assert job.work() == 0
    job.is_as_if_undisturbed(undisturbed)


@pytest.mark.parametrize("place", random.Random(SEED).sample([*STORE, *DATABASE], 8), ids=str)
def test_killed_when_airflow_never_learned_what_was_done(job, undisturbed, place):
    """The last task that had ended is tried again too: what it has done stays done."""
    assert job.work(at=place.pattern, skip=place.skip) == KILLED
    assert job.work(forgets=True) == 0
    job.is_as_if_undisturbed(undisturbed)
    calls = job.calls
    assert job.work(forgets=True) == 0
    assert {call.split()[0] for call in job.calls - calls} == {"report"}
    assert job.outcome == undisturbed.outcome


@pytest.mark.parametrize("place", FAILURES, ids=str)
@pytest.mark.parametrize("killed_before", [False, True], ids=["", "after-a-kill"])
def test_power_lost(job, undisturbed, place, killed_before):
    """What was not synced is torn or gone, also what a process that was killed before had left in the cache."""
    job.options["seed"] = crc32(str(place).encode())
    if killed_before:
        assert job.work(at=place.pattern, skip=max(place.skip - 1, 0)) == KILLED
    job.work(at=place.pattern, skip=place.skip, action="lose_power")
    assert job.work() == 0
    job.is_as_if_undisturbed(undisturbed, power_lost=True)

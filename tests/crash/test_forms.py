"""The job with fused steps, with a writer of files, and with both: the same comes of it, whatever is killed."""

from __future__ import annotations

import json
import random
import shutil
from contextlib import closing
from fnmatch import fnmatchcase
from zlib import crc32

import pytest

from batch_provider.domain.errors import CorruptCheckpointError
from tests.crash.forks import KILLED, STOPPED
from tests.crash.points import FUSED, files_places, fused_places
from tests.crash.test_damage import DAMAGES, same_but_for_calls
from tests.crash.work import STEPS, Form, Runner, sqlite_warehouse

pytestmark = pytest.mark.crash

PLACES = {"fused": list(fused_places()), "files": list(files_places())}
FORMS = {"fused": {"fused": True}, "files": {"files": True}, "both": {"fused": True, "files": True}}
BOTH = [place for places in PLACES.values() for place in places[2::6] if "warehouse" not in place.pattern]
CASES = [
    *(pytest.param(form, place, id=f"{form}-{place}") for form, places in PLACES.items() for place in places),
    *(pytest.param("both", place, id=f"both-{place}") for place in BOTH),
]
LOST = [
    pytest.param(form, place, id=f"{form}-{place}")
    for form, places in PLACES.items()
    for place in random.Random(form).sample(places, 4)
]
FIRST_OF_A_DIRECTORY = [
    f"make_directory:after */lake{rest}" for rest in ("", "/_manifest", "/local~run~crash", "/local~run~crash/g1-*")
]


@pytest.mark.parametrize("form", FORMS)
def test_undisturbed_it_comes_to_the_same(job, undisturbed, form):
    job.options |= FORMS[form]
    assert job.work() == 0
    job.is_as_if_undisturbed(undisturbed)
    assert job.calls == undisturbed.calls

    points = json.loads((job.folder / "points.json").read_text())
    assert any(f"/steps/{FUSED}/" in point for point in points) is (form != "files")
    assert any("/steps/validate/" in point for point in points) is (form == "files")
    wrote = [point for point in points if "/lake" in point]
    assert bool(wrote) is (form != "fused")
    patterns = [place.pattern.replace(":after ", ":* ").replace(":before ", ":* ") for place in PLACES["files"]]
    assert [point for point in wrote if not any(fnmatchcase(point, pattern) for pattern in patterns)] == []


@pytest.mark.parametrize(("form", "place"), CASES)
def test_killed_at(job, undisturbed, form, place):
    job.options |= FORMS[form]
    assert job.work(at=place.pattern, skip=place.skip) == KILLED
    assert job.work() == 0
    job.is_as_if_undisturbed(undisturbed)


@pytest.mark.parametrize("killed_before", [False, True], ids=["", "after-a-kill"])
@pytest.mark.parametrize(("form", "place"), LOST)
def test_power_lost(job, undisturbed, form, place, killed_before):
    job.options |= {**FORMS[form], "seed": crc32(str(place).encode())}
    if killed_before:
        assert job.work(at=place.pattern, skip=max(place.skip - 1, 0)) == KILLED
    job.work(at=place.pattern, skip=place.skip, action="lose_power")
    assert job.work() == 0
    job.is_as_if_undisturbed(undisturbed, power_lost=True)


@pytest.mark.parametrize("place", FIRST_OF_A_DIRECTORY)
def test_a_directory_that_a_killed_attempt_made_is_not_lost_with_what_counts_in_it(job, undisturbed, place):
    """Its name was not synced by who made it; a loss of power once all is done must not take it."""
    job.options |= {"files": True}
    for seed in range(2):
        job.options["seed"] = seed
        shutil.rmtree(job.folder)
        job.prepare()
        assert job.work(at=place) == KILLED
        assert job.work(at="rename:after *result.*.json", action="lose_power") == KILLED
        assert job.work() == 0
        job.is_as_if_undisturbed(undisturbed, power_lost=True)


@pytest.mark.parametrize(
    ("form", "place", "skip"),
    [
        ("fused", f"rename:before */claims/{FUSED}/*", 1),
        ("fused", f"rename:before */steps/{FUSED}/*", 1),
        ("fused", f"rename:before */attempts/{FUSED}/*", 1),
        ("files", "write:before */lake/*part-*", 1),
        ("files", "rename:after */lake/*/part-*", 2),
        ("files", "rename:before */steps/store/*", 1),
        ("files", "rename:before */lake/_manifest/*", 0),
        ("files", "rename:after */lake/_manifest/*", 0),
    ],
)
def test_a_process_that_stood_still_counts_for_nothing_when_it_goes_on(job, undisturbed, form, place, skip):
    job.options |= FORMS[form]
    pid, code = job.forks.start(job.folder, at=place, skip=skip, action="stop", **job.options)
    assert code == STOPPED
    job.kills += 1
    assert job.work() == 0
    job.is_as_if_undisturbed(undisturbed)

    if job.forks.resume(pid):
        assert "FencedError" in (job.folder / "error").read_text()
    assert job.work(reads=True) == 0
    job.kills += 1  # what it had in flight, and the callback of on_complete
    job.is_as_if_undisturbed(undisturbed)


@DAMAGES
def test_a_damaged_checkpoint_of_fused_steps_is_named_and_made_again_from_upstream(job, undisturbed, damage):
    job.options |= {"fused": True, "keyed": True}
    with closing(job.connect()) as connection:
        connection.execute("CREATE UNIQUE INDEX orders_n ON orders (n)")
        connection.commit()
    runner = Runner(job.folder, sqlite_warehouse(job.folder), form=Form(keyed=True, fused=True))
    job.work(at="rename:before *result.*.json")
    file = min((job.folder / "store").rglob(f"steps/{FUSED}/02/*.parquet"))
    damage(file)

    with pytest.raises(CorruptCheckpointError, match="Clear the task of the step that wrote it") as caught:
        runner.work()
    assert str(file) in str(caught.value)

    runner.clear(STEPS[0])
    runner.work()
    same_but_for_calls(job, undisturbed)

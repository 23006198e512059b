"""Progress files are advice: one that a power loss has torn is no progress, for everybody who reads it."""

from __future__ import annotations

import pytest

from batch_provider.domain.tally import Tally
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.storage.views.instance_view import InstanceView
from batch_provider.testing import LocalRun
from tests.builders import Killed, Step, job_of, numbers

TORN = [
    pytest.param(b"", id="empty"),
    pytest.param(b"\0" * 200, id="zeros"),
    pytest.param(b'{"round": 0, "at": "2030-01-01T00:00:00+00:00", "tal', id="cut off"),
    pytest.param(b'{"round": 0, "at": "2030-01-01T00:00:00+00:00", "tally": 7}', id="no tally"),
    pytest.param(b"{}", id="nothing in it"),
    pytest.param(b"null", id="no object"),
    pytest.param(b'"' + b"\xff" * 20, id="no text"),
]


@pytest.fixture
def killed():
    """Two shards; the task of the first was killed in its second block, after it had told of the first one."""
    run = LocalRun(job_of(Step(dies_at=2), block_size=2), store=MemoryBlobs(), shards=2)
    run.load(numbers(8))
    with pytest.raises(Killed):
        run.process(run.job.steps[0], "01")
    return run


def tear(run, content):
    directory = f"{run.generation.base}/progress/s1/01"
    (name,) = run.store.blobs.files(directory)
    run.store.blobs.put(f"{directory}/{name}", content)


def test_what_a_killed_attempt_told_of_is_its_work(killed):
    assert killed.complete().step("s1").processed == 2


@pytest.mark.parametrize("content", TORN)
def test_on_complete_closes_an_instance_with_a_torn_progress_file(killed, content):
    tear(killed, content)

    result = killed.complete()

    assert result.step("s1").processed == 0
    assert (result.successful_records, result.not_run_records) == (2, 6)
    assert killed.store.result() == result


@pytest.mark.parametrize("content", TORN)
def test_how_far_an_instance_is_can_be_asked_beside_a_torn_progress_file(killed, content):
    tear(killed, content)

    assert InstanceView(killed.store).progress() == {"s1": Tally()}


@pytest.mark.parametrize("content", TORN)
def test_other_shards_go_on_beside_a_torn_progress_file(killed, content):
    tear(killed, content)

    killed.process(killed.job.steps[0], "02")

    assert killed.generation.attempts("s1", "02")[-1].outcome == "done"

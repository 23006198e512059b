"""What on-complete reads and writes of a generation."""

from __future__ import annotations

import pytest

from batch_provider.domain.errors import FencedError
from batch_provider.domain.layout import Span
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.storage.blobs.protocol import put_json
from batch_provider.storage.instances.completion import Completion
from batch_provider.testing import LocalRun
from tests.builders import Step, job_of, numbers


@pytest.fixture
def run():
    run = LocalRun(job_of(Step(fails={5}), Step(), block_size=2), shards=2, store=MemoryBlobs())
    run.load(numbers(8))
    run.process_all()
    return run


def test_result_claims_come_one_after_the_other(run):
    completion = Completion(run.generation)

    assert [completion.begin_result(run.info).epoch for _ in range(3)] == [1, 2, 3]


class RacingBlobs(MemoryBlobs):
    """Another on-complete claims the result at the same moment."""

    def put(self, name, data, **options):
        super().put(name, data, **options)
        directory, _, file = name.rpartition("/")
        if directory.endswith("claims/on_complete/all"):
            super().put(f"{directory}/{file[:6]}-ffffffff.json", b"{}")


def test_of_two_results_at_the_same_moment_one_wins():
    run = LocalRun(job_of(Step()), store=RacingBlobs())
    run.load(numbers(2))
    run.process_all()

    with pytest.raises(FencedError, match="step 'on_complete'"):
        run.complete()
    assert run.store.result() is None


def test_spans_are_cut_to_the_shard(run):
    completion = Completion(run.generation)
    close = completion.tries("s1", "02")[-1]

    assert list(completion.spans("input", "02", None)) == [Span(4, 7)]
    assert list(completion.spans("s1", "02", close)) == [Span(4, 5), Span(6, 7)]
    assert list(completion.spans("s1", "02", close, failed=True)) == [Span(4, 5)]
    assert list(completion.spans("input", "02", None, failed=True)) == []


def test_rows_are_the_steps_own(run):
    completion = Completion(run.generation)
    close = completion.tries("s1", "02")[-1]

    rows = completion.rows("s1", "02", close, Span(4, 6), ["_status", "n"])

    assert rows.to_pydict() == {"_id": [4, 5, 6], "_status": [1, 2, 1]}


def test_pinned_upstream_of_an_attempt(run):
    completion = Completion(run.generation)
    first, second = completion.tries("s1", "01")[-1], completion.tries("s2", "01")[-1]

    assert completion.pinned(first) is None
    assert completion.pinned(second) == first.claim
    assert completion.upstream_reader(second, "01").read(Span(0, 3)).num_rows == 4


def test_stop_requests_are_those_there_are(run):
    base = run.generation.base
    put_json(run.store.blobs, f"{base}/stop/b.json", {"reason": "x"})
    put_json(run.store.blobs, f"{base}/stop/a.json", {"reason": "x"})

    assert list(Completion(run.generation).stop_requests()) == ["a.json", "b.json"]
    assert run.complete().stops == ("a.json", "b.json")

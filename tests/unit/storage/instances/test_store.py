"""Instances of a store: loads, generations, results."""

from __future__ import annotations

import json

import pytest

from batch_provider.domain.errors import DuplicateInstanceError, FencedError
from batch_provider.domain.instance import AttemptInfo, JobInstance, Manifest
from batch_provider.domain.layout import ClaimId
from batch_provider.storage import paths
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.storage.claims.loads import LoadAttempt, put_load
from batch_provider.storage.instances.store import InstanceStore
from batch_provider.testing import FakeClock, LocalRun
from tests.builders import Step, job_of, numbers

INFO = AttemptInfo("round-1")


def store_of(blobs, dag="etl", run="run", job="flights", identity="flights-1"):
    return InstanceStore(blobs, FakeClock(), JobInstance(identity, dag, run, job))


def attempt_of(instance):
    return LoadAttempt(instance, "g1-0a1b2c3d", INFO, FakeClock().now())


def test_nothing_is_loaded():
    store = store_of(MemoryBlobs())

    assert store.latest() is None
    assert store.result() is None
    assert store.load_failure() is None
    assert store.load_claims() == []


def test_earlier_attempt_to_load_cannot_commit_after_a_later_one_began():
    store = store_of(MemoryBlobs())
    first = store.begin_load(INFO)
    second = store.begin_load(INFO)
    assert (first.claim.epoch, second.claim.epoch) == (1, 2)

    with pytest.raises(FencedError, match="step 'load', shard all"):
        first.commit(None)
    assert store.latest() is None


def test_an_owner_that_is_there_is_seen_whatever_its_claim():
    blobs = MemoryBlobs()
    mine, theirs = store_of(blobs), store_of(blobs, dag="other")
    work = mine.begin_load(INFO)

    put_load(blobs, theirs.base, ClaimId(1, "00000000"), attempt_of(theirs.instance))

    with pytest.raises(DuplicateInstanceError, match="belongs to DAG 'other'"):
        mine.begin_load(INFO)
    with pytest.raises(DuplicateInstanceError, match="belongs to DAG 'etl'"):
        theirs.begin_load(INFO)
    assert mine.load_claims() == [work.claim]


class RacingBlobs(MemoryBlobs):
    """Another owner begins to load under the same id at the same moment."""

    def __init__(self, rival, token):
        super().__init__()
        self.rival, self.token = rival, token

    def put(self, name, data, **options):
        if "/load/" in name:
            path = paths.load_file(paths.instance_dir(self.rival), ClaimId(1, self.token))
            super().put(path, json.dumps(attempt_of(self.rival).to_json()).encode())
        super().put(name, data, **options)


@pytest.mark.parametrize("token", ["00000000", "ffffffff"], ids=["lower", "higher"])
def test_owner_that_loses_the_race_leaves_nothing(token):
    rival = JobInstance("flights-1", "other", "run", "flights")
    store = store_of(RacingBlobs(rival, token))

    with pytest.raises(DuplicateInstanceError, match="belongs to DAG 'other'"):
        store.begin_load(INFO)

    assert store.load_claims() == []


def test_retry_is_told_by_its_round():
    run = LocalRun(job_of(Step()))
    run.load(numbers(2))

    assert isinstance(run.store.begin_load(run.info), Manifest)
    assert not isinstance(run.store.begin_load(AttemptInfo("another round")), Manifest)


def test_result_of_an_older_generation_stays_readable():
    run = LocalRun(job_of(Step()))
    run.run(numbers(2))
    older = run.generation.manifest.generation
    run.next_round()
    run.run(numbers(3))

    assert run.store.result(older).total_records == 2
    assert run.store.result().total_records == 3


@pytest.mark.parametrize(
    ("name", "number"),
    [
        pytest.param("g1-0a0b0c0d", 1, id="first"),
        pytest.param("g12-0a0b0c0d", 12, id="twelfth"),
        pytest.param("g1-0a0b", None, id="short"),
        pytest.param("load", None, id="another directory"),
        pytest.param("xg1-0a0b0c0d", None, id="prefix"),
    ],
)
def test_generation_has_a_number(name, number):
    assert paths.generation_number(name) == number


def test_new_generation_comes_after_those_present():
    assert paths.new_generation(["load", "g9-0a0b0c0d", "g10-0a0b0c0d"]).startswith("g11-")
    assert paths.new_generation([]).startswith("g1-")

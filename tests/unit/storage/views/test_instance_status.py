"""Where an instance stands: one answer for the state, the round and the result, whoever asks."""

from __future__ import annotations

import pytest

from batch_provider import JobState
from batch_provider.domain.errors import StorageError
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.storage.views.instance_view import InstanceView
from batch_provider.testing import Fault, Faults, FaultyBlobs, LocalRun, raising
from tests.builders import Step, job_of, numbers


@pytest.fixture
def run():
    return LocalRun(job_of(Step(), Step()), shards=2)


def status(run, **options):
    return InstanceView(run.store).status(**options)


@pytest.mark.parametrize("ended", [None, False])
def test_the_first_run_is_round_one(run, ended):
    assert status(run, run_has_ended=ended).state is None
    run.load(numbers(4))
    assert (status(run).state, status(run).round, status(run).is_at_work) == (JobState.EXECUTING, 1, True)
    run.process_all()
    result = run.complete()
    found = status(run, run_has_ended=ended)
    assert (found.state, found.round, found.result, found.is_at_work) == (JobState.SUCCESSFUL, 1, result, False)


def test_a_run_that_has_ended_without_a_result_is_cancelled(run):
    run.load(numbers(4))
    assert status(run, run_has_ended=True).state is JobState.CANCELLED


def test_while_a_redrive_runs_the_state_is_not_that_of_the_round_before(run):
    run.run(numbers(4))
    run.next_round()
    held = run.generation.claim("s1", "01", run.info)

    for ended in (None, False):
        found = status(run, run_has_ended=ended)
        assert (found.state, found.round, found.is_at_work) == (JobState.EXECUTING, 2, True)
        assert "another attempt at step 's1' (shard 01)" in found.result.stale
    interrupted = status(run, run_has_ended=True)
    assert (interrupted.state, interrupted.round) == (JobState.SUCCESSFUL, 1)
    assert interrupted.result.stale

    held.abandon("it went away")
    assert status(run).state is JobState.SUCCESSFUL  # nobody is at work, and nobody was asked
    assert status(run, run_has_ended=False).state is JobState.EXECUTING
    run.process_all()
    run.complete()
    assert (status(run).state, status(run).round) == (JobState.SUCCESSFUL, 2)


def test_a_second_report_of_the_same_attempts_is_no_round(run):
    run.run(numbers(4))
    run.complete()
    assert status(run).round == 1


def test_every_reader_is_told_that_a_result_is_out_of_date(run):
    run.run(numbers(4))
    assert run.store.result().stale == ""
    run.next_round()
    run.process(run.job.steps[0], "01")

    view = InstanceView(run.store)
    assert run.store.result().stale == view.result().stale == view.status(run_has_ended=True).result.stale != ""


def test_the_error_that_ended_an_attempt_is_told_until_somebody_repeats_it():
    down = StorageError("write", "/data/x", "the disk is full; free some space")
    store = FaultyBlobs(MemoryBlobs(), Faults(Fault("put:before */steps/*", raising(down))))
    run = LocalRun(job_of(Step()), store=store)
    run.load(numbers(4))
    with pytest.raises(StorageError):
        run.process(run.job.steps[0], "01")

    assert status(run).failed == (f"Step 's1' of shard 01 failed: StorageError: {down}",)
    run.process(run.job.steps[0], "01")
    assert status(run).failed == ()

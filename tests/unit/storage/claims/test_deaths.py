"""Attempts that died at the same place of a shard are counted, and nothing else is."""

from __future__ import annotations

import pytest

from batch_provider.domain.outcome import CloseOutcome
from batch_provider.domain.spec import JobSpec
from batch_provider.storage.claims.deaths import AS_GOOD_AS_DEAD
from batch_provider.testing import LocalRun
from tests.builders import Killed, Step, job_of, numbers


@pytest.fixture
def step():
    return Step()


@pytest.fixture
def run(step):
    run = LocalRun(job_of(step, block_size=2, max_process_deaths=99))
    run.load(numbers(8))
    return run


def claim(run):
    return run.generation.claim("s1", "01", run.info, run.job)


def die(run, step, at):
    step.dies_at = at
    with pytest.raises(Killed):
        run.process_all()


def close(work, outcome, reason=""):
    work.close(outcome, work.tally, fingerprint="", reason=reason)


def test_a_first_attempt_follows_no_death(run):
    assert claim(run).deaths == 0


def test_deaths_at_one_place_are_counted(run, step):
    die(run, step, 5)
    die(run, step, 5)
    assert claim(run).deaths == 2


def test_a_commit_resets_the_count(run, step):
    die(run, step, 1)
    die(run, step, 1)
    die(run, step, 5)
    assert claim(run).deaths == 1


def test_an_attempt_that_ended_by_itself_ends_the_count(run, step):
    die(run, step, 1)
    close(claim(run), CloseOutcome.STOPPED, "the task was told to end")
    assert claim(run).deaths == 0


def test_seals_and_rounds_between_two_deaths_change_nothing(run, step):
    die(run, step, 5)
    run.complete()  # seals the shard
    run.next_round()
    assert claim(run).deaths == 1
    claim(run).abandon("passed over")
    assert claim(run).deaths == 2, "the one just claimed is open"


@pytest.mark.parametrize("error", AS_GOOD_AS_DEAD)
def test_an_attempt_that_lived_to_close_itself_for_lack_of_memory_is_as_good_as_dead(run, step, error):
    die(run, step, 5)
    close(claim(run), CloseOutcome.STOPPED, f"{error}: 3 GB")
    assert claim(run).deaths == 2


def test_in_a_redrive_the_deaths_of_the_round_are_counted(run, step):
    step.fails = {1, 3, 5}
    run.process_all()
    run.complete()
    run.next_round()
    step.fails = set()
    die(run, step, 1)
    assert claim(run).deaths == 1
    run.process_all()
    run.complete()
    run.next_round()
    assert claim(run).deaths == 0


def test_the_option_is_a_whole_number():
    with pytest.raises(ValueError, match="max_process_deaths"):
        JobSpec("j", max_process_deaths=-1)

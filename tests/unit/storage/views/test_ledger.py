"""The ledger: what can be asked while a job runs and afterwards."""

from __future__ import annotations

from datetime import datetime

import pytest

from batch_provider.testing import FakeClock, LocalRun
from tests.builders import Killed, Step, job_of, numbers, outcomes


@pytest.fixture
def run():
    run = LocalRun(
        job_of(Step(fails={1, 2}), (Step(), {"accept_expression": "n > 3"}), block_size=2),
        clock=FakeClock(tick_seconds=1),
        shards=2,
    )
    run.load(numbers(6))
    return run


def test_ledger_before_anything_ran(run):
    assert run.query("SELECT step FROM steps ORDER BY position") == [("input",), ("s1",), ("s2",)]
    assert outcomes(run, "input") == dict.fromkeys(range(6), "SUCCEEDED")
    assert outcomes(run, "s1") == dict.fromkeys(range(6), "NOT_RUN")
    assert run.query("SELECT count(*) FROM attempts") == [(0,)]
    assert run.query("SELECT count(*) FROM failures") == [(0,)]


def test_ledger_shows_committed_blocks_of_a_running_attempt():
    run = LocalRun(job_of(Step(fails={1}, dies_at=4), block_size=2))
    run.load(numbers(6))
    with pytest.raises(Killed):
        run.process(run.job.steps[0], "01")

    assert list(outcomes(run, "s1").values()) == ["SUCCEEDED", "FAILED", "SUCCEEDED", "SUCCEEDED", "NOT_RUN", "NOT_RUN"]
    assert run.query("SELECT record_id FROM failures") == [(1,)]


def test_records_have_one_final_outcome(run):
    run.process_all()

    assert run.query("SELECT * FROM records ORDER BY 1") == [
        (0, "SUCCEEDED", 1),
        (1, "FAILED", 1),
        (2, "FAILED", 1),
        (3, "SUCCEEDED", 1),
        (4, "SUCCEEDED", 0),
        (5, "SUCCEEDED", 0),
    ]


def test_equal_outcomes_are_kept_as_runs(run):
    run.process_all()

    assert run.query("SELECT shard, first_id, last_id, outcome FROM outcome_runs WHERE step = 's1' ORDER BY 2") == [
        ("01", 0, 0, "SUCCEEDED"),
        ("01", 1, 2, "FAILED"),
        ("02", 3, 5, "SUCCEEDED"),
    ]


def test_failures_tell_what_when_and_by_whom(run):
    run.process_all()

    ((record, step, kind, message, attempt, at), second) = run.query("SELECT * FROM failures ORDER BY 1")
    assert (record, step, kind, message) == (1, "s1", "ValueError", "record 1 is bad")
    assert attempt.startswith("000001-")
    assert isinstance(at, datetime)
    assert second[0] == 2
    assert run.query("SELECT * FROM errors") == [("s1", "ValueError", 2, "record 1 is bad")]


def test_attempts_tell_what_was_done(run):
    run.process_all()

    rows = run.query("SELECT step, shard, outcome, processed, blocks, try_number FROM attempts ORDER BY 1, 2")
    assert rows == [
        ("s1", "01", "done", 3, 2, 1),
        ("s1", "02", "done", 3, 2, 1),
        ("s2", "01", "done", 0, 2, 1),
        ("s2", "02", "done", 2, 2, 1),
    ]


def test_ledger_of_no_records():
    run = LocalRun(job_of(Step()))
    run.run([])

    assert run.query("SELECT count(*) FROM records") == [(0,)]


def test_ledger_keeps_every_attempt_of_a_redrive(run):
    run.process_all()
    run.complete()
    run.next_round()
    run.process_all()
    result = run.complete()

    assert result.step("s1").attempts == 4
    assert run.query("SELECT count(*) FROM attempts WHERE step = 's1'") == [(4,)]
    assert run.query("SELECT record_id FROM failures ORDER BY 1") == [(1,), (2,)]

"""An attempt that stands still between its look and its claim, while others work: it takes over what they made."""

from __future__ import annotations

import itertools

import pytest

from batch_provider import JobState
from batch_provider.domain.errors import FencedError
from batch_provider.domain.layout import ClaimId, Span
from batch_provider.domain.outcome import CloseOutcome
from batch_provider.engine.process.process import ShardTask, process_shard
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.storage.reading.checkpoint_file import open_checkpoint
from batch_provider.testing import Fault, Faults, FaultyBlobs, LocalRun
from tests.builders import Killed, Step, checkpoint_files, job_of, numbers


def loaded(*steps, **options):
    """A loaded job, and a list to put into what others do while a claim is about to be put."""
    meanwhile = []
    waiting = Fault("put:before */claims/s1/01/*", lambda _: meanwhile and meanwhile.pop(0)(), times=None)
    run = LocalRun(job_of(*steps, **{"block_size": 4, **options}), store=FaultyBlobs(MemoryBlobs(), Faults(waiting)))
    run.load(numbers(10))
    return run, meanwhile


@pytest.fixture
def tokens(monkeypatch):
    """What the tokens of the next claims are."""
    given = []
    real = itertools.count(0x1000)
    monkeypatch.setattr("secrets.token_hex", lambda _: given.pop(0) if given else f"{next(real):08x}")
    return given


def all_claims(run):
    return [str(claim) for claim in run.generation.claim_ids("s1", "01")]


def test_one_that_comes_late_with_the_higher_token_finds_nothing_to_do(tokens):
    step = Step(fails={3})
    run, meanwhile = loaded(step)
    meanwhile.append(run.process_all)
    tokens += ["ffffffff", "00000000", "11111111"]

    run.process(run.job.steps[0], "01")

    assert sorted(step.seen) == list(range(10)), "no record was worked on twice"
    assert all_claims(run) == ["000001-00000000", "000001-ffffffff", "000002-11111111"]
    result = run.complete()
    assert (result.state, result.successful_records, result.failed_records) == (JobState.SUCCESSFUL, 9, 1)
    assert result.steps[0].attempts == 2


def test_one_that_comes_late_with_the_lower_token_stops(tokens):
    step = Step()
    run, meanwhile = loaded(step)
    meanwhile.append(run.process_all)
    tokens += ["00000000", "ffffffff"]

    with pytest.raises(FencedError):
        run.process(run.job.steps[0], "01")

    assert sorted(step.seen) == list(range(10))
    assert run.complete().state is JobState.SUCCESSFUL


def test_one_that_comes_late_goes_on_where_the_other_died(tokens):
    step = Step(dies_at=9)
    run, meanwhile = loaded(step)

    def other():
        with pytest.raises(Killed):
            run.process(run.job.steps[0], "01")

    meanwhile.append(other)
    tokens += ["ffffffff", "00000000"]

    run.process(run.job.steps[0], "01")

    assert step.seen == [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9]


@pytest.mark.parametrize("ends", [True, False], ids=["closed", "open"])
def test_what_the_holder_of_the_claim_did_meanwhile_is_not_done_again(ends):
    """No epoch is claimed twice here: the one before goes on while its successor stands still."""
    step = Step(dies_at=None if ends else 8)
    run, meanwhile = loaded(step)
    holder = ShardTask(run.job, run.job.steps[0], run.generation.claim("s1", "01", run.info), run.clock)

    def go_on():
        if ends:
            process_shard(holder)
        else:
            with pytest.raises(Killed):
                process_shard(holder)

    meanwhile.append(go_on)

    run.process(run.job.steps[0], "01")

    assert step.seen == list(range(10))
    assert [close.outcome for close in run.generation.attempts("s1", "01")][-2:] == [
        CloseOutcome.ABANDONED,
        CloseOutcome.DONE,
    ]


def test_one_that_looks_again_and_again_claims_in_the_end():
    """The other does not see its claims, as on a slow network, and writes a block each time."""
    run, meanwhile = loaded(Step())
    run.process_all()
    (first, *_) = run.generation.current_files("s1", "01")
    rows = open_checkpoint(run.store.blobs, checkpoint_files(run.store.blobs, run, "s1")[0], first)
    table = rows.read(["_id", "_status", "_out", "_in"])
    run.next_round()
    other = run.generation.claim("s1", "01", run.info)
    meanwhile += [lambda n=n: other.checkpoint(table.slice(n, 1), Span(n, n), {}, other.tally) for n in range(4)]
    meanwhile += [lambda: other.checkpoint(table.slice(0, 2), Span(0, 1), {}, other.tally)] * 2

    held = run.generation.claim("s1", "01", run.info)

    assert len(meanwhile) == 1, "five looks"
    assert held.claim.id == run.generation.claim_ids("s1", "01")[-1]
    assert held.claim.id.epoch == 7


@pytest.mark.parametrize("token", ["ffffffff", "00000000"], ids=["higher", "lower"])
def test_a_seal_keeps_what_a_task_did_while_on_complete_stood_still(tokens, token):
    step = Step(dies_at=5)
    run, meanwhile = loaded(step)
    with pytest.raises(Killed):
        run.process(run.job.steps[0], "01")
    meanwhile.append(lambda: run.process(run.job.steps[0], "01"))
    tokens += ["22222222", token, "77777777"]  # of the result, of the seal, of the task

    result = run.complete()

    assert sorted(set(step.seen)) == list(range(10))
    assert (result.state, result.successful_records, result.not_run_records) == (JobState.SUCCESSFUL, 10, 0)
    assert result.step("s1").processed == 10, "nothing is counted twice; of the killed block nothing was told"


def test_a_task_that_claims_while_on_complete_seals_is_sealed_as_it_is(tokens):
    """It was taken for dead; it finds out before its next block."""
    step = Step()
    run, meanwhile = loaded(step)
    late = []
    meanwhile.append(lambda: late.append(run.generation.claim("s1", "01", run.info)))
    tokens += ["22222222", "00000000", "ffffffff"]

    result = run.complete()

    assert result.not_run_records == 10
    with pytest.raises(FencedError):
        process_shard(ShardTask(run.job, run.job.steps[0], late[0], run.clock))
    assert step.seen == []


def test_rows_of_older_code_are_known_though_a_newer_one_claimed_the_same_epoch(tokens):
    seen = []

    def version(patch):
        def step(record, record_id):
            seen.append(record_id)
            return {"made_by": patch}

        step.__code__ = step.__code__.replace(co_consts=(*step.__code__.co_consts, patch))
        return step, {"on_code_change": "reprocess"}

    run, meanwhile = loaded(version("old"))
    old, new = run.job, job_of(version("new"), block_size=4)

    def deployed_before():
        run.job = old
        run.process_all()
        run.job = new

    run.job = new
    meanwhile.append(deployed_before)
    tokens += ["ffffffff", "00000000", "11111111"]

    run.process(new.steps[0], "01")

    assert seen == [*range(10), *range(10)]
    assert {row["made_by"] for row in run.output()} == {"new"}
    assert {claim.epoch for claim in run.generation.claim_ids("s1", "01")} == {1, 2}
    assert ClaimId(1, "ffffffff") in run.generation.claim_ids("s1", "01")


@pytest.mark.parametrize("token", ["00000000", "ffffffff"], ids=["lower", "higher"])
def test_a_load_that_comes_late_takes_what_the_other_committed(tokens, token):
    step = Step()
    waiting = Fault("put:before */load/*", lambda _: other.load(numbers(10)))
    blobs = MemoryBlobs()
    other = LocalRun(job_of(step), store=blobs)
    run = LocalRun(job_of(step), store=FaultyBlobs(blobs, Faults(waiting)))
    tokens += [token, "11111111", "77777777"]  # each takes one more for the name of its generation

    run.load(numbers(10))
    run.process_all()

    assert [str(claim) for claim in run.store.load_claims()] == ["000001-77777777"]
    assert run.generation.base == other.generation.base
    assert run.complete().state is JobState.SUCCESSFUL
    assert other.store.result() is not None

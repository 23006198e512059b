"""Claims, closes and what they adopt: the protocol that makes one attempt the truth."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batch_provider.domain.errors import CheckpointMissingError, LayoutVersionError
from batch_provider.domain.layout import ClaimId, Span
from batch_provider.domain.limits import FailureCounts
from batch_provider.domain.outcome import CloseOutcome
from batch_provider.domain.tally import Tally
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.storage.blobs.protocol import get_json, put_json
from batch_provider.testing import FakeClock, LocalRun
from tests.builders import Killed, Step, checkpoint_files, job_of, numbers


def loaded(*steps, count=10, clock=None, shards=None, **options):
    options.setdefault("block_size", 4)
    run = LocalRun(job_of(*(steps or (Step(),)), **options), store=MemoryBlobs(), clock=clock, shards=shards)
    run.load(numbers(count))
    return run


def test_first_claim_has_everything_to_do():
    run = loaded()
    held = run.generation.claim("s1", "01", run.info)

    assert (held.claim.id.epoch, held.claim.since, held.claim.adopted, held.claim.upstream) == (1, 1, (), None)
    assert (held.files, held.rewrites, held.tally) == ((), (), Tally())
    assert run.generation.highest_claim("s1", "01") == held.claim
    assert run.generation.close_of("s1", "01", held.claim.id) is None


def test_nobody_claimed_it():
    run = loaded()

    assert run.generation.highest_claim("s1", "01") is None
    assert run.generation.current_files("s1", "01") == ()


def test_later_claim_adopts_what_the_earlier_left():
    run = loaded(Step(dies_at=9))
    with pytest.raises(Killed):
        run.process(run.job.steps[0], "01")
    held = run.generation.claim("s1", "01", run.info)

    assert held.claim.id.epoch == 2
    assert held.claim.since == 1
    assert [(file.span.first, file.span.last) for file in held.claim.adopted] == [(0, 3), (4, 7)]
    assert held.files == held.claim.adopted
    assert held.rewrites == ()
    assert held.tally.succeeded == 8
    assert held.types == {}


def test_redrive_looks_at_the_files_with_something_to_do():
    run = loaded(Step(fails={1}))
    run.process_all()
    run.complete()
    run.next_round()
    held = run.generation.claim("s1", "01", run.info)

    assert (held.claim.since, held.claim.round) == (2, 1)
    assert [file.span for file in held.rewrites] == [Span(0, 3)]
    assert len(held.files) == 3
    assert held.tally.failed == 1
    assert held.tally.newly_failed == 0


def test_redrive_looks_at_the_files_whose_records_the_step_before_made_again():
    first = Step(fails={5})
    run = loaded(first, Step())
    run.process_all()
    run.complete()
    first.fails = set()
    run.next_round()
    run.process(run.job.steps[0], "01")
    held = run.generation.claim("s2", "01", run.info)

    assert [file.span for file in held.rewrites] == [Span(4, 7)]


def test_redrive_of_a_stopped_attempt_looks_at_every_file_of_it():
    run = loaded(Step(fails={1}))
    held = run.generation.claim("s1", "01", run.info)
    run.process_all()
    run.complete()
    run.next_round()
    held = run.generation.claim("s1", "01", run.info)
    held.close(CloseOutcome.STOPPED, held.tally, fingerprint="")
    run.next_round()
    held = run.generation.claim("s1", "01", run.info)

    assert held.rewrites == held.files
    assert held.over(Span(4, 7)) == held.files[1]
    assert held.over(Span(4, 9)) is None


def test_claim_pins_the_close_it_reads():
    run = loaded(Step(), Step())
    run.process(run.job.steps[0], "01")
    first = run.generation.highest_claim("s1", "01")
    held = run.generation.claim("s2", "01", run.info)
    run.next_round()
    run.process(run.job.steps[0], "01")

    assert (held.claim.upstream.step, held.claim.upstream.claim) == ("s1", first.id)
    assert run.generation.highest_claim("s1", "01").id.epoch == 2
    assert held.upstream.read(Span(0, 9)).num_rows == 10


@pytest.mark.parametrize("outcome", [CloseOutcome.STOPPED, CloseOutcome.LIMITED, CloseOutcome.ABANDONED])
def test_step_after_an_unfinished_one_cannot_begin(outcome):
    run = loaded(Step(), Step())
    run.generation.claim("s1", "01", run.info).close(outcome, Tally(), fingerprint="", reason="because")

    with pytest.raises(CheckpointMissingError, match=rf"it was {outcome} \(because\)"):
        run.generation.claim("s2", "01", run.info)


def test_close_that_is_gone_is_a_clear_error():
    run = loaded(Step(), Step())
    run.process_all()
    pin = run.generation.highest_claim("s2", "01").upstream
    run.store.blobs.delete(f"{run.generation.base}/attempts/s1/01/{pin.claim}.json")

    with pytest.raises(CheckpointMissingError, match="has no close"):
        run.generation.reader("01", pin)


def test_file_that_is_none_of_ours_is_not_adopted():
    run = loaded(Step(dies_at=9))
    with pytest.raises(Killed):
        run.process(run.job.steps[0], "01")
    directory = checkpoint_files(run.store.blobs, run, "s1")[0].rpartition("/")[0]
    run.store.blobs.put(f"{directory}/notes.txt", b"hello")
    run.store.blobs.put(f"{directory}/000000000008-000000000009.parquet", b"hello")

    assert len(run.generation.claim("s1", "01", run.info).claim.adopted) == 2


def test_generation_of_another_layout_is_refused():
    run = loaded()
    path = f"{run.generation.base}/manifest.json"
    put_json(run.store.blobs, path, {**get_json(run.store.blobs, path), "version": 99})

    with pytest.raises(LayoutVersionError, match="was written in layout 99, this version reads layout 1"):
        _ = run.generation.manifest


def test_progress_adds_up_the_shards():
    run = loaded(Step(fails={1}), shards=2)
    run.process_all()

    progress = run.generation.progress()

    assert (progress["s1"].received, progress["s1"].failed) == (10, 1)


def test_progress_before_anything_ran():
    assert loaded().generation.progress() == {"s1": Tally()}


# --- what a held claim writes ---------------------------------------------------------------------------------


def test_progress_is_written_at_most_once_a_second():
    clock = FakeClock()
    run = loaded(clock=clock)
    held = run.generation.claim("s1", "01", run.info)
    directory = f"{run.generation.base}/progress/s1/01"

    def shown():
        return get_json(run.store.blobs, f"{directory}/{held.claim.id}.json")["tally"]["succeeded"]

    held.report(Tally(succeeded=1))
    held.report(Tally(succeeded=2))
    assert shown() == 1
    clock.advance(1)
    held.report(Tally(succeeded=3))
    assert shown() == 3
    held.close(CloseOutcome.DONE, Tally(succeeded=4), fingerprint="")
    assert shown() == 4


class CountingBlobs(MemoryBlobs):
    """Counts how often it was asked to be durable, and what was put since."""

    def __init__(self):
        super().__init__()
        self.syncs, self.unsynced, self.named = 0, [], []
        self.unsynced_at = {}

    def put(self, name, data, **options):
        self.unsynced_at[name.rpartition("/")[2]] = list(self.unsynced)
        super().put(name, data, **options)
        self.unsynced.append(name)

    def sync(self, names=()):
        self.syncs += 1
        self.unsynced = []
        self.named += names


def test_a_claim_is_durable_before_its_work_begins():
    """One that a power loss took would leave its fence in the targets of writers, above all later claims."""
    blobs = CountingBlobs()
    run = LocalRun(job_of(Step(returns=lambda record: waiting.append(list(blobs.unsynced)))), store=blobs)
    waiting = []
    run.load(numbers(1))
    run.process(run.job.steps[0], "01")
    assert waiting == [[]]


def test_a_successor_makes_durable_what_it_adopts():
    """The process that wrote it may have been killed before it came to that."""
    blobs = CountingBlobs()
    run = LocalRun(job_of(Step(dies_at=7), block_size=3), store=blobs)
    run.load(numbers(10))
    with pytest.raises(Killed):
        run.process(run.job.steps[0], "01")
    blobs.named = []
    run.process(run.job.steps[0], "01")
    assert blobs.named == checkpoint_files(blobs, run, "s1")[:2]


def test_a_retried_load_makes_its_manifest_durable():
    blobs = CountingBlobs()
    run = LocalRun(job_of(Step()), store=blobs)
    run.load(numbers(3))
    run.load(numbers(3))
    assert blobs.named == [f"{run.generation.base}/manifest.json"]


def test_a_result_names_nothing_that_a_power_loss_could_tear():
    blobs = CountingBlobs()
    LocalRun(job_of(Step(fails={1})), store=blobs).run(numbers(3))
    (result,) = [name for name in blobs.unsynced_at if name.startswith("result.")]
    assert blobs.unsynced_at[result] == []


def test_a_torn_progress_file_stops_nobody():
    blobs = CountingBlobs()
    run = LocalRun(job_of(Step(fails={8}), max_failed_records=2, block_size=2), store=blobs, shards=2)
    run.load(numbers(10))
    run.process(run.job.steps[0], "01")
    (progress,) = blobs.files(f"{run.generation.base}/progress/s1/01")
    blobs.put(f"{run.generation.base}/progress/s1/01/{progress}", b"")
    run.process(run.job.steps[0], "02")
    assert run.complete().failed_records == 1


def test_checkpoints_are_synced_once_a_second_and_before_the_close():
    clock, blobs = FakeClock(), CountingBlobs()
    step = Step(returns=lambda record: clock.advance(0.3))
    run = LocalRun(job_of(step, block_size=1), store=blobs, clock=clock)
    run.load(numbers(20))
    before = blobs.syncs

    run.process(run.job.steps[0], "01")

    assert blobs.unsynced == []
    assert 5 <= blobs.syncs - before <= 8  # 6 seconds of work, and twice for the close


def test_failures_elsewhere_are_those_of_this_round():
    run = loaded(Step(fails={0, 9}), Step(), shards=2, count=10)
    run.process(run.job.steps[0], "01")
    held = run.generation.claim("s1", "02", run.info)
    assert held.failed_elsewhere() == FailureCounts(1, 5, 0, 10)
    run.process(run.job.steps[0], "02")
    run.complete()

    run.next_round()
    assert run.generation.claim("s1", "01", run.info).failed_elsewhere() == FailureCounts(0, 5, 0, 10)


def test_records_of_the_own_shard_are_counted_once():
    run = loaded(Step(), Step())
    run.process(run.job.steps[0], "01")
    held = run.generation.claim("s2", "01", run.info)

    assert held.failed_elsewhere() == FailureCounts(0, 10, 0, 10)
    assert replace(held.tally, succeeded=0) == Tally()


def test_stop_requests_bind_until_a_result_lists_them():
    run = loaded()
    blobs, base = run.store.blobs, run.generation.base
    held = run.generation.claim("s1", "01", run.info)
    assert held.stop_reason() is None

    put_json(blobs, f"{base}/stop/a.json", {"reason": "maintenance"})
    assert held.stop_reason() == "maintenance"
    put_json(blobs, f"{base}/result.000001-0a0b0c0d.json", {"stops": ["a.json"]})
    assert held.stop_reason() is None
    put_json(blobs, f"{base}/stop/b.json", {})
    assert held.stop_reason() == "a stop request"


def test_sealing_leaves_a_close_as_it_is():
    run = loaded()
    run.process_all()
    close = run.generation.attempts("s1", "01")[-1]

    assert run.generation.seal("s1", run.generation.manifest.shards[0], run.info) == close


def test_result_claims_are_read_from_names_of_results_only():
    run = loaded()
    blobs, base = run.store.blobs, run.generation.base
    for name in (
        "result.000002-0a0b0c0d.json",
        "result.000001-0a0b0c0d.json",
        "result.json",
        "resultx",
        "manifest.json.bak",
    ):
        blobs.put(f"{base}/{name}", b"{}")

    assert run.generation.result_claims() == [ClaimId(1, "0a0b0c0d"), ClaimId(2, "0a0b0c0d")]

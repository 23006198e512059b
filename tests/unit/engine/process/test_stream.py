"""Streaming aggregators: one call over all shards, a barrier, and what a crash or a redrive repeats."""

from __future__ import annotations

import pytest

from batch_provider import AcceptPolicy, AggregatorSpec, BatchJob, JobState
from batch_provider.domain.errors import FencedError, StopRequestedError, StorageError
from batch_provider.domain.outcome import CloseOutcome
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.storage.blobs.protocol import put_json
from batch_provider.testing import FakeClock, Fault, Faults, FaultyBlobs, LocalRun
from batch_provider.testing.contracts import Killed


def records(count):
    return [{"n": n} for n in range(count)]


def run(job, count, **options):
    local = LocalRun(job.spec, **options)
    return local.run(records(count)), local


def test_m5_one_call_yields_every_record_of_both_shards():
    calls = []
    with BatchJob("job", block_size=5) as job:

        @job.aggregator(streaming=True)
        def tell(stream):
            calls.append([record["n"] for record in stream])

    result, _ = run(job, 10, shards=2)

    assert [sorted(call) for call in calls] == [list(range(10))]
    assert result.state is JobState.SUCCESSFUL
    assert result.step("tell").successful == 10


def test_failed_records_stay_out_and_later_steps_see_the_rest():
    got, later = [], []
    with BatchJob("job", max_failed_records=1) as job:

        @job.step
        def check(record):
            if record["n"] == 1:
                raise ValueError("one")

        @job.aggregator(streaming=True)
        def tell(stream):
            got.extend(record["n"] for record in stream)

        @job.step
        def after(record):
            later.append(record["n"])

    result, _ = run(job, 4, shards=2)

    assert got == [0, 2, 3]
    assert sorted(later) == [0, 2, 3]
    assert (result.step("tell").skipped, result.step("after").skipped) == (1, 1)


def test_a_second_pass_over_the_records_is_an_error_not_an_empty_loop():
    with BatchJob("job", max_failed_records=3) as job:

        @job.aggregator(streaming=True)
        def greedy(stream):
            list(stream)
            list(stream)

    result, _ = run(job, 3)

    assert result.failed_records == 3
    assert "once only" in result.errors[0].sample


def test_a_call_that_raises_fails_every_record_it_was_given():
    with BatchJob("job", max_failed_records=-1) as job:

        @job.aggregator(streaming=True, accept_expression="n >= 2")
        def breaks(stream):
            next(iter(stream))
            raise ConnectionError("no such host")

    result, _ = run(job, 5, shards=2)

    assert (result.step("breaks").failed, result.step("breaks").skipped) == (3, 2)
    assert [(e.exception, e.step, e.count) for e in result.errors] == [("ConnectionError", "breaks", 3)]


def test_a_call_need_not_read_to_the_end():
    with BatchJob("job") as job:

        @job.aggregator(streaming=True)
        def first_only(stream):
            next(iter(stream))

    result, _ = run(job, 5)

    assert result.successful_records == 5


@pytest.mark.parametrize("shards", [pytest.param(1, id="one shard"), pytest.param(3, id="three shards")])
def test_a_crash_in_the_call_repeats_it_from_the_first_record(shards):
    calls = []
    with BatchJob("job") as job:

        @job.aggregator(streaming=True)
        def tell(stream):
            calls.append([])
            for record in stream:
                calls[-1].append(record["n"])
                if len(calls) == 1 and record["n"] == 4:
                    raise Killed

    local = LocalRun(job.spec, shards=shards)
    local.load(records(9))
    with pytest.raises(Killed):
        local.process_all()
    local.process_all()

    assert calls == [[0, 1, 2, 3, 4], list(range(9))]
    assert local.complete().successful_records == 9


def test_no_call_is_made_when_no_record_is_accepted():
    calls = []
    with BatchJob("job") as job:

        @job.aggregator(streaming=True, accept_policy=AcceptPolicy.ONLY_FAILURES)
        def tell(stream):
            calls.append(1)

    result, _ = run(job, 3)

    assert calls == []
    assert result.state is JobState.SUCCESSFUL


@pytest.mark.parametrize(
    ("on_redrive", "second"),
    [pytest.param("new", [1], id="only what is new"), pytest.param("all", [0, 1, 2, 3], id="everything")],
)
def test_a_redrive_gives_a_later_call_what_on_redrive_says(on_redrive, second):
    calls, broken = [], [True]
    with BatchJob("job", max_failed_records=1) as job:

        @job.step
        def check(record):
            if record["n"] == 1 and broken:
                raise ValueError("one")

        @job.aggregator(streaming=True, on_redrive=on_redrive)
        def tell(stream):
            calls.append([record["n"] for record in stream])

    local = LocalRun(job.spec, shards=2)
    local.run(records(4))
    broken.clear()
    local.next_round()
    local.process_all()
    result = local.complete()

    assert calls == [[0, 2, 3], second]
    assert (result.successful_records, result.failed_records) == (4, 0)


def test_a_redrive_with_nothing_new_calls_nothing():
    calls = []
    with BatchJob("job") as job:

        @job.aggregator(streaming=True, on_redrive="all")
        def tell(stream):
            calls.append(list(stream))

    local = LocalRun(job.spec, shards=2)
    local.run(records(4))
    local.next_round()
    local.process_all()

    assert len(calls) == 1
    assert local.complete().successful_records == 4


def test_a_stopped_shard_holds_the_barrier():
    calls = []
    with BatchJob("job", block_size=1) as job:

        @job.step
        def check(record):
            if record["n"] == 0:
                raise ValueError("zero")

        @job.aggregator(streaming=True)
        def tell(stream):
            calls.append(list(stream))

    result, _ = run(job, 4, shards=2)

    assert calls == []
    assert result.state is JobState.FAILED_PROCESS_RECORDS
    assert result.step("tell").not_run == 4


def test_size_and_streaming_are_never_both():
    with pytest.raises(ValueError, match="either size=N or streaming=True"):
        AggregatorSpec(size=5, streaming=True)


def test_two_streaming_aggregators_make_three_stages():
    with BatchJob("job") as job:
        job.step(name="a")(lambda _: None)
        job.aggregator("b", streaming=True)(lambda stream: [None for _ in stream] and None)
        job.step(name="c")(lambda _: None)
        job.aggregator("d", streaming=True)(lambda stream: None)
        job.step(name="e")(lambda _: None)

    result, _ = run(job, 6, shards=2)

    assert [[step.name for step in stage] for stage in job.spec.stages()] == [["a", "b"], ["c", "d"], ["e"]]
    assert [step.successful for step in result.steps] == [6, 6, 6, 6, 6]


def test_a_stop_request_before_the_commit_leaves_the_aggregator_not_run():
    calls = []
    with BatchJob("job") as job:

        @job.aggregator(streaming=True)
        def tell(stream):
            put_json(local.store.blobs, f"{local.generation.base}/stop/x.json", {"reason": "maintenance"})
            clock.advance(60)
            calls.append([record["n"] for record in stream])

    clock = FakeClock()
    local = LocalRun(job.spec, shards=2, clock=clock)
    local.load(records(4))
    local.process_all()
    result = local.complete()

    assert calls == []
    assert (result.state, result.reason) == (JobState.STOPPED, StopRequestedError("maintenance").args[0])
    assert result.step("tell").not_run == 4


def test_a_successor_fences_the_call_before_its_commit():
    with BatchJob("job") as job:

        @job.aggregator(streaming=True)
        def tell(stream):
            list(stream)
            local.generation.claim("tell", "01", local.info)
            clock.advance(60)

    clock = FakeClock()
    local = LocalRun(job.spec, clock=clock)
    local.load(records(4))

    with pytest.raises(FencedError):
        local.stream(job.spec.step("tell"))

    assert local.generation.current_files("tell", "01") == ()


def test_the_failures_of_a_call_trip_the_limit_when_it_is_committed():
    with BatchJob("job") as job:

        @job.aggregator(streaming=True)
        def tell(stream):
            raise ConnectionError("no such host")

    result, local = run(job, 3)

    assert result.state is JobState.FAILED_PROCESS_RECORDS
    assert (result.step("tell").failed, result.step("tell").not_run) == (3, 0)
    (close,) = local.generation.attempts("tell", "01")
    assert close.outcome is CloseOutcome.DONE


def test_a_store_that_cannot_be_read_fails_the_task_and_not_the_records():
    """What the iterator raises passes through the function, and is none of its errors."""
    called, gone, seen = [], [], []
    with BatchJob("job", block_size=1) as job:

        @job.step
        def first(record):
            return {"m": record["n"]}

        @job.aggregator(streaming=True)
        def last(records):
            called.append(True)
            seen.extend(records)

    def fail(point):
        if called and not gone:
            gone.append(True)
            raise StorageError("read", point.name, "the disk has gone")

    store = MemoryBlobs()
    LocalRun(job.spec, store=store).load(records(40))  # a file each: more than stay open
    LocalRun(job.spec, store=store).process(job.spec.step("first"), "01")
    faulty = FaultyBlobs(store, Faults(Fault("get:before */steps/first/*", fail, times=None)))

    with pytest.raises(StorageError, match="the disk has gone"):
        LocalRun(job.spec, store=faulty).stream(job.spec.step("last"))

    assert (called, seen) == ([True], [])
    retry = LocalRun(job.spec, store=store)
    retry.process_all()
    assert retry.complete().successful_records == len(seen) == 40

"""Scenarios with known outcomes, each named after its row in the table of scenarios.

One shard and several, wherever the outcome does not depend on it.
"""

from __future__ import annotations

import logging

import pytest

from batch_provider import AcceptPolicy, BatchJob, JobState
from batch_provider.domain.errors import (
    DuplicateInstanceError,
    JobDefinitionError,
    LoadError,
    TooManyRecordsError,
    UnsupportedPayloadError,
)
from batch_provider.sources import Files
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.testing import LocalRun
from tests.builders import Killed, failures, numbers, with_outcome

shards = pytest.mark.parametrize("shards", [1, 3], ids=["one shard", "three shards"])


def values(*found):
    return [{"v": value} for value in found]


def one_to(last):
    return values(*range(1, last + 1))


@shards
def test_m1_policies_decide_who_sees_a_failed_record(shards):
    seen = {"s2": set(), "s3": set()}
    with BatchJob("job", max_failed_records=-1) as job:

        @job.step(accept_policy=AcceptPolicy.ALL)
        def s1(record):
            if record["v"] < 3:
                raise ValueError("below 3")

        @job.step(accept_policy=AcceptPolicy.ONLY_FAILURES)
        def s2(record):
            seen["s2"].add(record["v"])

        @job.step
        def s3(record):
            seen["s3"].add(record["v"])

    result = job.run(one_to(5), shards=shards)

    assert seen == {"s2": {1, 2}, "s3": {3, 4, 5}}
    assert (result.total_records, result.successful_records, result.failed_records) == (5, 3, 2)


@shards
def test_m2_variables_follow_each_record_and_end_with_the_last_step(shards):
    seen, completed = {}, []
    with BatchJob("job", variables={"v": "preset"}) as job:

        @job.step
        def s1(record, variables):
            new = {1: "hello", 2: "world", 4: "other"}.get(record["v"])
            if new:
                variables["v"] = new

        @job.step
        def s2(record, variables):
            seen[record["v"]] = variables["v"]

        @job.on_complete
        def report(result):
            completed.append(result)

    result = job.run(one_to(4), shards=shards)

    assert seen == {1: "hello", 2: "world", 3: "preset", 4: "other"}
    assert completed == [result]
    assert not hasattr(result, "variables")


def test_m3_aggregator_groups_by_its_size():
    sizes = []
    with BatchJob("job") as job:

        @job.aggregator(size=50)
        def bulk(records):
            sizes.append(len(records))

    assert job.run(one_to(120)).successful_records == 120
    assert sizes == [50, 50, 20]


@pytest.mark.parametrize(
    ("count", "block_size", "blocks"),
    [
        pytest.param(1010, 100, 11, id="m4: the last of 10"),
        pytest.param(5, 2, 3, id="s13"),
        pytest.param(9, 3, 3, id="j30: no empty fourth one"),
    ],
)
def test_m4_s13_j30_blocks_have_their_size_and_none_is_empty(count, block_size, blocks):
    with BatchJob("job", block_size=block_size) as job:

        @job.step
        def s1(record):
            return {"seen": True}

    run = LocalRun(job.spec)
    result = run.run(one_to(count))

    assert result.successful_records == count
    assert len(run.output()) == count
    assert run.query("SELECT blocks FROM attempts") == [(blocks,)]
    last = run.generation.current_files("s1", "01")[-1]
    assert len(last.span) == (count - 1) % block_size + 1


def test_m5_streaming_aggregator_is_called_once_with_every_record():
    calls = []
    with BatchJob("job", block_size=5) as job:

        @job.aggregator(streaming=True)
        def stream(records):
            calls.append(sorted(record["v"] for record in records))

    assert job.run(one_to(10), shards=2).successful_records == 10
    assert calls == [list(range(1, 11))]


@shards
def test_m6_one_record_passes_an_aggregator_of_two(shards):
    calls = []
    with BatchJob("job") as job:

        @job.step
        def s1(record):
            calls.append("s1")

        @job.aggregator(size=2)
        def bulk(records):
            calls.append(f"bulk of {len(records)}")

        @job.step
        def s2(record):
            calls.append("s2")

        @job.on_complete
        def report(result):
            calls.append("on_complete")

    job.run(one_to(1), shards=shards)

    assert calls == ["s1", "bulk of 1", "s2", "on_complete"]


@shards
def test_m7_nothing_is_called_after_the_limit_but_on_complete(shards):
    calls = []
    with BatchJob("job") as job:

        @job.step
        def s1(record):
            raise ValueError("bad")

        @job.aggregator(size=2)
        def bulk(records):
            calls.append("bulk")

        @job.step
        def s2(record):
            calls.append("s2")

        @job.on_complete
        def report(result):
            calls.append("on_complete")

    result = job.run(one_to(1), shards=shards)

    assert calls == ["on_complete"]
    assert (result.state, result.failed_records) == (JobState.FAILED_PROCESS_RECORDS, 1)


@shards
def test_m8_clean_records_all_succeed(shards):
    with BatchJob("job") as job:

        @job.step
        def s1(record):
            return {"double": record["v"] * 2}

        @job.step
        def s2(record):
            return None

    result = job.run(one_to(1000), shards=shards)

    counts = (
        result.total_records,
        result.loaded_records,
        result.processed_records,
        result.successful_records,
        result.failed_records,
    )
    assert counts == (1000, 1000, 1000, 1000, 0)
    assert result.state is JobState.SUCCESSFUL


def test_m9_instance_id_of_another_run_is_refused():
    blobs = MemoryBlobs()
    job = BatchJob("job")
    job.step(name="s1")(lambda record: None)
    first = LocalRun(job.spec, store=blobs, instance_id="orders-7")
    done = first.run(one_to(3))
    other = LocalRun(job.spec, store=blobs, instance_id="orders-7", run_id="another")

    with pytest.raises(DuplicateInstanceError):
        other.load(one_to(3))

    assert other.store.load_claims() == first.store.load_claims()
    assert first.store.result() == done


@pytest.mark.parametrize(
    ("payload", "advice"),
    [
        pytest.param(
            "a plain string", "convert it to a list of dicts, a generator of dicts or an Arrow table", id="str"
        ),
        pytest.param(5, "convert it to a list of dicts, a generator of dicts or an Arrow table", id="number"),
        pytest.param({"a": 1}, r"convert it to a list of dicts, such as \[record\]", id="dict"),
    ],
)
def test_m10_payload_that_cannot_be_split_says_what_to_convert_to(payload, advice):
    with pytest.raises(UnsupportedPayloadError, match=advice):
        BatchJob("job").run(payload)


@shards
def test_m11_unlimited_failures_succeed_and_shout(shards, caplog):
    caplog.set_level(logging.ERROR)
    with BatchJob("job", max_failed_records=-1) as job:

        @job.step
        def s1(record):
            raise ValueError("bad")

    result = job.run(one_to(10), shards=shards)

    assert (result.state, result.failed_records) == (JobState.SUCCESSFUL, 10)
    assert any("FAILED RECORDS: 10 of 10" in record.getMessage() for record in caplog.records)
    assert "10 RECORDS FAILED" in result.reason


@shards
@pytest.mark.parametrize(
    ("limit", "state"),
    [
        pytest.param(150, JobState.SUCCESSFUL, id="limit 150"),
        pytest.param(149, JobState.FAILED_PROCESS_RECORDS, id="limit 149"),
    ],
)
def test_m12_only_more_than_the_limit_trips_it(limit, state, shards):
    with BatchJob("job", max_failed_records=limit) as job:

        @job.step
        def s1(record):
            if record["v"] % 333 == 0 and record["v"] <= 49_950:
                raise ValueError("bad")

    result = job.run(one_to(50_000), shards=shards)

    assert result.state is state
    assert result.failed_records == 150
    if state is JobState.SUCCESSFUL:
        assert result.successful_records == 49_850


@pytest.mark.parametrize(
    ("on_error", "failed"),
    [pytest.param("fail_group", 25, id="fail_group"), pytest.param("isolate", 1, id="isolate")],
)
def test_m13_raising_group_fails_whole_or_is_isolated(on_error, failed):
    written = []
    with BatchJob("job", max_failed_records=-1) as job:

        @job.aggregator(size=25, on_error=on_error)
        def write(records):
            if any(record["v"] == 30 for record in records):
                raise ValueError("refused")
            written.extend(record["v"] for record in records)

    result = job.run(one_to(100))

    assert result.failed_records == failed
    assert len(written) == len(set(written)) == 100 - failed


@shards
def test_m14_success_on_a_failed_record_does_not_heal_it(shards):
    with BatchJob("job", max_failed_records=-1) as job:

        @job.step
        def s1(record):
            if record["v"] == 2:
                raise ValueError("bad")

        @job.step(accept_policy=AcceptPolicy.ONLY_FAILURES)
        def s2(record):
            return {"repaired": True}

    result = job.run(one_to(3), shards=shards)

    assert result.step("s2").successful == 1
    assert (result.successful_records, result.failed_records) == (2, 1)


@shards
def test_m15_what_the_author_catches_is_no_failure(shards):
    with BatchJob("job") as job:

        @job.step
        def s1(record):
            try:
                raise ValueError("bad")
            except ValueError:
                return {"caught": True}

    assert job.run(one_to(3), shards=shards).failed_records == 0


@shards
@pytest.mark.parametrize("refused", ["skipped", "failed"])
def test_s21_a_record_that_is_refused_or_fails_is_not_written(refused, shards):
    written = []
    with BatchJob("job", block_size=2, max_failed_records=-1) as job:
        options = {"accept_expression": "v <> 4"} if refused == "skipped" else {}

        @job.step(**options)
        def s1(record):
            if record["v"] == 4:
                raise ValueError("bad")

        accept = {"accept_expression": "v <> 4"} if refused == "skipped" else {}

        @job.aggregator(size=10, **accept)
        def write(records):
            written.extend(record["v"] for record in records)

    result = job.run(one_to(5), shards=shards)

    assert written == [1, 2, 3, 5]
    first = result.step("s1")
    assert (first.successful, first.failed, first.skipped) == ((4, 0, 1) if refused == "skipped" else (4, 1, 0))
    assert result.failed_records == first.failed


@pytest.mark.parametrize(
    ("block_size", "first_again"),
    [pytest.param(7, 7, id="block 7"), pytest.param(10, 10, id="block 10"), pytest.param(5, 10, id="block 5")],
)
def test_j29_killed_run_carries_on_at_its_block(block_size, first_again):
    seen, kills = [], [12]
    with BatchJob("job", block_size=block_size) as job:

        @job.step
        def s1(record):
            if record["n"] in kills:
                kills.clear()
                raise Killed
            seen.append(record["n"])

    run = LocalRun(job.spec)
    run.load(numbers(30))
    with pytest.raises(Killed):
        run.process_all()
    identity = run.instance.id
    seen.clear()

    run.process_all()
    result = run.complete()

    assert seen == list(range(first_again, 30))
    assert (result.successful_records, result.job_instance_id) == (30, identity)


@pytest.mark.parametrize("ratio", [-0.01, 1.01, "x", {}], ids=str)
def test_a37_ratio_outside_0_to_1_is_refused(ratio):
    with pytest.raises(JobDefinitionError, match="max_failed_ratio"):
        BatchJob("job", max_failed_ratio=ratio)


@pytest.mark.parametrize("ratio", [0, 0.011, 1])
def test_a37_ratio_from_0_to_1_is_accepted(ratio):
    assert BatchJob("job", max_failed_ratio=ratio).spec.limit.max_failed_ratio == ratio


@pytest.mark.parametrize("maximum", [0, -1])
def test_a38_max_records_that_means_nothing_is_refused(maximum):
    with pytest.raises(JobDefinitionError, match="max_records"):
        BatchJob("job", max_records=maximum)


def test_a38_too_many_records_end_before_processing():
    seen = []
    job = BatchJob("job", max_records=2)
    job.step(name="s1")(seen.append)

    with pytest.raises(TooManyRecordsError):
        job.run(one_to(4))

    assert seen == []


def test_a38_as_many_as_allowed_are_fine():
    assert BatchJob("job", max_records=4).run(one_to(4)).total_records == 4


def test_a39_header_twice_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "orders.csv"
    path.write_text("id,amount,amount\n1,2,3\n")
    run = LocalRun(BatchJob("job").spec)

    with pytest.raises(LoadError, match="amount"):
        run.load(Files(str(path)))

    assert run.store.latest() is None


@shards
@pytest.mark.parametrize("with_aggregator", [False, True], ids=["steps", "aggregator"])
def test_e1_no_records_is_a_success(shards, with_aggregator):
    calls = []
    with BatchJob("job") as job:

        @job.step(accept_expression="v > 1")
        def s1(record):
            calls.append("s1")

        if with_aggregator:

            @job.aggregator(size=2)
            def bulk(records):
                calls.append("bulk")

        @job.on_complete
        def report(result):
            calls.append("on_complete")

    result = job.run([], shards=shards)

    assert calls == ["on_complete"]
    assert result.state is JobState.SUCCESSFUL
    counts = (
        result.total_records,
        result.processed_records,
        result.successful_records,
        result.failed_records,
        result.not_run_records,
    )
    assert counts == (0,) * 5


def test_e2_one_record_is_one_shard():
    job = BatchJob("job", shards=8)
    job.step(name="s1")(lambda record: None)
    run = LocalRun(job.spec)

    assert run.load(one_to(1)) == ["01"]
    run.process_all()
    assert run.complete().state is JobState.SUCCESSFUL


def test_e3_a_failure_in_one_shard_stops_the_others_at_their_next_block():
    reports = []
    with BatchJob("job", block_size=10) as job:

        @job.step
        def s1(record):
            if record["v"] == 150:
                raise ValueError("bad")

        @job.on_complete
        def report(result):
            reports.append(result)

    run = LocalRun(job.spec, shards=3)
    result = run.run(one_to(300))

    assert result.state is JobState.FAILED_PROCESS_RECORDS
    assert result.processed_records < result.total_records == 300
    assert with_outcome(run, "s1", "NOT_RUN") == set(range(150, 300))
    assert [failure[0] for failure in failures(run)] == [149]
    assert [(one.failed_records, one.not_run_records) for one in reports] == [(1, 150)]

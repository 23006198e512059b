"""In a redrive the groups of an aggregator are made across blocks, of the records that are to be done again."""

from __future__ import annotations

import pyarrow as pa
import pytest

from batch_provider import BatchJob, JobState
from batch_provider.domain.errors import FencedError
from batch_provider.domain.fused import checkpoint_steps
from batch_provider.testing import LocalRun
from batch_provider.testing.clock import FakeClock
from tests.builders import Killed, Step, failures, numbers, outcomes

fused = pytest.mark.parametrize("fuse", [False, True], ids=["per step", "fused"])


class Bulk:
    """An aggregator's function that remembers its groups; it returns what each record is worth.

    Attributes:
        fails: numbers whose group raises.
        dies_at: the group that holds this number kills the process, once.
    """

    def __init__(self, fails=(), dies_at=None):
        self.fails, self.dies_at, self.groups = set(fails), dies_at, []

    def __call__(self, records):
        group = [record["n"] for record in records]
        if self.dies_at in group:
            self.dies_at = None
            raise Killed
        self.groups.append(group)
        if bad := self.fails & set(group):
            raise ValueError(f"{min(bad)} is refused")
        return [{"of": len(group), "sum": record["n"] + record.get("price", 0)} for record in records]

    def forget(self):
        found, self.groups = self.groups, []
        return found


def job_of(check, bulk, *, fuse=False, size=6, on_error="fail_group", block_size=5, limit=-1, **options):
    with BatchJob("job", max_failed_records=limit, fuse_steps=fuse, block_size=block_size) as job:
        job.step(name="check")(check)
        job.sql_step("price", assign={"price": "n * 10"})
        job.aggregator("bulk", size=size, on_error=on_error, **options)(bulk)
    return job.spec


def redriven(run):
    run.next_round()
    run.process_all()
    return run.complete()


def first(check, bulk, *, count=20, shards=None, store=None, **options):
    run = LocalRun(job_of(check, bulk, **options), shards=shards, store=store)
    run.run(numbers(count))
    bulk.forget()
    return run


@fused
def test_four_failed_records_in_four_blocks_are_one_group(fuse):
    check, bulk = Step(fails={2, 7, 12, 17}), Bulk()
    run = first(check, bulk, fuse=fuse)
    check.fails = set()
    result = redriven(run)

    assert bulk.groups == [[2, 7, 12, 17]]
    assert (result.state, result.successful_records) == (JobState.SUCCESSFUL, 20)
    of = {row["n"]: row["of"] for row in run.output()}
    assert {n: of[n] for n in (2, 7, 12, 17)} == dict.fromkeys((2, 7, 12, 17), 4)
    assert [row["sum"] for row in run.output()] == [n * 11 for n in range(20)]


@fused
@pytest.mark.parametrize("block_size", [1, 7])
@pytest.mark.parametrize("size", [1, 4, 50])
def test_groups_have_the_size_whatever_the_blocks(block_size, size, fuse):
    bad = [n for n in range(60) if n % 4 == 1]
    check, bulk = Step(fails=set(bad)), Bulk()
    run = first(check, bulk, count=60, size=size, block_size=block_size, fuse=fuse)
    check.fails = set()
    result = redriven(run)

    assert bulk.groups == [bad[at : at + size] for at in range(0, len(bad), size)]
    assert result.is_successful
    assert [row["sum"] for row in run.output()] == [n * 11 for n in range(60)]


def test_groups_end_with_their_shard():
    check, bulk = Step(fails={2, 7, 12, 17}), Bulk()
    run = first(check, bulk, shards=2)
    check.fails = set()
    redriven(run)

    assert bulk.groups == [[2, 7], [12, 17]]


@fused
@pytest.mark.parametrize("on_error", ["fail_group", "isolate"])
def test_a_group_that_raises_fails_its_records_in_all_their_blocks(fuse, on_error):
    check, bulk = Step(fails={2, 7, 12, 17}), Bulk(fails={12})
    run = first(check, bulk, size=3, on_error=on_error, fuse=fuse)
    check.fails = set()
    redriven(run)

    bad = [2, 7, 12] if on_error == "fail_group" else [12]
    redone = [found for found in failures(run) if found[0] in (2, 7, 12, 17)]
    assert redone == [(n, "bulk", "ValueError", "12 is refused") for n in bad]


@fused
def test_a_failed_group_whose_records_are_in_several_blocks_is_one_group_again(fuse):
    check, bulk = Step(fails={2, 7, 12, 17}), Bulk(fails={7})
    run = first(check, bulk, fuse=fuse)
    check.fails = set()
    redriven(run)
    bulk.fails = set()

    assert redriven(run).is_successful
    assert bulk.groups == [[2, 7, 12, 17]] * 2


@fused
def test_the_function_gets_ids_and_a_key_of_what_is_in_its_group(fuse):
    check, seen = Step(fails={2, 7, 12, 17}), []

    def bulk(records, *, record_ids, idempotency_key):
        seen.append((record_ids, idempotency_key))

    run = LocalRun(job_of(check, bulk, fuse=fuse))
    run.run(numbers(20))
    seen.clear()
    check.fails = set()
    redriven(run)

    ids, key = seen[0]
    assert (len(seen), ids, [type(found) for found in ids]) == (1, [2, 7, 12, 17], [int] * 4)
    assert key.startswith("local~run~job/bulk/2-17")


def test_the_function_gets_the_failures_of_each_record():
    check, seen = Step(fails={2, 7, 12, 17}), []
    broken = [True]

    def bulk(records, *, failures):
        seen.append([[failure["message"] for failure in found] for found in failures])
        if broken:
            raise ConnectionError("down")

    run = LocalRun(job_of(check, bulk, accept_policy="ONLY_FAILURES", size=1, block_size=1))
    run.run(numbers(20))
    broken.clear(), seen.clear()
    run.job = job_of(check, bulk, accept_policy="ONLY_FAILURES", size=6, block_size=1)
    redriven(run)

    assert seen == [[[f"record {n} is bad"] for n in (2, 7, 12, 17)]]


@fused
def test_skipped_records_and_those_that_nobody_can_ask_about_do_not_count(fuse):
    def wanted(record):
        if record["n"] == 12 and not check.fails:
            raise LookupError("nobody knows")
        return record["n"] != 7

    check, bulk = Step(fails={2, 7, 12, 17, 18, 19}), Bulk()
    run = first(check, bulk, size=2, fuse=fuse, accept_expression=wanted)
    check.fails = set()
    redriven(run)

    assert bulk.groups == [[2, 17], [18, 19]]
    found = outcomes(run, "bulk")
    assert [found[n] for n in (2, 7, 12, 17)] == ["SUCCEEDED", "SKIPPED", "FAILED", "SUCCEEDED"]


@fused
def test_a_block_of_which_nothing_is_accepted_is_committed_while_others_wait(fuse):
    check, bulk = Step(fails={2, 7, 12, 17, 22, 27}), Bulk()
    run = first(check, bulk, count=30, size=1, fuse=fuse, block_size=1, accept_expression="n <> 22")
    run.job = job_of(check, bulk, size=10, fuse=fuse, block_size=1, accept_expression="n <> 22")
    check.fails = set()
    result = redriven(run)

    assert bulk.groups == [[2, 7, 12, 17, 27]]
    assert outcomes(run, "bulk")[22] == "SKIPPED"
    assert result.successful_records == 30


@fused
@pytest.mark.parametrize("dies_at", [1, 21, 57])
def test_killed_in_a_redrive_its_blocks_are_done_again_that_were_not_committed(dies_at, fuse):
    bad = [n for n in range(60) if n % 4 == 1]
    check, bulk = Step(fails=set(bad)), Bulk()
    run = first(check, bulk, count=60, size=3, block_size=4, fuse=fuse)
    check.fails, bulk.dies_at = set(), dies_at
    run.next_round()
    with pytest.raises(Killed):
        run.process_all()
    before = bulk.forget()
    run.process_all()

    assert run.complete().is_successful
    assert before == [bad[at : at + 3] for at in range(0, 3 * len(before), 3)]
    again = {n for group in before for n in group} & {n for group in bulk.groups for n in group}
    assert len(again) <= 3 + 2, "no more than the blocks in flight"
    assert [row["sum"] for row in run.output()] == [n * 11 for n in range(60)]


@fused
def test_what_a_limit_left_undone_is_in_the_same_groups_as_what_failed(fuse):
    check, bulk = Step(fails={1, 2}), Bulk()
    run = first(check, bulk, count=13, size=4, block_size=4, limit=1, fuse=fuse)
    done = {n for n, outcome in outcomes(run, "bulk").items() if outcome == "SUCCEEDED"}
    check.fails = set()
    result = redriven(run)

    assert [len(group) for group in bulk.groups] == [4] * ((13 - len(done)) // 4) + [(13 - len(done)) % 4]
    assert sorted(n for group in bulk.groups for n in group) == sorted(set(range(13)) - done)
    assert (result.state, result.successful_records) == (JobState.SUCCESSFUL, 13)


@fused
def test_a_stop_finishes_the_blocks_in_flight_and_the_next_redrive_does_the_rest(fuse):
    check, groups = Step(fails={2, 7, 8, 12, 17}), []

    def bulk(records):
        groups.append([record["n"] for record in records])
        if groups == [[2, 7]]:
            run.store.request_stop("enough")

    clock = FakeClock(tick_seconds=1)  # each look at it lets a second pass: stops are looked for at every block
    run = LocalRun(job_of(check, bulk, fuse=fuse, size=2), clock=clock)
    run.run(numbers(20))
    groups.clear()
    check.fails = set()
    stopped = redriven(run)

    assert groups == [[2, 7], [8]]
    assert stopped.state is JobState.STOPPED
    assert {outcomes(run, "bulk")[n] for n in (2, 7, 8)} == {"SUCCEEDED"}

    result = redriven(run)
    assert groups == [[2, 7], [8], [12, 17]]
    assert (result.state, result.successful_records) == (JobState.SUCCESSFUL, 20)


@fused
def test_an_attempt_that_was_succeeded_calls_for_no_group_any_more(fuse):
    check, groups = Step(fails={2, 7, 8, 12, 17}), []

    def bulk(records):
        groups.append([record["n"] for record in records])
        if groups == [[2, 7]]:
            run.generation.claim(step.name, "01", run.info)

    run = LocalRun(job_of(check, bulk, fuse=fuse, size=2), clock=FakeClock(tick_seconds=1))
    run.run(numbers(20))
    step = checkpoint_steps(run.job)[-1]
    groups.clear()
    check.fails = set()
    run.next_round()
    for each in checkpoint_steps(run.job)[:-1]:
        run.process(each, "01")
    with pytest.raises(FencedError):
        run.process(step, "01")

    assert groups == [[2, 7]]


def test_only_the_rows_that_wait_are_in_memory():
    """Fifteen blocks of 240 KB that fused steps have changed, one failed record in each, one group of them all."""
    check, seen = Step(fails={n for n in range(600) if n % 40 == 7}, returns=lambda r: {"more": r["text"]}), []

    def wanted(record):
        seen.append(pa.total_allocated_bytes())
        return True

    def job(size):
        bulk = Bulk()
        return job_of(check, bulk, size=size, block_size=40, fuse=True, accept_expression=wanted), bulk

    run = LocalRun(job(10)[0])
    run.run([{"n": n, "text": f"{n:03d}" * 2_000} for n in range(600)])
    seen.clear()
    check.fails = set()
    run.job, bulk = job(50)
    redriven(run)

    assert bulk.groups == [[n for n in range(600) if n % 40 == 7]]
    assert len(seen) == 15
    assert seen[-1] - seen[3] < 11 * 60_000, "a few rows of each block, and not the block"


def test_values_that_a_fused_step_made_are_kept_while_they_wait():
    """Of every kind that an overlay holds: new columns, another type, variables, dropped columns, values aside."""

    def made(fuse):
        broken, groups = [True], []

        with BatchJob("job", max_failed_records=-1, block_size=2, fuse_steps=fuse, variables={"x": 0}) as job:

            @job.step(drop=["old"])
            def first(record, *, variables):
                if broken and record["n"] % 3 == 1:
                    raise ValueError("not yet")
                variables["x"] = record["n"]
                return {"text": int(record["text"]) if record["n"] % 2 else record["text"], "more": [record["n"]]}

            job.sql_step("price", checks={"nine": "n <> 9"}, assign={"n": "n::DOUBLE", "half": "n / 2"})

            @job.aggregator(size=7)
            def bulk(records):
                groups.append([record["text"] for record in records])
                return [{"more": {"of": len(records)}} for record in records]

        run = LocalRun(job.spec)
        run.run([{"n": n, "text": str(n), "old": n} for n in range(30)])
        broken.clear(), groups.clear()
        result = redriven(run)
        return groups, result.successful_records, run.output(), failures(run)

    one_by_one, together = made(False), made(True)
    assert one_by_one[1:] == together[1:]
    assert [len(group) for group in one_by_one[0]] == [len(group) for group in together[0]]

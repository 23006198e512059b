"""What holds for every job, whatever its records, failures, blocks, shards and crashes."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from batch_provider import AcceptPolicy, BatchJob, JobState
from batch_provider.domain.fused import checkpoint_steps
from batch_provider.domain.tally import Tally
from batch_provider.testing import LocalRun
from tests.builders import DyingBlobs, Killed, numbers

few = settings(
    max_examples=int(os.environ.get("PROPERTY_EXAMPLES", "8")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)

POLICIES = list(AcceptPolicy)
EXPRESSIONS = [None, lambda record: record["n"] % 2 == 0, lambda record: record["n"] > 3]


@dataclass(frozen=True)
class StepPlan:
    """What one step does: decided by the record's number alone, so that every run does the same."""

    policy: AcceptPolicy
    expression: Callable[[dict[str, Any]], bool] | None
    fails: frozenset[int]
    patches: frozenset[int]
    texts: frozenset[int]
    key: str
    size: int | None


@dataclass(frozen=True)
class Plan:
    """A job over ``count`` records."""

    count: int
    steps: tuple[StepPlan, ...]


ids = st.frozensets(st.integers(0, 14), max_size=6)


def plans_with(texts):
    steps = st.builds(
        StepPlan,
        policy=st.sampled_from(POLICIES),
        expression=st.sampled_from(EXPRESSIONS),
        fails=ids,
        patches=ids,
        texts=texts,
        key=st.sampled_from(["n2", "a", "b"]),
        size=st.sampled_from([None, None, 2, 5]),
    )
    return st.builds(Plan, count=st.integers(0, 15), steps=st.lists(steps, min_size=1, max_size=3).map(tuple))


plans = plans_with(st.just(frozenset()))
drifting_plans = plans_with(ids)
"""Some patches hold text where others hold numbers: which of them fails depends on the blocks."""


class Killer:
    """Kills the process at the n-th call of an author's function."""

    def __init__(self, at=None):
        self.left = at

    def tick(self):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                raise Killed


def patch_of(plan, number, record):
    """A new column for some records, or another value in a column that is there."""
    if record["id"] not in plan.patches:
        return None
    value = record["id"] * 10 + number
    return {plan.key: str(value) if record["id"] in plan.texts else value}


def job_of_plan(plan, *, block_size, killer=None, healed=False, fuse=False):
    killer = killer or Killer()
    job = BatchJob("job", max_failed_records=-1, block_size=block_size, fuse_steps=fuse)
    for number, step in enumerate(plan.steps):
        fails = frozenset() if healed else step.fails

        def record_step(record, _step=step, _number=number, _fails=fails):
            killer.tick()
            if record["id"] in _fails:
                raise ValueError(f"record {record['id']} is bad")
            return patch_of(_step, _number, record)

        def bulk(records, _step=step, _number=number, _fails=fails):
            killer.tick()
            if bad := [record["id"] for record in records if record["id"] in _fails]:
                raise ValueError(f"{len(bad)} are bad")
            return [patch_of(_step, _number, record) for record in records]

        options = {"accept_policy": step.policy, "accept_expression": step.expression}
        if step.size is None:
            job.step(name=f"s{number}", **options)(record_step)
        else:
            job.aggregator(f"s{number}", size=step.size, on_error="isolate", **options)(bulk)
    return job.spec


def load(plan, *, block_size=4, shards=1, killer=None, fuse=False):
    run = LocalRun(job_of_plan(plan, block_size=block_size, killer=killer, fuse=fuse), shards=shards)
    run.load([{"id": n, "n": n, "n2": n * 2} for n in range(plan.count)])
    return run


def counts(result):
    """Everything of a result that does not depend on time or on who did it."""
    steps = tuple((s.name, s.received, s.successful, s.failed, s.skipped, s.not_run) for s in result.steps)
    return (
        result.state,
        result.total_records,
        result.successful_records,
        result.failed_records,
        result.not_run_records,
        result.skipped_records,
        steps,
    )


def output(run):
    """The payloads, without the columns that are null for everybody."""
    return [{key: value for key, value in row.items() if value is not None} for row in run.output()]


@few
@given(plan=plans, block_size=st.sampled_from([1, 3, 100]), shards=st.integers(1, 4), fuse=st.booleans())
def test_every_record_is_accounted_for_exactly_once(plan, block_size, shards, fuse):
    run = load(plan, block_size=block_size, shards=shards, fuse=fuse)
    run.process_all()
    result = run.complete()

    assert result.total_records == result.loaded_records == plan.count
    assert result.processed_records == result.successful_records + result.failed_records
    assert result.processed_records + result.not_run_records == plan.count
    for step in result.steps:
        assert step.received == step.successful + step.failed + step.skipped == plan.count
    doubles = "SELECT step, record_id FROM outcomes GROUP BY ALL HAVING count(*) <> 1"
    assert run.query(doubles) == []
    final = dict(run.query("SELECT outcome, count(*) FROM records GROUP BY 1"))
    assert final.get("FAILED", 0) == result.failed_records
    assert final.get("SUCCEEDED", 0) == result.successful_records
    assert sum(error.count for error in result.errors) == sum(step.failed for step in result.steps)


@few
@given(
    plan=plans,
    block_size=st.sampled_from([1, 2, 5, "auto"]),
    shards=st.integers(1, 5),
    fuse=st.booleans(),
    order=st.randoms(),
)
def test_shards_blocks_fusing_and_order_change_neither_result_nor_output(plan, block_size, shards, fuse, order):
    whole, cut = load(plan, block_size=100), load(plan, block_size=block_size, shards=shards, fuse=fuse)
    whole.process_all()
    ids = [shard.id for shard in cut.generation.manifest.shards]
    order.shuffle(ids)
    for shard in ids:  # shards go through the steps without waiting for each other
        for step in checkpoint_steps(cut.job):
            cut.process(step, shard)

    assert counts(cut.complete()) == counts(whole.complete())
    assert output(cut) == output(whole)
    failed = "SELECT record_id, step, error_type, message FROM failures ORDER BY ALL"
    assert cut.query(failed) == whole.query(failed)


@few
@given(
    plan=drifting_plans,
    block_size=st.sampled_from([1, 3, 100]),
    shards=st.integers(1, 2),
    kills=st.lists(st.integers(0, 20), max_size=3),
    fuse=st.booleans(),
)
@example(
    Plan(10, (StepPlan(AcceptPolicy.ALL, None, frozenset({1}), frozenset({2}), frozenset(), "a", None),)),
    3,
    1,
    [5],
    False,
)
def test_crash_and_retry_give_what_a_run_without_a_crash_gives(plan, block_size, shards, kills, fuse):
    calm = load(plan, block_size=block_size, shards=shards, fuse=fuse)
    calm.process_all()
    killer = Killer()
    crashed = load(plan, block_size=block_size, shards=shards, killer=killer, fuse=fuse)
    for at in kills:
        killer.left = at
        try:
            crashed.process_all()
        except Killed:
            continue
    killer.left = None
    crashed.process_all()

    assert counts(crashed.complete()) == counts(calm.complete())
    assert output(crashed) == output(calm)


@few
@given(
    plan=plans,
    block_size=st.sampled_from([1, 3, 100]),
    shards=st.integers(1, 3),
    kill=st.none() | st.integers(0, 10),
    fuse=st.booleans(),
)
def test_redrive_with_a_fixed_function_ends_all_successful(plan, block_size, shards, kill, fuse):
    run = load(plan, block_size=block_size, shards=shards, fuse=fuse)
    run.process_all()
    before = run.complete()
    killer = Killer(kill)
    run.job = job_of_plan(plan, block_size=block_size, killer=killer, healed=True, fuse=fuse)
    run.next_round()
    if kill is not None:
        with suppress(Killed):
            run.process_all()
        killer.left = None
    run.process_all()
    result = run.complete()

    assert result.state is JobState.SUCCESSFUL
    assert (result.successful_records, result.failed_records, result.not_run_records) == (plan.count, 0, 0)
    healed = LocalRun(job_of_plan(plan, block_size=block_size, healed=True), shards=shards)
    healed.load([{"id": n, "n": n, "n2": n * 2} for n in range(plan.count)])
    healed.process_all()
    if before.failed_records == plan.count or all(step.policy is not AcceptPolicy.ONLY_FAILURES for step in plan.steps):
        assert output(run) == output(healed)


@few
@given(
    plan=plans,
    block_size=st.sampled_from([2, 100]),
    kills=st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=3),
    fuse=st.booleans(),
)
def test_death_at_any_write_and_a_retry_give_what_a_run_without_it_gives(plan, block_size, kills, fuse):
    calm = load(plan, block_size=block_size, shards=2, fuse=fuse)
    calm.process_all()
    blobs = DyingBlobs()
    dying = LocalRun(job_of_plan(plan, block_size=block_size, fuse=fuse), shards=2, store=blobs)
    records = [{"id": n, "n": n, "n2": n * 2} for n in range(plan.count)]
    for left, after in kills:
        blobs.left, blobs.after = left, after
        with suppress(Killed):
            dying.load(records)
            dying.process_all()
            dying.complete()
    blobs.left = None
    dying.load(records)
    dying.process_all()

    assert counts(dying.complete()) == counts(calm.complete())
    assert output(dying) == output(calm)


@few
@given(plan=plans, block_size=st.sampled_from([1, 3, 100]), kill=st.integers(0, 30), fuse=st.booleans())
def test_result_of_a_crash_accounts_for_every_record(plan, block_size, kill, fuse):
    run = load(plan, block_size=block_size, shards=2, killer=Killer(kill), fuse=fuse)
    with suppress(Killed):
        run.process_all()
    result = run.complete()

    assert result.successful_records + result.failed_records + result.not_run_records == plan.count
    for step in result.steps:
        assert step.received + step.not_run == plan.count
    final = dict(run.query("SELECT outcome, count(*) FROM records GROUP BY 1"))
    assert final.get("NOT_RUN", 0) == result.not_run_records
    assert final.get("FAILED", 0) == result.failed_records


@few
@given(fails=st.sets(st.integers(0, 29), max_size=12), limit=st.integers(0, 12), block_size=st.integers(1, 10))
def test_overshoot_of_the_limit_is_at_most_the_block_that_tripped_it(fails, limit, block_size):
    job = BatchJob("job", max_failed_records=limit, block_size=block_size)

    @job.step
    def s1(record):
        if record["n"] in fails:
            raise ValueError("bad")

    result = job.run(numbers(30))

    assert (result.state is JobState.SUCCESSFUL) is (len(fails) <= limit)
    if len(fails) > limit:
        tripped = sorted(fails)[limit]
        end = min(30, (tripped // block_size + 1) * block_size)
        assert result.processed_records == end


@given(st.lists(st.integers(0, 3), max_size=50), st.integers(1, 10))
def test_tally_of_blocks_is_the_tally_of_the_whole(found, block_size):
    def tally(part):
        return Tally(succeeded=part.count(1), failed=part.count(2), skipped=part.count(3))

    blocks = [found[start : start + block_size] for start in range(0, len(found), block_size)]
    total = sum(map(tally, blocks), Tally())

    assert total == tally(found)

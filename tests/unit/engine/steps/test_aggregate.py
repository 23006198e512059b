"""Sized aggregators: groups across the blocks of a shard, and what happens to a group that raises."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batch_provider import BatchJob, JobState
from batch_provider.domain.errors import InvalidOptionError
from batch_provider.testing import LocalRun
from tests.builders import Killed, Step, failures, numbers, outcomes, with_outcome


class Bulk:
    """An aggregator's function that remembers its groups.

    Attributes:
        fails: record numbers whose group raises.
        dies_at: the group that holds this number kills the process, once.
    """

    def __init__(self, fails=(), dies_at=None, returns=None):
        self.fails, self.dies_at, self.returns = set(fails), dies_at, returns
        self.groups = []

    def __call__(self, records):
        group = [record["n"] for record in records]
        if self.dies_at in group:
            self.dies_at = None
            raise Killed
        self.groups.append(group)
        if bad := self.fails & set(group):
            raise ValueError(f"the database refuses {min(bad)}")
        return self.returns(records) if self.returns else None

    @property
    def sizes(self):
        return [len(group) for group in self.groups]


def job_with(bulk, *before, after=(), size=10, on_error="fail_group", block_size=25, **options):
    step_options = {key: options.pop(key) for key in ("accept_policy", "accept_expression", "reads") if key in options}
    options.setdefault("max_failed_records", -1)
    job = BatchJob("job", block_size=block_size, **options)
    for number, step in enumerate(before):
        job.step(name=f"before{number}")(step)
    job.aggregator("bulk", size=size, on_error=on_error, **step_options)(bulk)
    for number, step in enumerate(after):
        job.step(name=f"after{number}")(step)
    return job.spec


def run_with(bulk, *before, count=100, shards=None, **options):
    run = LocalRun(job_with(bulk, *before, **options), shards=shards)
    return run, run.run(numbers(count))


@pytest.mark.parametrize("block_size", [1, 7, 60, "auto"])
@pytest.mark.parametrize(
    ("count", "size", "sizes"),
    [
        pytest.param(120, 50, [50, 50, 20], id="the last one is smaller"),
        pytest.param(100, 50, [50, 50], id="exact"),
        pytest.param(3, 50, [3], id="fewer than a group"),
        pytest.param(5, 1, [1] * 5, id="one by one"),
        pytest.param(0, 5, [], id="no records"),
    ],
)
def test_groups_have_the_size_whatever_the_blocks(block_size, count, size, sizes):
    bulk = Bulk()
    _, result = run_with(bulk, count=count, size=size, block_size=block_size)

    assert bulk.sizes == sizes
    assert [n for group in bulk.groups for n in group] == list(range(count))
    assert result.successful_records == count


def test_groups_end_with_their_shard():
    bulk = Bulk()
    run_with(bulk, count=100, size=30, shards=2)

    assert bulk.sizes == [30, 20, 30, 20]


@pytest.mark.parametrize("block_size", [1, 7, 1_000])
def test_groups_are_made_of_accepted_records_only(block_size):
    bulk = Bulk()
    run, _ = run_with(bulk, count=100, size=10, accept_expression="n % 4 = 0", block_size=block_size)

    assert bulk.sizes == [10, 10, 5]
    assert bulk.groups[0] == list(range(0, 40, 4))
    assert with_outcome(run, "bulk", "SUCCEEDED") == set(range(0, 100, 4))


@pytest.mark.parametrize(
    ("policy", "groups"),
    [
        pytest.param("NO_FAILURES", [[0, 2, 3], [5]], id="NO_FAILURES"),
        pytest.param("ONLY_FAILURES", [[1, 4]], id="ONLY_FAILURES"),
        pytest.param("ALL", [[0, 1, 2], [3, 4, 5]], id="ALL"),
    ],
)
@pytest.mark.parametrize("block_size", [1, 2, 100])
def test_failed_records_enter_only_as_the_policy_lets_them(policy, groups, block_size):
    bulk = Bulk()
    run_with(bulk, Step(fails={1, 4}), count=6, size=3, accept_policy=policy, block_size=block_size)

    assert bulk.groups == groups


@pytest.mark.parametrize("block_size", [1, 30, 1_000])
def test_m13_raising_group_fails_whole(block_size):
    bulk = Bulk(fails={30})
    run, result = run_with(bulk, count=100, size=25, block_size=block_size)

    assert result.failed_records == 25
    assert with_outcome(run, "bulk", "FAILED") == set(range(25, 50))
    assert bulk.sizes == [25, 25, 25, 25]
    assert {failure[3] for failure in failures(run)} == {"the database refuses 30"}


@pytest.mark.parametrize("block_size", [1, 30, 1_000])
def test_m13_isolated_group_fails_the_bad_record_only(block_size):
    bulk = Bulk(fails={30})
    run, result = run_with(bulk, count=100, size=25, on_error="isolate", block_size=block_size)

    assert result.failed_records == 1
    assert with_outcome(run, "bulk", "FAILED") == {30}
    written = [n for group in bulk.groups if 30 not in group for n in group]
    assert sorted(written) == [n for n in range(100) if n != 30]


def test_isolation_finds_every_bad_record():
    bulk = Bulk(fails={0, 7, 8, 15})
    run, _ = run_with(bulk, count=16, size=16, on_error="isolate")

    assert with_outcome(run, "bulk", "FAILED") == {0, 7, 8, 15}


@pytest.mark.parametrize("block_size", [1, 4, 100])
def test_returned_patches_are_applied(block_size):
    bulk = Bulk(
        returns=lambda records: [None if r["n"] == 2 else {"sum": sum(x["n"] for x in records)} for r in records]
    )
    seen = Step()
    run, _ = run_with(bulk, count=5, size=3, after=[seen], block_size=block_size)

    assert run.output() == [{"n": n, "sum": {0: 3, 1: 3, 2: None, 3: 7, 4: 7}[n]} for n in range(5)]
    assert seen.seen == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("returns", "message"),
    [
        pytest.param(lambda records: [{}], "returned 1 patches for 2 records; return one for each, or None", id="few"),
        pytest.param(lambda records: [{}] * 3, "returned 3 patches for 2 records", id="too many"),
        pytest.param(lambda records: {"a": 1}, "returned dict for 2 records", id="one patch"),
        pytest.param(lambda records: 5, "returned int for 2 records", id="number"),
        pytest.param(lambda records: "ab", "for 2 records", id="text"),
        pytest.param(
            lambda records: (record for record in records), "returned generator for 2 records", id="generator"
        ),
    ],
)
@pytest.mark.parametrize("on_error", ["fail_group", "isolate"])
def test_wrong_number_of_patches_fails_the_group_at_once(returns, message, on_error):
    bulk = Bulk(returns=returns)
    run, result = run_with(bulk, count=2, size=2, on_error=on_error)

    assert result.failed_records == 2
    assert {failure[2] for failure in failures(run)} == {"InvalidPatchError"}
    assert message in failures(run)[0][3]
    assert bulk.groups == [[0, 1]], "halving it would call until it fits"


def test_patch_that_is_none_of_ours_fails_its_record_only():
    run, _ = run_with(Bulk(returns=lambda records: [{"_id": 1}, 5, {"ok": 1}, {"ok": object()}]), count=4, size=4)

    assert [(f[0], f[2]) for f in failures(run)] == [
        (0, "InvalidPatchError"),
        (1, "InvalidPatchError"),
        (3, "FieldTypeError"),
    ]
    assert [record["ok"] for record in run.output()] == [None, None, 1, None]


def test_aggregator_gets_ids_failures_key_and_instance():
    seen = []

    def bulk(records, record_ids, failures, idempotency_key, instance):
        seen.append((record_ids, [len(found) for found in failures], idempotency_key, instance.id))

    run = LocalRun(job_with(bulk, Step(fails={1}), size=2, accept_policy="ALL"))
    run.run(numbers(3))

    assert seen == [
        ([0, 1], [0, 1], "local~run~job/bulk/0-1", "local~run~job"),
        ([2], [0], "local~run~job/bulk/2-2", "local~run~job"),
    ]


def test_groups_of_the_same_first_and_last_record_have_keys_of_their_own():
    """Or the other side would take a redrive of the outer records for the group that it has seen already."""
    check, keys = Step(), []

    def bulk(records, *, idempotency_key):
        keys.append((idempotency_key, [record["n"] for record in records]))
        if len(keys) < 3:
            raise ConnectionError("down")

    run = LocalRun(job_with(bulk, check, size=4))
    run.run(numbers(4))
    run.next_round()
    run.process_all()
    check.fails = {1, 2}
    run.next_round()

    def changed(record, record_id):
        check(record, record_id)

    run.job = job_with(bulk, changed, size=4)
    run.job = replace(run.job, steps=(replace(run.job.steps[0], on_code_change="reprocess"), run.job.steps[1]))
    run.process_all()

    assert [group for _, group in keys] == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 3]]
    assert keys[0][0] == keys[1][0] == "local~run~job/bulk/0-3"
    assert keys[2][0].startswith("local~run~job/bulk/0-3.")


def test_unknown_demanded_keyword_is_a_clear_error():
    run = LocalRun(job_with(lambda records, variables: None))
    run.load(numbers(1))

    with pytest.raises(InvalidOptionError, match="argument 'variables' of step 'bulk'"):
        run.process(run.job.steps[0], "01")


def test_reads_gives_only_these_columns():
    seen = []
    run = LocalRun(job_with(seen.extend, reads=["b"]))
    run.run([{"a": 1, "b": 2}])

    assert seen == [{"b": 2}]


@pytest.mark.parametrize("block_size", [1, 10, 25])
def test_killed_aggregator_does_not_repeat_groups_that_were_committed(block_size):
    bulk = Bulk(dies_at=57)
    run = LocalRun(job_with(bulk, size=10, block_size=block_size))
    run.load(numbers(100))
    with pytest.raises(Killed):
        run.process(run.job.steps[0], "01")
    committed = sorted(with_outcome(run, "bulk", "SUCCEEDED"))
    assert len(committed) % 10 == 0
    assert committed == list(range({1: 50, 10: 50, 25: 40}[block_size]))
    bulk.groups.clear()

    run.process(run.job.steps[0], "01")

    assert bulk.groups == [list(range(n, n + 10)) for n in range(len(committed), 100, 10)]
    assert run.complete().successful_records == 100


def test_redrive_groups_only_what_failed():
    bulk = Bulk(fails={3, 55})
    run, _ = run_with(bulk, count=60, size=10, block_size=20)
    bulk.groups.clear()
    bulk.fails = set()

    run.next_round()
    run.process_all()
    result = run.complete()

    assert bulk.groups == [list(range(10)), list(range(50, 60))]
    assert (result.state, result.successful_records) == (JobState.SUCCESSFUL, 60)


def test_accept_expression_that_raises_fails_its_record_and_leaves_the_group_whole():
    def accept(record):
        return 1 / (record["n"] - 2)

    bulk = Bulk()
    run, _ = run_with(bulk, count=5, size=2, accept_expression=accept)

    assert bulk.groups == [[0, 1], [3, 4]]
    assert outcomes(run, "bulk") == {0: "SUCCEEDED", 1: "SUCCEEDED", 2: "FAILED", 3: "SUCCEEDED", 4: "SUCCEEDED"}


def test_what_is_not_the_groups_fault_goes_on_up():
    def bulk(records):
        raise MemoryError

    run = LocalRun(job_with(bulk, on_error="isolate"))
    run.load(numbers(3))

    with pytest.raises(MemoryError):
        run.process(run.job.steps[0], "01")


@pytest.mark.parametrize("block_size", [1, 3, 4, 7, 100])
@pytest.mark.parametrize("isolate", [True, False])
def test_a_callable_expression_is_asked_once_for_each_record(block_size, isolate):
    asked, groups = [], []

    def wanted(record):
        asked.append(record["n"])
        if record["n"] == 11:
            raise LookupError("nobody knows")
        return record["n"] % 3 != 0

    def bulk(records):
        groups.append([record["n"] for record in records])

    with BatchJob("job", max_failed_records=-1, block_size=block_size) as job:
        job.aggregator("bulk", size=4, on_error="isolate" if isolate else "fail_group", accept_expression=wanted)(bulk)
    run = LocalRun(job.spec)
    result = run.run(numbers(30))

    assert sorted(asked) == list(range(30))
    taken = [n for n in range(30) if n % 3 and n != 11]
    assert groups == [taken[at : at + 4] for at in range(0, len(taken), 4)]
    assert (result.failed_records, result.step("bulk").skipped) == (1, 10)

    asked.clear()
    run.next_round()
    run.process_all()
    assert asked == [11]

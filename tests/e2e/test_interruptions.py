"""Workers that are killed, and tasks that are cleared, in a job that runs on a real Airflow."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing

import pytest

from batch_provider.domain.outcome import CloseOutcome, JobState
from tests.e2e.instances import Instance, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

RECORDS, REFUSED, SHARD = 3_000, 30, 1_500
COUNTS = {
    "validate": (RECORDS - REFUSED, REFUSED, 0),
    "enrich": (RECORDS - REFUSED, 0, REFUSED),
    "store": (RECORDS - REFUSED, 0, REFUSED),
    "quarantine": (REFUSED, 0, RECORDS - REFUSED),
}
BLOCKS_BEFORE_THE_END = 5


def start(airflow, out, seconds=0.0):
    return Instance.start(airflow, "interruptible", "orders", {"out": str(out), "seconds": seconds})


def kill_the_task(process):
    process.kill()


def kill_its_supervisor_too(process):
    supervisor = process.parent()
    assert supervisor is not None
    supervisor.kill()
    process.kill()


@pytest.mark.parametrize(
    "kill",
    [
        pytest.param(kill_the_task, id="task"),
        pytest.param(kill_its_supervisor_too, id="task-and-supervisor"),
    ],
)
def test_a_killed_worker_costs_no_committed_block_and_repeats_none(airflow, out, kill):
    job = start(airflow, out, seconds=0.004)
    first = until(
        lambda: job.working("enrich", "01", BLOCKS_BEFORE_THE_END), 90, "shard 01 has not come to the middle of enrich"
    )

    kill(job.process_of(first))

    assert job.end(timeout=150) == "success"
    counts_are_those_of_an_undisturbed_run(job, out)
    assert job.task("orders.process.enrich", 0)["try_number"] == 2
    second = job.generation.highest_claim("enrich", "01")
    assert (second.id.epoch, second.info.try_number) == (2, 2)
    assert second.info.round_token == first.info.round_token, "a retry, no redrive"
    (attempt,) = job.generation.attempts("enrich", "01")
    assert attempt.claim == second.id, "the first attempt never came to its end"
    assert attempt.outcome is CloseOutcome.DONE
    adopted = sum(len(file.span) for file in second.adopted)
    assert adopted >= BLOCKS_BEFORE_THE_END * 50
    assert attempt.tally.processed < SHARD
    # The records that validate refused are skipped: they are in the blocks, but enrich is not called for them.
    skipped = sum(1 for number in range(adopted, SHARD) if number % 100 == 0)
    assert adopted + attempt.tally.processed + skipped == SHARD
    assert attempt.files[: len(second.adopted)] == second.adopted, "the committed blocks are the same files"
    calls = enriched(out)
    assert [number for number in range(adopted) if calls[number] > 1] == [], "no committed record was enriched again"
    again = sum(times - 1 for times in calls.values())
    assert again <= 50, "at most the block that was under way"


def test_a_task_that_outlives_its_supervisor_is_fenced_by_its_successor(airflow, out):
    job = start(airflow, out, seconds=0.06)
    first = until(
        lambda: job.working("enrich", "01", BLOCKS_BEFORE_THE_END), 90, "shard 01 has not come to the middle of enrich"
    )
    zombie = job.process_of(first)
    zombie.parent().kill()
    committed = len(job.generation.current_files("enrich", "01"))

    second = until(lambda: job.successor(first), 90, "Airflow has not tried it again")

    assert zombie.is_running()
    assert len(second.adopted) > committed, "it went on without its supervisor, and its blocks count"
    zombie.wait(timeout=60)
    assert job.end(timeout=240) == "success"
    counts_are_those_of_an_undisturbed_run(job, out)
    (attempt,) = job.generation.attempts("enrich", "01")
    assert (attempt.claim, attempt.outcome) == (second.id, CloseOutcome.DONE)
    assert {file.claim for file in attempt.files} == {first.id, second.id}
    assert attempt.files[: len(second.adopted)] == second.adopted, "what the zombie wrote later does not count"
    adopted = sum(len(file.span) for file in second.adopted)
    assert min(map(int, (out / f"enriched-{second.info.pid}").read_text().split())) >= adopted


def test_a_cleared_shard_is_redriven_alone_and_its_counts_stay(airflow, out):
    job = start(airflow, out)
    assert job.end(timeout=120) == "success"
    counts_are_those_of_an_undisturbed_run(job, out)
    before = {shard: job.generation.highest_claim("validate", shard) for shard in ("01", "02")}

    cleared = airflow.clear(
        "interruptible", job.run_id, [("orders.process.validate", 1)], include_downstream=True, only_failed=False
    )

    assert {(task["task_id"], task["map_index"]) for task in cleared} == {
        ("orders.process.validate", 1),
        ("orders.process.enrich", 1),
        ("orders.process.store", 1),
        ("orders.process.quarantine", 1),
        ("orders.on_complete", -1),
    }
    assert job.end(timeout=120) == "success"
    counts_are_those_of_an_undisturbed_run(job, out)
    assert job.generation.highest_claim("validate", "01") == before["01"]
    redriven = job.generation.highest_claim("validate", "02")
    assert redriven.id.epoch == 2
    assert redriven.info.round_token != before["02"].info.round_token
    processed = {
        step: [attempt.tally.processed for attempt in job.generation.attempts(step, "02")]
        for step in ("validate", "enrich", "store", "quarantine")
    }
    assert processed == {
        "validate": [SHARD, REFUSED // 2],  # what failed is tried once more, and fails again
        "enrich": [SHARD - REFUSED // 2, 0],
        "store": [SHARD - REFUSED // 2, 0],
        "quarantine": [REFUSED // 2, REFUSED // 2],  # its input is new: validate has processed it again
    }


def counts_are_those_of_an_undisturbed_run(job, out):
    result = job.result
    assert result.state is JobState.SUCCESSFUL
    assert (result.total_records, result.successful_records, result.failed_records) == (
        RECORDS,
        RECORDS - REFUSED,
        REFUSED,
    )
    assert {step.name: (step.successful, step.failed, step.skipped) for step in result.steps} == COUNTS
    with closing(sqlite3.connect(out / "warehouse.db")) as warehouse:
        rows = warehouse.execute("SELECT count(*), count(DISTINCT number), sum(price) FROM orders").fetchone()
    wanted = [number for number in range(RECORDS) if number % 100]
    assert rows == (len(wanted), len(wanted), 3 * sum(wanted)), "each order once"


def enriched(out):
    """Number → how often enrich was called for it."""
    lines = [line for file in out.glob("enriched-*") for line in file.read_text().splitlines()]
    return Counter(map(int, lines))

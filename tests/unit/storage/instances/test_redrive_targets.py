"""Where a redrive begins: shard by shard the earliest step that is not done with its records."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest

from batch_provider.domain.errors import RedriveRefusedError
from batch_provider.storage.instances.redrive_targets import redrive_targets
from batch_provider.testing import LocalRun
from tests.builders import Killed, Step, job_of, numbers


def targets(run):
    return [
        (each.shard, each.step, each.map_index, each.failed, each.not_run) for each in redrive_targets(run.generation)
    ]


def local_run(*steps, **options):
    return LocalRun(job_of(*steps, **options), shards=3)


def test_of_each_shard_the_earliest_step_that_failed():
    run = local_run(Step(fails={25}), Step(fails={1, 2, 26}))
    run.run(numbers(30))
    assert targets(run) == [("01", "s2", 0, 2, 0), ("03", "s1", 2, 1, 0)]


def test_nothing_to_do():
    run = local_run(Step())
    run.run(numbers(30))
    with pytest.raises(RedriveRefusedError, match="no record failed"):
        redrive_targets(run.generation)


def test_what_is_healed_is_not_redriven_again():
    step = Step(fails={1, 11})
    run = local_run(step)
    run.run(numbers(30))
    step.fails = {11}
    run.next_round()
    run.process_all()
    run.complete()
    assert targets(run) == [("02", "s1", 1, 1, 0)]


def test_a_shard_that_was_stopped_has_records_that_were_not_run():
    run = local_run(Step(fails={0}), max_failed_records=0, block_size=2)
    run.run(numbers(30))
    [first, *_] = targets(run)
    assert first == ("01", "s1", 0, 1, 8)


def test_a_shard_whose_worker_died_and_those_that_never_began():
    run = local_run(Step(dies_at=4), block_size=2)
    run.load(numbers(30))
    with suppress(Killed):
        run.process(run.job.step("s1"), "01")
    assert targets(run) == [("01", "s1", 0, 0, 10), ("02", "s1", 1, 0, 10), ("03", "s1", 2, 0, 10)]
    run.complete()  # seals them
    assert targets(run) == [("01", "s1", 0, 0, 6), ("02", "s1", 1, 0, 10), ("03", "s1", 2, 0, 10)]


def test_malformed_input_is_nothing_that_a_step_can_mend(tmp_path):
    from batch_provider import Files

    path = tmp_path / "orders.csv"
    path.write_text("n\n1\n2,3\n")
    run = LocalRun(job_of(Step()))
    run.run(Files(str(path)))
    with pytest.raises(RedriveRefusedError, match="1 failed records are malformed input"):
        redrive_targets(run.generation)


def test_the_task_is_the_one_that_worked_on_the_step_not_the_one_that_sealed_it():
    run = local_run(Step(dies_at=4), block_size=2)
    run.load(numbers(30))
    run.info = replace(run.info, task_id="job.process.s1", map_index=0)
    with suppress(Killed):
        run.process(run.job.step("s1"), "01")
    run.info = replace(run.info, task_id="job.on_complete", map_index=-1)
    run.complete()
    assert {each.task_id for each in redrive_targets(run.generation)} == {"job.process.s1"}


def test_a_barrier_task_is_not_mapped():
    run = local_run(Step(), max_failed_records=-1)
    run.info = replace(run.info, task_id="job.s1", map_index=-1)
    run.job.step("s1").function.fails = {3}
    run.run(numbers(30))
    assert targets(run) == [("01", "s1", -1, 1, 0)]

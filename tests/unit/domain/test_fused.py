"""Which steps share a checkpoint when they are fused."""

from __future__ import annotations

import pytest

from batch_provider import AggregatorSpec, BatchJob, InvalidOptionError, JobSpec, ParquetFiles, SqlTable, StepSpec
from batch_provider.domain.errors import DuplicateStepError
from batch_provider.domain.fused import MOST_FUSED, FusedStep, checkpoint_steps, described


def plain(name, **options):
    return StepSpec(name, lambda record: None, **options)


def sized(name):
    return plain(name, aggregator=AggregatorSpec(size=2))


def names(*steps, **options):
    return [step.name for step in checkpoint_steps(JobSpec("job", steps, fuse_steps=True, **options))]


def test_a_run_of_steps_shares_a_checkpoint():
    assert names(plain("a"), plain("b"), plain("c")) == ["a_to_c"]


def test_a_step_alone_keeps_its_name():
    assert names(plain("a")) == ["a"]


def test_steps_that_are_not_to_be_fused_are_not():
    assert [step.name for step in checkpoint_steps(JobSpec("job", (plain("a"), plain("b"))))] == ["a", "b"]


def test_an_aggregator_ends_a_run():
    assert names(plain("a"), sized("b"), plain("c"), plain("d")) == ["a_to_b", "c_to_d"]


def test_two_aggregators_do_not_share():
    assert names(sized("a"), sized("b")) == ["a", "b"]


@pytest.mark.parametrize("policy", ["ONLY_FAILURES", "ALL"])
def test_a_step_that_takes_failed_records_begins_a_run(policy):
    assert names(plain("a"), plain("b", accept_policy=policy), plain("c")) == ["a", "b_to_c"]


def test_a_streaming_aggregator_stands_alone():
    stream = plain("s", aggregator=AggregatorSpec(streaming=True))
    assert names(plain("a"), plain("b"), stream, plain("c"), plain("d")) == ["a_to_b", "s", "c_to_d"]


def test_a_record_step_with_a_transaction_stands_alone():
    assert names(plain("a"), plain("t", transaction="db"), plain("b"), plain("c")) == ["a", "t", "b_to_c"]


def test_an_aggregator_with_a_transaction_stands_alone():
    store = plain("s", aggregator=AggregatorSpec(size=2, transaction="db"))
    assert names(plain("a"), plain("b"), store, plain("c"), plain("d")) == ["a_to_b", "s", "c_to_d"]


def test_a_writer_stands_alone():
    with BatchJob("job", fuse_steps=True) as job:
        job.step(name="a")(lambda record: None)
        job.step(name="b")(lambda record: None)
        job.write("rows", SqlTable("db", "t", key=["id"]))
        job.step(name="c")(lambda record: None)
        job.write("files", ParquetFiles("somewhere"))
    assert [step.name for step in checkpoint_steps(job.spec)] == ["a_to_b", "rows", "c", "files"]


def test_a_checkpoint_has_room_for_so_many_steps():
    many = [plain(f"s{number}") for number in range(MOST_FUSED + 2)]
    assert names(*many) == [f"s0_to_s{MOST_FUSED - 1}", f"s{MOST_FUSED}_to_s{MOST_FUSED + 1}"]


def test_another_step_of_the_name_of_fused_steps_is_refused():
    with pytest.raises(DuplicateStepError, match="a_to_b"):
        names(plain("a"), sized("b"), plain("a_to_b"))


def test_airflow_options_of_a_step_are_refused_as_its_task_is_shared():
    with pytest.raises(InvalidOptionError, match=r"pool of step 'b'.*fuse_steps=True"):
        JobSpec("job", (plain("a"), plain("b", task_options={"pool": "small"})), fuse_steps=True)


def test_the_manifest_names_the_steps():
    fused = FusedStep((plain("a"), plain("b")))
    assert described(fused) == {"name": "a_to_b", "accept_policy": "NO_FAILURES", "steps": ["a", "b"]}
    assert described(plain("a")) == {"name": "a", "accept_policy": "NO_FAILURES"}
    assert repr(fused) == "FusedStep(a, b)"
    assert not fused.is_streaming

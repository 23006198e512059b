"""What is written down about an instance reads back as it was."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from batch_provider.domain.errors import InvalidOptionError
from batch_provider.domain.instance import AttemptInfo, Claim, Close, JobInstance, Manifest, Pin, file_refs
from batch_provider.domain.layout import ClaimId, FileRef, ShardRef, Span
from batch_provider.domain.outcome import CloseOutcome, JobState
from batch_provider.domain.references import InputPart, InputReference
from batch_provider.domain.result import BatchJobResult, ErrorCount, StepResult
from batch_provider.domain.tally import Tally
from batch_provider.testing import run_job
from tests.builders import Step, job_of, numbers

INSTANCE = JobInstance("etl.run.flights", "etl", "run", "flights", "2030-01-01")
CLAIM = ClaimId(2, "0a0b0c0d")
FILES = (FileRef(Span(0, 4), CLAIM, "a" * 32), FileRef(Span(5, 9), ClaimId(1, "ffffffff"), "b" * 32))
INFO = AttemptInfo("token", "host", 42, 3)


MANIFEST = Manifest(
    instance=INSTANCE,
    generation="g1-0a0b0c0d",
    load=CLAIM,
    round_token="token",
    total=10,
    failed_on_input=1,
    shards=(ShardRef("01", Span(0, 4)), ShardRef("02", Span(5, 9))),
    files=FILES,
    columns={"a": "int64"},
    steps=({"name": "s1", "accept_policy": "ALL"},),
    variables={"v": [1, None]},
    source="orders.csv",
    created_at="2030-01-01T00:00:00+00:00",
    seconds=1.5,
    input_errors={"MalformedRecord": 1},
)


def through_json(document):
    return json.loads(json.dumps(document.to_json()))


def test_manifest_survives_json():
    again = Manifest.from_json(through_json(MANIFEST))

    assert again == MANIFEST
    assert again.shard("02").span == Span(5, 9)
    with pytest.raises(KeyError):
        again.shard("03")


def test_manifest_of_an_input_that_was_not_copied_survives_json():
    parts = (InputPart(Span(0, 6), 9, 120, 2, 0), InputPart(Span(7, 9), 120, 140, 9, 1, 2, careful=True))
    reference = InputReference("/in.csv", 140, 1, "csv", ("a", "b"), ("AAA=", "BBB="), {"quote": None}, parts)
    manifest = replace(MANIFEST, files=(), references=(reference,))

    again = Manifest.from_json(through_json(manifest))

    assert again == manifest
    assert again.input_spans == [Span(0, 6), Span(7, 9)]
    assert MANIFEST.input_spans == [Span(0, 4), Span(5, 9)]


@pytest.mark.parametrize("pin", [None, Pin("s1", CLAIM)], ids=["reads the input", "reads a step"])
def test_claim_survives_json(pin):
    claim = Claim(CLAIM, "s2", "01", 1, FILES, pin, 3, INFO, "2030-01-01T00:00:00+00:00")

    assert Claim.from_json(through_json(claim)) == claim


@pytest.mark.parametrize("outcome", CloseOutcome)
def test_close_survives_json(outcome):
    close = Close(
        claim=CLAIM,
        step="s1",
        shard="01",
        outcome=outcome,
        files=FILES,
        tally=Tally(succeeded=9, failed=1, errors={"ValueError": 1}, seconds=0.5),
        info=INFO,
        started_at="2030-01-01T00:00:00+00:00",
        ended_at="2030-01-01T00:00:01+00:00",
        fingerprint="f" * 16,
        reason="because",
    )

    assert Close.from_json(through_json(close)) == close


def test_result_survives_json():
    result = BatchJobResult(
        job_instance_id="i",
        total_records=2,
        loaded_records=2,
        processed_records=2,
        successful_records=1,
        failed_records=1,
        elapsed_seconds=2.0,
        failed_on_input_phase=False,
        failed_on_loading_phase=False,
        failed_on_complete_phase=True,
        input_phase_exception=None,
        loading_phase_exception=None,
        on_complete_phase_exception="ValueError: no",
        state=JobState.FAILED_ON_COMPLETE,
        reason="no",
        steps=(StepResult("s1", 2, 1, 1, 0, 0, 2, 1.0, 1.0, 1, 0.5, 0.1, 0.7),),
        errors=(ErrorCount("ValueError", "s1", 1, "bad"),),
        dead_letters=("dead_letters/s1-01.parquet",),
        closes=("s1/01/000001-0a0b0c0d",),
        stops=("x.json",),
    )

    assert BatchJobResult.from_json(through_json(result)) == result


def test_result_of_a_real_run_survives_json():
    result = run_job(job_of(Step(fails={1})), numbers(3))

    assert BatchJobResult.from_json(through_json(result)) == result


def test_step_result_is_found_by_name():
    result = run_job(job_of(Step(), Step()), numbers(3))

    assert result.step("s2").received == 3
    with pytest.raises(KeyError):
        result.step("s3")


def test_bottleneck_is_the_slowest_step():
    slow = StepResult("slow", 1, 1, 0, 0, 0, 1, 2.0, 0.8, 1)
    fast = replace(slow, name="fast", seconds=0.5)
    result = replace(run_job(job_of(Step()), numbers(1)), steps=(fast, slow))

    assert result.bottleneck == slow
    assert slow.records_per_second == 0.5
    assert replace(slow, processed=0).records_per_second is None
    assert replace(result, steps=()).bottleneck is None


@pytest.mark.parametrize("state", JobState)
def test_only_two_states_are_unfinished(state):
    assert state.is_finished is (state not in (JobState.LOADING, JobState.EXECUTING))


def test_file_names_that_are_not_ours_are_refused():
    with pytest.raises(ValueError, match=r"not a checkpoint file name: 'x.parquet'"):
        file_refs([FILES[0].name, "x.parquet"])


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param({"id": "../x"}, id="instance id"),
        pytest.param({"dag_id": "a/b"}, id="DAG id"),
        pytest.param({"job": "a b"}, id="job"),
    ],
)
def test_instance_refuses_what_may_not_stand_in_a_path(facts):
    with pytest.raises(InvalidOptionError):
        replace(INSTANCE, **facts)


def test_owner_names_dag_run_and_job():
    assert INSTANCE.owner == "DAG 'etl', run 'run', job 'flights'"

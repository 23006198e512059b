"""Which errors Airflow tries again, and what tells a retry from a clear."""

from __future__ import annotations

import json

import pytest
from airflow.sdk.exceptions import AirflowFailException

from batch_provider.domain.errors import (
    BatchError,
    CheckpointMissingError,
    CircuitOpenError,
    DuplicateInstanceError,
    FailureLimitExceededError,
    FencedError,
    JobFailedError,
    SourceError,
    StopRequestedError,
    StorageError,
    TooFewRecordsError,
    TooManyRecordsError,
)
from batch_provider.operators._failures import airflow_errors

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(SourceError("orders.csv", "the server is away"), id="source"),
        pytest.param(StorageError("write", "manifest.json", "the disk is full"), id="storage"),
        pytest.param(CircuitOpenError("enrich", 5, 30), id="circuit"),
        pytest.param(OSError("not ours"), id="not-ours"),
    ],
)
def test_what_another_try_can_mend_goes_on_as_it_is(error):
    with pytest.raises(type(error)) as raised, airflow_errors():
        raise error

    assert raised.value is error


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(SourceError("orders.csv", "the delimiter is two characters", retryable=False), id="source"),
        pytest.param(DuplicateInstanceError("orders-7", "DAG 'a', run 'b', job 'c'"), id="duplicate"),
        pytest.param(TooManyRecordsError(10), id="too-many-records"),
        pytest.param(TooFewRecordsError(1, 10), id="too-few-records"),
        pytest.param(CheckpointMissingError("enrich", "01", "it has not finished"), id="checkpoint"),
        pytest.param(FailureLimitExceededError(3, "max_failed_records=2"), id="limit"),
        pytest.param(StopRequestedError("the task was told to end"), id="stop"),
        pytest.param(FencedError("enrich", "01", "000001-aaaaaaaa", "000002-bbbbbbbb"), id="fenced"),
    ],
)
def test_what_another_try_cannot_mend_fails_without_retry_and_says_the_same(error):
    with pytest.raises(AirflowFailException) as raised, airflow_errors():
        raise error

    assert str(raised.value) == f"{type(error).__name__}: {error}"
    assert isinstance(error, BatchError)


def test_a_retryable_error_uses_the_retries_of_the_task(run, tmp_path):
    done = run.without_waiting("retrying", tmp_path / "absent.csv")

    assert done.tries["orders.load"] == 2
    assert done.tasks["orders.load"] == "failed"


def test_an_error_that_no_retry_mends_uses_none(run, tmp_path):
    done = run.without_waiting("retrying", tmp_path)  # a directory

    assert done.tries["orders.load"] == 1
    assert done.tasks["orders.load"] == "failed"


def test_the_verdict_uses_no_retry(run, orders):
    done = run.without_waiting("retrying", orders(-1, -2, -3, -4, 5))

    assert done.tries["orders.on_complete"] == 1
    assert JobFailedError.__name__ in done.log


# --- the round token ---------------------------------------------------------------------------------------


def test_a_retry_has_the_round_token_of_the_try_before_it(run, tmp_path):
    done = run.without_waiting("retrying", tmp_path / "absent.csv")

    first, second = load_attempts(done)
    assert (first["try_number"], second["try_number"]) == (1, 2)
    assert first["round_token"] == second["round_token"]


def test_a_clear_has_another_round_token_and_redrives_that_shard_alone(run, orders):
    done = run("small", orders(*range(-2, 18)))
    validated = claims(done, "validate")

    again = run.clear(done, [("orders.process.validate", 0)])

    assert again.state == "success"
    after = claims(again, "validate")
    assert after["02"] == validated["02"], "the other shard was left alone"
    first, second = after["01"]
    assert [first] == validated["01"]
    assert (first.info.try_number, second.info.try_number) == (1, 2)
    assert first.info.round_token != second.info.round_token
    assert [close.tally.processed for close in again.generation.attempts("validate", "01")] == [10, 2], (
        "failed ones only"
    )
    assert (again.result.successful_records, again.result.failed_records) == (18, 2)


def test_the_load_cleared_reads_its_input_again_as_the_next_generation(run, orders):
    done = run("small", orders(1, 2, 3))
    orders(1, 2, 3, 4, 5)

    again = run.clear(done, ["orders.load"])

    first, second = load_attempts(again)
    assert first["round_token"] != second["round_token"]
    assert again.state == "success"
    assert again.result.total_records == 5
    assert again.generation.manifest.generation.startswith("g2-")
    assert (again.folder / done.generation.manifest.generation).is_dir()


def load_attempts(run):
    files = sorted(path for path in (run.folder / "load").iterdir() if not path.name.endswith(".failed.json"))
    return [json.loads(path.read_text())["info"] for path in files]


def claims(run, step):
    """Shard → its claims, oldest first."""
    generation = run.generation
    return {
        shard.id: [generation.claim_of(step, shard.id, close.claim) for close in generation.attempts(step, shard.id)]
        for shard in generation.manifest.shards
    }

"""Every error: constructs from facts, crosses a process border, ends in what to do."""

from __future__ import annotations

import pickle
import pkgutil
from importlib import import_module

import pytest

from batch_provider.domain import errors
from batch_provider.domain.errors import (
    BatchError,
    CheckpointMissingError,
    CircuitOpenError,
    CorruptCheckpointError,
    DataLossError,
    DeadlineExceededError,
    DuplicateInstanceError,
    DuplicateStepError,
    ExpressionLimitError,
    FailureLimitExceededError,
    FencedError,
    GenerationGoneError,
    InstanceNotFoundError,
    InvalidExpressionError,
    InvalidOptionError,
    InvalidReturnError,
    JobDefinitionError,
    JobFailedError,
    LayoutVersionError,
    LoadError,
    NotLoadedError,
    OlderGenerationError,
    ProcessDiedError,
    RedriveRefusedError,
    SourceError,
    StepsChangedError,
    StopProcessingError,
    StopRequestedError,
    StorageError,
    TooFewRecordsError,
    TooManyRecordsError,
    UnstorableColumnsError,
    UnsupportedPayloadError,
    UserCodeError,
)
from batch_provider.domain.outcome import JobState
from batch_provider.domain.result import BatchJobResult

RESULT = BatchJobResult(
    job_instance_id="orders.run",
    total_records=3,
    loaded_records=3,
    processed_records=3,
    successful_records=1,
    failed_records=2,
    elapsed_seconds=1.0,
    failed_on_input_phase=False,
    failed_on_loading_phase=False,
    failed_on_complete_phase=False,
    input_phase_exception=None,
    loading_phase_exception=None,
    on_complete_phase_exception=None,
    state=JobState.FAILED_PROCESS_RECORDS,
    reason="2 records failed.",
    job="orders",
)

FACTS = {
    BatchError: ("something",),
    JobDefinitionError: ("the job cannot run",),
    DuplicateStepError: ("orders", "price"),
    InvalidExpressionError: ("amount >", "it ends too early"),
    InvalidOptionError: ("size", 0, "1 or more"),
    LoadError: ("the load failed",),
    SourceError: ("orders.csv", "it is not there."),
    UnsupportedPayloadError: ("A payload of type int", "a list of dicts"),
    DuplicateInstanceError: ("orders-1", "DAG 'other'"),
    TooManyRecordsError: (1_000,),
    TooFewRecordsError: (1, 1_000),
    InstanceNotFoundError: ("orders", ("orders-1", "orders-2")),
    NotLoadedError: ("orders.run",),
    RedriveRefusedError: ("orders.run", "its DAG run is still running."),
    GenerationGoneError: ("/data/v1/g1-0a0b0c0d",),
    StorageError: ("write", "/data/x", "the disk is full; free some space"),
    CheckpointMissingError: ("price", "02", "it has not finished"),
    OlderGenerationError: ("table t", "run-1", "store", "g1-0a1b2c3d"),
    LayoutVersionError: ("manifest.json", 2, 1),
    CorruptCheckpointError: ("x.parquet", "its digest differs"),
    StopProcessingError: ("stopped",),
    FailureLimitExceededError: (11, "max_failed_records=10"),
    DeadlineExceededError: ("2030-01-01T04:00:00+00:00", "4:00:01"),
    StopRequestedError: ("maintenance",),
    FencedError: ("price", "02", "000001-0a0b0c0d", "000002-0a0b0c0d"),
    StepsChangedError: ("orders", ["price"], ["price", "label"]),
    InvalidReturnError: ("price", "3 rows for 10 records", "one row for each"),
    ExpressionLimitError: ("repeat(s, n)", "longer than 60 s for 65,536 records"),
    CircuitOpenError: ("enrich", 20, 30.0),
    ProcessDiedError: ("parse", "signal SIGSEGV", "record 7"),
    UnstorableColumnsError: ("parse", ["tree"], "its schema is too deep"),
    UserCodeError: ("price", "KeyError", "'amount'"),
    DataLossError: ("orders.run", "a file is missing", (1, 2)),
    JobFailedError: (RESULT,),
}

ADVICE = {
    DuplicateStepError: "give each step a name of its own",
    InvalidExpressionError: "Write one scalar SQL expression",
    InvalidOptionError: "use 1 or more",
    UnsupportedPayloadError: "convert it to a list of dicts first",
    DuplicateInstanceError: "Make job_instance_id unique",
    TooFewRecordsError: "lower min_records if so few are in order",
    TooManyRecordsError: "raise max_records if it really grew",
    StorageError: "free some space",
    InstanceNotFoundError: "Give the whole id",
    NotLoadedError: "Wait until it is loaded",
    GenerationGoneError: "Clear the load task with Downstream",
    CheckpointMissingError: "Clear that step's task",
    OlderGenerationError: "Give SqlTable a key=",
    LayoutVersionError: "clear the load task to read the input again",
    CorruptCheckpointError: "Clear the task of the step that wrote it",
    FailureLimitExceededError: "fix the cause and clear the failed tasks, or raise the limit",
    DeadlineExceededError: "Clear the failed tasks to carry on",
    StopRequestedError: "clear the failed tasks to carry on",
    FencedError: "No action is needed",
    StepsChangedError: "clear the load task with Downstream",
    InvalidReturnError: "correct the step and clear its failed tasks to carry on",
    ExpressionLimitError: "give the job a smaller block_size=",
    CircuitOpenError: "the task is tried again after 30 s",
    ProcessDiedError: "Look for what can do that",
    UnstorableColumnsError: "Give them fewer levels",
    DataLossError: "clear the step named here with Downstream",
}


def by_name(kind):
    return kind.__name__


def every_error():
    modules = [import_module(f"{errors.__name__}.{module.name}") for module in pkgutil.iter_modules(errors.__path__)]
    found = [value for module in modules for value in vars(module).values()]
    return {kind for kind in found if isinstance(kind, type) and issubclass(kind, BatchError)}


def test_every_error_is_tested_here():
    assert every_error() == set(FACTS)


def test_every_error_is_imported_from_one_place():
    assert errors.__all__ == sorted(map(by_name, every_error()))
    assert {kind.__module__ for kind in every_error()} == {errors.__name__}


@pytest.mark.parametrize("kind", FACTS, ids=by_name)
def test_name_ends_in_error(kind):
    assert kind.__name__.endswith("Error")


@pytest.mark.parametrize("kind", FACTS, ids=by_name)
def test_error_survives_pickling(kind):
    error = kind(*FACTS[kind])

    again = pickle.loads(pickle.dumps(error))

    assert type(again) is kind
    assert str(again) == str(error)
    assert vars(again).keys() == vars(error).keys()
    assert again.retryable == error.retryable


@pytest.mark.parametrize("kind", ADVICE, ids=by_name)
def test_message_says_what_to_do(kind):
    assert ADVICE[kind] in str(kind(*FACTS[kind]))


def test_keyword_facts_survive_pickling():
    error = pickle.loads(pickle.dumps(SourceError("orders.csv", "a wrong option.", retryable=False)))

    assert error.retryable is False
    assert (error.source, error.reason) == ("orders.csv", "a wrong option.")


@pytest.mark.parametrize(
    ("kind", "retryable"),
    [
        pytest.param(SourceError, True, id="source"),
        pytest.param(StorageError, True, id="storage"),
        pytest.param(CircuitOpenError, True, id="circuit open"),
        pytest.param(CheckpointMissingError, False, id="checkpoint missing"),
        pytest.param(OlderGenerationError, False, id="older generation"),
        pytest.param(LayoutVersionError, False, id="layout version"),
        pytest.param(CorruptCheckpointError, False, id="corrupt checkpoint"),
        pytest.param(FailureLimitExceededError, False, id="failure limit"),
        pytest.param(FencedError, False, id="fenced"),
        pytest.param(DataLossError, False, id="data loss"),
        pytest.param(JobFailedError, False, id="verdict"),
        pytest.param(TooManyRecordsError, False, id="too many records"),
        pytest.param(TooFewRecordsError, False, id="too few records"),
        pytest.param(JobDefinitionError, False, id="definition"),
    ],
)
def test_error_says_whether_a_retry_can_help(kind, retryable):
    assert kind(*FACTS[kind]).retryable is retryable


def test_definition_errors_are_value_errors():
    with pytest.raises(ValueError, match="two steps named 'price'"):
        raise DuplicateStepError("orders", "price")


def test_verdict_holds_the_result_across_a_process_border():
    error = pickle.loads(pickle.dumps(JobFailedError(RESULT)))

    assert error.result == RESULT
    assert str(error) == (
        "Job 'orders' (orders.run) is FAILED_PROCESS_RECORDS: 3 records: 1 successful, 2 failed, 0 not run. "
        "2 records failed."
    )


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        pytest.param(0, "does not add up: a file is missing. Do not", id="none"),
        pytest.param(2, "(record ids 0, 1). Do not", id="some"),
        pytest.param(1_025, "17, 18, 19 and 1,005 more). Do not", id="many"),
    ],
)
def test_data_loss_names_some_of_the_records(count, shown):
    error = DataLossError("orders.run", "a file is missing", range(count))

    assert shown in str(error)
    assert error.record_ids == tuple(range(count))


def test_an_instance_that_is_not_there_is_told_apart_from_several():
    assert "No instance is called 'orders'" in str(InstanceNotFoundError("orders", []))

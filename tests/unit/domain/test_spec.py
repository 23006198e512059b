"""Declared jobs: refused when they cannot run, the same in every process."""

from __future__ import annotations

import re

import pytest

from batch_provider import AcceptPolicy, AggregatorSpec, BatchJob, JobSpec, StepSpec
from batch_provider.domain.errors import (
    DuplicateStepError,
    InvalidExpressionError,
    InvalidOptionError,
    JobDefinitionError,
)


def noop(record):
    return None


def bulk(records):
    return None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            {"block_size": 0},
            "block_size=0 is not allowed in job 'job'; use a whole number, 1 or more or 'auto'",
            id="0",
        ),
        pytest.param({"block_size": -1}, "block_size=-1", id="block_size -1"),
        pytest.param({"block_size": 1.5}, "block_size=1.5", id="block_size 1.5"),
        pytest.param({"block_size": True}, "block_size=True", id="block_size True"),
        pytest.param({"block_size": "big"}, "block_size='big'", id="block_size text"),
        pytest.param(
            {"shards": 0}, "shards=0 is not allowed in job 'job'; use a whole number, 1 to 1,000", id="no shard"
        ),
        pytest.param({"shards": 1_001}, "shards=1001", id="too many shards"),
        pytest.param({"max_records": 0}, "max_records=0", id="max_records 0"),
        pytest.param({"max_records": -1}, "max_records=-1", id="max_records -1"),
        pytest.param({"min_records": -1}, "min_records=-1", id="min_records -1"),
        pytest.param(
            {"min_records": 3, "max_records": 2},
            "min_records=3 is not allowed in job 'job'; use max_records=2 or fewer",
            id="min_records above max_records",
        ),
        pytest.param({"max_failed_records": -2}, "max_failed_records=-2", id="max_failed_records -2"),
        pytest.param({"max_failed_ratio": 2}, "max_failed_ratio=2", id="ratio 2"),
        pytest.param({"variables": {"a": object()}}, "JSON values only", id="variable no JSON"),
    ],
)
def test_job_option_outside_what_it_allows_is_refused(options, message):
    with pytest.raises(InvalidOptionError, match=re.escape(message)):
        BatchJob("job", **options)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"block_size": 1}, id="smallest block"),
        pytest.param({"block_size": "auto"}, id="auto"),
        pytest.param({"shards": 1_000}, id="most shards"),
        pytest.param({"max_records": 1}, id="smallest max_records"),
        pytest.param({"min_records": 0}, id="smallest min_records"),
        pytest.param({"min_records": 2, "max_records": 2}, id="exactly so many records"),
        pytest.param({"max_failed_records": -1}, id="never stop"),
        pytest.param({"variables": {"a": [1, {"b": None}]}}, id="nested variables"),
    ],
)
def test_job_option_within_what_it_allows_is_accepted(options):
    assert isinstance(BatchJob("job", **options).spec, JobSpec)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"accept_policy": "SOME"}, "accept_policy='SOME'", id="unknown policy"),
        pytest.param(
            {"reads": "carrier"},
            "reads='carrier' is not allowed in step 's' of job 'job'; use a list of column names",
            id="string",
        ),
        pytest.param({"drop": "carrier"}, "drop='carrier'", id="drop is a bare string"),
        pytest.param({"reads": [1]}, "reads=1", id="reads holds a number"),
        pytest.param({"reads": ["_id"]}, "reads='_id'", id="reads a reserved column"),
        pytest.param({"drop": ["_vars"]}, "drop='_vars'", id="drops a reserved column"),
        pytest.param(
            {"output": "merge"},
            "output='merge' is not allowed in step 's' of job 'job'; use 'patch' or 'replace'",
            id="output",
        ),
        pytest.param({"accept_expression": 5}, "accept_expression=5", id="expression is a number"),
        pytest.param({"name": "on_complete"}, "step='on_complete'", id="taken name"),
        pytest.param({"name": "../x"}, "step='../x'", id="evil name"),
    ],
)
def test_step_option_outside_what_it_allows_is_refused(options, message):
    with pytest.raises(InvalidOptionError, match=re.escape(message)):
        BatchJob("job").step(**{"name": "s", **options})(noop)


@pytest.mark.parametrize("expression", ["", "  \n"])
def test_empty_expression_is_refused(expression):
    with pytest.raises(InvalidExpressionError, match="it is empty"):
        StepSpec("s", noop, accept_expression=expression)


def test_step_without_a_callable_is_refused():
    with pytest.raises(InvalidOptionError, match="function of step 's'=5 is not allowed; use a callable"):
        StepSpec("s", 5)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        pytest.param({"size": 10, "streaming": True}, "10", id="size and streaming"),
        pytest.param({}, "None", id="neither"),
    ],
)
def test_aggregator_is_sized_or_streaming_never_both(options, size):
    message = f"^size={size} is not allowed; use either size=N or streaming=True, not both"
    with pytest.raises(InvalidOptionError, match=message):
        AggregatorSpec(**options)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"size": 0}, id="size 0"),
        pytest.param({"size": 1.5}, id="size 1.5"),
        pytest.param({"size": 5, "on_error": "retry"}, id="unknown on_error"),
        pytest.param({"streaming": True, "on_error": "isolate"}, id="isolate while streaming"),
    ],
)
def test_aggregator_option_outside_what_it_allows_is_refused(options):
    with pytest.raises(InvalidOptionError):
        AggregatorSpec(**options)


@pytest.mark.parametrize("options", [{"drop": ["a"]}, {"output": "replace"}], ids=["drop", "output"])
def test_aggregator_refuses_what_it_would_ignore(options):
    with pytest.raises(InvalidOptionError, match="record steps only"):
        BatchJob("job").aggregator("s", size=2, **options)(bulk)


def test_two_steps_of_one_name_are_refused():
    job = BatchJob("job")
    job.step(noop)

    with pytest.raises(DuplicateStepError, match="Job 'job' has two steps named 'noop'"):
        job.step(noop)
    with pytest.raises(DuplicateStepError):
        JobSpec("job", steps=(StepSpec("a", noop), StepSpec("a", noop)))


def test_two_on_complete_functions_are_refused():
    job = BatchJob("job")
    job.on_complete(noop)

    with pytest.raises(JobDefinitionError, match="two on_complete functions; keep one"):
        job.on_complete(noop)


def test_decorated_functions_stay_what_they_were():
    job = BatchJob("job")

    assert job.step(noop) is noop
    assert job.aggregator(size=2)(bulk) is bulk
    assert job.on_complete(noop) is noop
    assert [step.name for step in job.spec.steps] == ["noop", "bulk"]


def test_repr_has_neither_functions_nor_addresses():
    job = BatchJob("job")
    job.step(noop)
    job.aggregator(size=2)(bulk)
    spec = job.spec

    for text in (repr(spec), *map(repr, spec.steps), str(spec)):
        assert "0x" not in text
        assert "function" not in text
    assert "noop" in repr(spec)


def test_specs_are_frozen():
    spec = BatchJob("job", variables={"a": 1}).spec

    with pytest.raises(AttributeError):
        spec.name = "other"
    with pytest.raises(TypeError):
        spec.variables["a"] = 2


def test_step_is_found_by_name():
    spec = JobSpec("job", steps=(StepSpec("a", noop), StepSpec("b", noop), StepSpec("c", noop)))

    assert spec.step("b").name == "b"
    assert [step.name for step in spec.upstream_of("c")] == ["a", "b"]
    assert spec.upstream_of("a") == ()
    with pytest.raises(InvalidOptionError, match="step='d' is not allowed; use one of a, b, c"):
        spec.step("d")


def test_streaming_aggregator_ends_a_stage():
    streaming = StepSpec("b", bulk, aggregator=AggregatorSpec(streaming=True))
    sized = StepSpec("c", bulk, aggregator=AggregatorSpec(size=2))
    spec = JobSpec("job", steps=(StepSpec("a", noop), streaming, sized, StepSpec("d", noop)))

    assert [[step.name for step in stage] for stage in spec.stages()] == [["a", "b"], ["c", "d"]]
    assert streaming.is_streaming
    assert not sized.is_streaming
    assert JobSpec("job").stages() == ()


def test_policy_may_be_given_by_name():
    assert StepSpec("s", noop, accept_policy="ALL").accept_policy is AcceptPolicy.ALL


def test_columns_given_as_a_set_have_the_same_order_everywhere():
    assert StepSpec("s", noop, reads={"b", "c", "a"}).reads == ("a", "b", "c")
    assert StepSpec("s", noop, reads=["b", "a"]).reads == ("b", "a")
    assert StepSpec("s", noop, reads=[]).reads == ()


def test_more_shards_than_max_concurrency_are_refused():
    with pytest.raises(InvalidOptionError, match="shards=3 is not allowed; use max_concurrency=2 or fewer"):
        JobSpec("job", shards=3, max_concurrency=2)
    assert JobSpec("job", shards=2, max_concurrency=2).max_concurrency == 2


@pytest.mark.parametrize("value", ["sequential", "", None])
def test_an_unknown_scheduling_is_refused(value):
    with pytest.raises(InvalidOptionError, match="'ordered_sequential' or 'round_robin'"):
        JobSpec("job", scheduling=value)


@pytest.mark.parametrize("value", [0, -1, 1.5, "2"])
def test_max_concurrency_is_a_whole_number_from_one(value):
    with pytest.raises(InvalidOptionError, match="max_concurrency"):
        JobSpec("job", max_concurrency=value)

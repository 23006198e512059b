"""Retries, time limits and concurrency of a record's call."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from functools import partial

import pytest

from batch_provider import BatchJob, InvalidOptionError
from batch_provider.domain.spec import CallPolicy
from batch_provider.testing import LocalRun

QUICK = {"retry_delay": 0.0001, "max_retry_delay": 0.001}


def run(job, records):
    local = LocalRun(job.spec)
    return local.run(records), local


def records(count):
    return [{"n": n} for n in range(count)]


def test_a_record_is_tried_again_until_it_succeeds():
    tries = []
    with BatchJob("job") as job:

        @job.step(retries=2, **QUICK)
        def flaky(record):
            tries.append(record["n"])
            if len(tries) < 3:
                raise ConnectionError("not yet")
            return {"done": True}

    result, local = run(job, records(1))

    assert tries == [0, 0, 0]
    assert result.successful_records == 1
    assert local.output() == [{"n": 0, "done": True}]


def test_a_record_fails_after_its_last_retry_with_the_last_error():
    tries = []
    with BatchJob("job", max_failed_records=1) as job:

        @job.step(retries=2, **QUICK)
        def broken(record):
            tries.append(1)
            raise ConnectionError(f"try {len(tries)}")

    result, _ = run(job, records(1))

    assert len(tries) == 3
    assert [(error.exception, error.sample) for error in result.errors] == [("ConnectionError", "try 3")]


def test_an_error_that_is_not_listed_is_not_tried_again():
    tries = []
    with BatchJob("job", max_failed_records=1) as job:

        @job.step(retries=5, retry_on=ConnectionError, **QUICK)
        def broken(record):
            tries.append(1)
            raise ValueError("never mind")

    run(job, records(1))

    assert len(tries) == 1


def test_a_retry_sees_the_payload_as_it_came_not_as_the_failed_try_left_it():
    seen = []
    with BatchJob("job") as job:

        @job.step(retries=1, **QUICK)
        def spoils(record):
            seen.append(dict(record))
            record["n"] = "spoiled"
            if len(seen) == 1:
                raise ConnectionError

    run(job, records(1))

    assert seen == [{"n": 0}, {"n": 0}]


@pytest.mark.parametrize("kind", [pytest.param("coroutine", id="coroutines"), pytest.param("thread", id="threads")])
def test_calls_run_side_by_side_and_the_output_keeps_the_order(kind):
    """With a barrier that needs all four at once, calls in turn would never end."""
    together = threading.Barrier(4, timeout=10)
    loop_barrier = {}
    with BatchJob("job", block_size=4) as job:
        if kind == "thread":

            @job.step(concurrency=4)
            def step(record):
                together.wait()
                return {"twice": record["n"] * 2}
        else:

            @job.step(concurrency=4)
            async def step(record):
                barrier = loop_barrier.setdefault(asyncio.get_running_loop(), asyncio.Barrier(4))
                await asyncio.wait_for(barrier.wait(), 10)
                return {"twice": record["n"] * 2}

    result, local = run(job, records(8))

    assert result.successful_records == 8
    assert [row["twice"] for row in local.output()] == [n * 2 for n in range(8)]


def test_no_more_calls_run_at_a_time_than_concurrency_says():
    running, most = [0], [0]
    with BatchJob("job", block_size=50) as job:

        @job.step(concurrency=3)
        async def step(record):
            running[0] += 1
            most[0] = max(most[0], running[0])
            await asyncio.sleep(0)
            running[0] -= 1

    run(job, records(50))

    assert most == [3]


def test_a_coroutine_without_options_is_awaited():
    with BatchJob("job") as job:

        @job.step
        async def step(record):
            return {"awaited": True}

    _, local = run(job, records(2))

    assert [row["awaited"] for row in local.output()] == [True, True]


@pytest.mark.parametrize(
    "seconds", [pytest.param(0.02, id="number"), pytest.param(timedelta(milliseconds=20), id="timedelta")]
)
def test_a_coroutine_that_takes_too_long_is_cancelled_and_fails_its_record_alone(seconds):
    cancelled = []
    with BatchJob("job", max_failed_records=1) as job:

        @job.step(timeout=seconds, concurrency=2)
        async def step(record):
            if record["n"] == 1:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    cancelled.append(record["n"])
                    raise

    result, _ = run(job, records(3))

    assert cancelled == [1]
    assert (result.successful_records, result.failed_records) == (2, 1)
    assert result.errors[0].exception == "TimeoutError"
    assert result.errors[0].sample == "no answer within 0.02 s"


def test_a_plain_function_that_takes_too_long_fails_its_record_and_is_left_behind():
    released = threading.Event()
    with BatchJob("job", max_failed_records=1) as job:

        @job.step(timeout=0.02)
        def step(record):
            if record["n"] == 1:
                released.wait(10)

    result, _ = run(job, records(3))
    released.set()

    assert (result.successful_records, result.failed_records) == (2, 1)
    assert result.errors[0].sample == "no answer within 0.02 s"


def test_the_functions_own_timeout_error_keeps_its_message():
    with BatchJob("job", max_failed_records=2) as job:

        @job.step(timeout=5)
        async def step(record):
            raise TimeoutError("the server said so")

    result, _ = run(job, records(2))

    assert {error.sample for error in result.errors} == {"the server said so"}


def test_keywords_reach_concurrent_calls():
    with BatchJob("job", variables={"factor": 10}) as job:

        @job.step(concurrency=4)
        async def step(record, *, variables, record_id):
            variables["seen"] = record_id
            return {"product": record["n"] * variables["factor"]}

        @job.step
        def check(record, *, variables):
            return {"seen": variables["seen"]}

    _, local = run(job, records(3))

    assert [(row["product"], row["seen"]) for row in local.output()] == [(0, 0), (10, 1), (20, 2)]


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
@pytest.mark.parametrize("option", ["retry_delay", "max_retry_delay"])
def test_a_retry_may_come_at_once(kind, option):
    tries = []

    def body(record):
        tries.append(record["n"])
        if len(tries) < 3:
            raise ConnectionError

    async def waits(record):
        body(record)

    with BatchJob("job") as job:
        job.step(name="s", retries=2, **{option: 0})(waits if kind == "coroutine" else body)

    result, _ = run(job, records(1))

    assert (result.successful_records, tries) == (1, [0, 0, 0])


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"retries": -1}, id="negative retries"),
        pytest.param({"retries": True}, id="boolean retries"),
        pytest.param({"retry_on": "TimeoutError"}, id="exception as text"),
        pytest.param({"retry_on": (KeyboardInterrupt,)}, id="no Exception"),
        pytest.param({"timeout": 0}, id="no time"),
        pytest.param({"timeout": float("inf")}, id="endless time"),
        pytest.param({"timeout": "1"}, id="time as text"),
        pytest.param({"concurrency": 0}, id="no concurrency"),
        pytest.param({"retry_delay": -1}, id="negative delay"),
    ],
)
def test_options_that_mean_nothing_are_refused(options):
    with pytest.raises(InvalidOptionError, match=next(iter(options))):
        CallPolicy(**options)


@pytest.mark.parametrize("concurrency", [pytest.param(1, id="in turn"), pytest.param(4, id="in threads")])
def test_a_failed_try_leaves_no_trace_in_nested_values_or_variables(concurrency):
    tries = []
    with BatchJob("job", variables={"seen": []}) as job:

        @job.step(retries=1, concurrency=concurrency, **QUICK)
        def spoils(record, *, variables):
            tries.append((list(record["list"]), list(variables["seen"])))
            record["list"].append("spoiled")
            variables["seen"].append("spoiled")
            if len(tries) == 1:
                raise ConnectionError

        @job.step
        def after(record, *, variables):
            return {"seen": len(variables["seen"])}

    _, local = run(job, [{"list": [1]}])

    assert tries == [([1], []), ([1], [])]
    assert local.output() == [{"list": [1], "seen": 1}]


def test_a_function_without_a_payload_argument_is_refused_before_any_record():
    with BatchJob("job", max_failed_records=-1) as job:
        job.step(name="bare")(lambda: None)

    local = LocalRun(job.spec)
    local.load(records(2))

    with pytest.raises(InvalidOptionError, match="first argument takes the payload"):
        local.process_all()


def test_a_partial_needs_a_name():
    job = BatchJob("job")

    with pytest.raises(InvalidOptionError, match="partial objects have none"):
        job.step(partial(print, "x"))


def test_a_misspelt_option_is_refused():
    job = BatchJob("job")

    with pytest.raises(InvalidOptionError, match="accept_expression=, if that is what was meant"):
        job.step(accept_expresion="n > 0")(print)


def test_a_coroutine_is_not_tried_again_after_another_exception():
    tries = []
    with BatchJob("job", max_failed_records=1) as job:

        @job.step(retries=2, retry_on=ConnectionError, **QUICK)
        async def broken(record):
            tries.append(1)
            raise ValueError("not worth it")

    result, _ = run(job, records(1))

    assert (len(tries), result.failed_records) == (1, 1)


def test_a_coroutine_of_an_aggregator_runs_where_a_loop_is_running_already():
    with BatchJob("job") as job:

        @job.aggregator(size=2)
        async def group(records):
            await asyncio.sleep(0)
            return [{"seen": True} for _ in records]

    run = LocalRun(job.spec)

    async def notebook():
        return run.run([{"n": 1}, {"n": 2}])

    assert asyncio.run(notebook()).is_successful
    assert [row["seen"] for row in run.output()] == [True, True]

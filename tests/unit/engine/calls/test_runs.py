"""Functions are called for runs of a bounded size, whatever they ask for and however they are called."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pyarrow as pa
import pytest

from batch_provider import BatchJob
from batch_provider.domain.layout import Span
from batch_provider.engine.calls.invoke import PER_RECORD, UserFunction
from batch_provider.engine.columns.block import OBJECT_ROWS, Block
from batch_provider.engine.steps.accept import calls_for
from batch_provider.testing import LocalRun

COUNT = 3 * OBJECT_ROWS + 100


async def awaited(record):
    return {"m": record["n"] * 2}


KINDS = {
    "plain": (lambda record: {"m": record["n"] * 2}, {}),
    "record_id": (lambda record, record_id: {"m": record_id * 2}, {}),
    "failures": (lambda record, failures: {"m": record["n"] * 2 + len(failures)}, {}),
    "variables": (lambda record, variables: {"m": record["n"] * variables["two"]}, {}),
    "retries": (lambda record: {"m": record["n"] * 2}, {"retries": 1}),
    "threads": (lambda record, record_id: {"m": record_id * 2}, {"concurrency": 4}),
    "timeout": (lambda record: {"m": record["n"] * 2}, {"timeout": 60}),
    "coroutine": (awaited, {"concurrency": 4}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_more_than_two_runs_are_under_way_and_each_record_has_its_own_return(kind):
    function, options = KINDS[kind]
    with BatchJob("job", block_size=COUNT) as job:
        job.step(name="s", **options)(function)
    step = job.spec.steps[0]
    local = LocalRun(job.spec)
    local.load(pa.table({"n": range(COUNT)}))
    upstream = local.generation.claim("s", "01", local.info, local.job).upstream
    called = []

    def counted(record, **keywords):
        called.append(record["n"])
        return function(record, **keywords)

    user = UserFunction("s", function, PER_RECORD, {}, step.calls)
    user.call = function if kind == "coroutine" else counted
    positions = np.arange(0, COUNT, 2)

    found = []
    for inside, calls in calls_for(user, Block(upstream, Span(0, COUNT - 1)), positions, '{"two": 2}'):
        assert len(inside) <= OBJECT_ROWS
        assert len(called) <= len(found) + 2 * OBJECT_ROWS
        assert len(calls.seconds) == len(inside)
        found += [(int(at), value["m"]) for at, value in zip(inside, calls.returned, strict=True)]

    assert found == [(n, n * 2) for n in range(0, COUNT, 2)]


@pytest.mark.parametrize("output", ["patch", "replace"])
@pytest.mark.parametrize("kind", ["in turn", "threads", "coroutine"])
def test_outcomes_of_several_runs_are_those_of_one(kind, output):
    """Errors, patches and variables of records in the first, the third and the last run."""
    odd = {5, 2 * OBJECT_ROWS + 1, COUNT - 1}

    def body(record, variables):
        if record["n"] in odd:
            raise ValueError(f"odd {record['n']}")
        if record["n"] % 1_000 == 0:
            variables["seen"] = record["n"]
            return {"n": record["n"], "thousand": True}
        return {"n": record["n"]} if record["n"] % 2 else None

    async def waits(record, variables):
        return body(record, variables)

    with BatchJob("job", block_size=COUNT, max_failed_records=-1, variables={"seen": None}) as job:
        concurrency = 1 if kind == "in turn" else 3
        job.step(name="s", output=output, concurrency=concurrency)(waits if kind == "coroutine" else body)
        job.step(name="look")(lambda record, variables: {"seen": variables["seen"]})

    local = LocalRun(job.spec)
    result = local.run(pa.table({"n": range(COUNT), "old": [1] * COUNT, "thousand": [False] * COUNT}))

    assert {(e.exception, e.count) for e in result.errors} == {("ValueError", len(odd))}
    assert local.query("SELECT record_id FROM failures ORDER BY 1") == [(n,) for n in sorted(odd)]
    for row in local.output():
        is_marked, is_replaced = row["n"] % 1_000 == 0, row["n"] % 2 == 1 and row["n"] not in odd
        assert row["seen"] == (row["n"] if is_marked else None)
        if output == "patch":
            assert (row["old"], row["thousand"]) == (1, is_marked)
        elif is_marked:
            assert (row["old"], row["thousand"]) == (None, True)
        else:
            assert (row["old"], row["thousand"]) == ((None, None) if is_replaced else (1, False))


@pytest.mark.parametrize("kind", ["threads", "coroutine"])
def test_a_slow_call_does_not_hold_up_the_run_after_it(kind):
    """The first record waits for one of the second run: it would wait for ever, were the runs in turn."""
    reached = threading.Event()

    def body(record):
        if record["n"] == 0:
            assert reached.wait(20)
        elif record["n"] == OBJECT_ROWS + 1:
            reached.set()

    async def waits(record):
        await asyncio.to_thread(body, record) if record["n"] in {0, OBJECT_ROWS + 1} else None

    with BatchJob("job", block_size=COUNT) as job:
        job.step(name="s", concurrency=2)(waits if kind == "coroutine" else body)

    assert LocalRun(job.spec).run(pa.table({"n": range(COUNT)})).successful_records == COUNT


def test_a_block_has_one_event_loop_however_many_runs_it_has():
    loops = set()
    with BatchJob("job", block_size=COUNT) as job:

        @job.step
        async def s(record):
            loops.add(asyncio.get_running_loop())

    LocalRun(job.spec).run(pa.table({"n": range(COUNT)}))

    assert len(loops) == 1


def test_coroutines_run_beside_a_loop_that_runs_already():
    with BatchJob("job", block_size=COUNT) as job:
        job.step(name="s", concurrency=3)(awaited)
    local = LocalRun(job.spec)

    async def cell():
        return local.run(pa.table({"n": range(COUNT)}))

    assert asyncio.run(cell()).successful_records == COUNT
    assert [row["m"] for row in local.output()] == [n * 2 for n in range(COUNT)]


@pytest.mark.parametrize("kind", ["threads", "coroutine"])
def test_what_ends_the_task_ends_the_calls_that_were_to_come(kind):
    called = []

    def body(record):
        called.append(record["n"])
        if record["n"] == 3:
            raise MemoryError

    async def waits(record):
        body(record)
        await asyncio.sleep(0)

    with BatchJob("job", block_size=COUNT) as job:
        job.step(name="s", concurrency=2)(waits if kind == "coroutine" else body)

    with pytest.raises(MemoryError):
        LocalRun(job.spec).run(pa.table({"n": range(COUNT)}))
    assert len(called) <= 2 * OBJECT_ROWS


def test_the_stack_of_a_coroutines_error_is_its_own(caplog):
    with BatchJob("job", max_failed_records=-1) as job:

        @job.step
        async def s(record):
            raise ValueError("no good")

        @job.aggregator("a", size=2, accept_policy="ALL")
        async def a(records):
            raise LookupError("none")

    LocalRun(job.spec).run([{"n": 1}])

    assert "no good" in caplog.text
    assert "none" in caplog.text
    assert "no running event loop" not in caplog.text


@pytest.mark.parametrize(
    ("change", "after"),
    [
        pytest.param(lambda v: v.update(a=True), {"a": True, "b": [1]}, id="1 becomes true"),
        pytest.param(lambda v: v.update(a=1.0), {"a": 1.0, "b": [1]}, id="1 becomes 1.0"),
        pytest.param(lambda v: v["b"].append(2), {"a": 1, "b": [1, 2]}, id="inside a list"),
        pytest.param(lambda v: v.update(b=(1,)), {"a": 1, "b": [1]}, id="a tuple is a list"),
        pytest.param(lambda v: v.update(a=v.pop("a")), {"a": 1, "b": [1]}, id="another order"),
    ],
)
def test_a_change_of_variables_is_noticed_whatever_python_calls_equal(change, after):
    seen = []
    with BatchJob("job", variables={"a": 1, "b": [1]}) as job:
        job.step(name="s")(lambda record, variables: change(variables))
        job.step(name="look")(lambda record, variables: seen.append(variables))

    LocalRun(job.spec).run([{"n": 1}, {"n": 2}])

    assert [repr(sorted(found.items())) for found in seen] == [repr(sorted(after.items()))] * 2

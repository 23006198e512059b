"""Ways through the engine that few jobs take: each is something an author or an operator would see."""

from __future__ import annotations

import asyncio
import gc
import os
import sqlite3
import threading
import time
from contextlib import closing
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_provider import AggregatorSpec, BatchJob, JobState, SqlTable
from batch_provider.domain.errors import DataLossError, InvalidOptionError
from batch_provider.domain.spec import StepSpec, WriterSpec
from batch_provider.engine.columns.block import OBJECT_ROWS
from batch_provider.engine.columns.joining import concat_by_name
from batch_provider.engine.columns.kept import kept_column, kept_values
from batch_provider.engine.expressions import sandbox
from batch_provider.engine.expressions.sandbox import Sandbox
from batch_provider.engine.process.process import ShardTask, process_shard
from batch_provider.sources.access import LocalAccess
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.storage.blobs.protocol import put_json
from batch_provider.testing import LocalRun
from tests.builders import Killed, Step, failures, job_of, numbers

# --- declaring ------------------------------------------------------------------------------------------------


def test_an_option_of_airflow_goes_to_the_tasks():
    job = job_of((Step(), {"pool": "batch", "task_options": {"queue": "large"}}))
    assert dict(job.steps[0].task_options) == {"queue": "large", "pool": "batch"}


def test_a_step_that_is_none_has_no_writer():
    with pytest.raises(TypeError, match="step 's1' has no writer"):
        _ = StepSpec("s1", Step()).writer


def test_what_cannot_write_is_no_writer():
    with pytest.raises(InvalidOptionError, match="a writer such as SqlTable"):
        WriterSpec("a table")


def test_a_transaction_is_for_groups():
    with pytest.raises(InvalidOptionError, match="it with size= only"):
        AggregatorSpec(streaming=True, transaction="warehouse")


# --- calls ----------------------------------------------------------------------------------------------------


def test_coroutines_run_where_an_event_loop_runs_already():
    """As in a notebook."""

    async def enrich(record):
        await asyncio.sleep(0)
        return {"double": record["n"] * 2}

    async def cell():
        run = LocalRun(job_of((enrich, {"concurrency": 2})))
        run.run(numbers(3))
        return run.output()

    assert [row["double"] for row in asyncio.run(cell())] == [0, 2, 4]


def test_a_coroutine_is_tried_again_until_it_succeeds():
    tries = []

    async def flaky(record):
        tries.append(record["n"])
        if len(tries) < 3:
            raise ConnectionError("busy")
        return {"done": True}

    run = LocalRun(job_of((flaky, {"retries": 3, "retry_delay": 0.001})))
    assert run.run(numbers(1)).is_successful
    assert tries == [0, 0, 0]


def test_a_plain_function_is_tried_again_until_it_succeeds():
    tries = []

    def flaky(record):
        tries.append(record["n"])
        if len(tries) < 3:
            raise ConnectionError("busy")

    assert LocalRun(job_of((flaky, {"retries": 3, "retry_delay": 0.001}))).run(numbers(1)).failed_records == 0
    assert tries == [0, 0, 0]


def test_a_timeout_of_the_functions_own_is_told_apart_from_the_steps():
    def ask(record):
        raise TimeoutError("the service did not answer")

    run = LocalRun(job_of((ask, {"timeout": 30})))
    run.run(numbers(1))
    assert failures(run) == [(0, "s1", "TimeoutError", "the service did not answer")]


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    try:
        LocalRun(job_of(lambda record: None)).run(numbers(3))
        assert not gc.isenabled()
    finally:
        gc.enable()


# --- values ---------------------------------------------------------------------------------------------------


def test_a_kept_value_of_a_kind_that_json_does_not_know_is_its_text():
    number = UUID(int=7)
    assert kept_values(kept_column({0: {"u": number}}, 1)) == {0: {"u": str(number)}}


def test_values_kept_before_stay_beside_those_kept_now():
    first = pa.table({"a": pa.array([1, 2]), "_kept": kept_column({1: {"b": "x"}}, 2)})
    second = pa.table({"a": pa.array(["one"]), "_kept": kept_column({0: {"b": "y"}}, 1)})
    joined = concat_by_name([first, second])
    assert kept_values(joined["_kept"]) == {1: {"b": "x"}, 2: {"a": "one", "b": "y"}}
    assert joined["a"].to_pylist() == [1, 2, None]


@pytest.mark.parametrize("block_size", ["auto", 3])
def test_patches_of_several_shapes_in_one_block(block_size):
    def patch(record):
        return {"a": record["n"]} | ({"b": "x"} if record["n"] % 2 else {})

    run = LocalRun(job_of(patch, block_size=block_size))
    run.run(numbers(4))
    assert [(row["a"], row["b"]) for row in run.output()] == [(0, None), (1, "x"), (2, None), (3, "x")]


def test_a_key_of_the_providers_own_fails_every_record_that_returns_it():
    run = LocalRun(job_of(lambda record: {"_id": record["n"]}))
    assert run.run(numbers(3)).failed_records == 3
    assert {kind for _, _, kind, _ in failures(run)} == {"InvalidPatchError"}


def test_a_type_that_widens_within_a_block_fails_the_values_it_cannot_hold():
    """The first run of the block is whole numbers, one of them beyond the precision of the floats that follow."""
    big = 2**60 + 1

    def patch(record):
        return {"x": (big if record["n"] == 1 else record["n"]) if record["n"] < OBJECT_ROWS else 0.5}

    run = LocalRun(job_of(patch, block_size=OBJECT_ROWS * 2))
    result = run.run(numbers(OBJECT_ROWS + 2))
    assert result.failed_records == 1
    assert [(record, kind) for record, _, kind, _ in failures(run)] == [(1, "FieldTypeError")]
    found = [row.get("x") for row in run.output()]
    assert (found[0], found[1], found[2], found[-1]) == (0, None, 2, 0.5)


def test_a_column_that_gets_another_type_keeps_the_texts_and_nothing_for_nulls():
    def number(record):
        return {"qty": int(record["qty"])}

    run = LocalRun(job_of((number, {"accept_expression": "qty <> 'many'"}), block_size=10))
    run.run([{"qty": "1"}, {"qty": "many"}, {"qty": None}, {"qty": "4"}])
    assert [row["qty"] for row in run.output()] == [1, "many", None, 4]


def test_values_kept_of_one_column_say_nothing_of_another():
    """Two columns get another type for some records, in two steps; a third step changes a part of one of them."""

    def first(record):
        return {"a": int(record["a"])}

    def second(record):
        return {"b": int(record["b"])} if record["n"] else None

    run = LocalRun(job_of(first, (second, {"accept_policy": "ALL"}), block_size=10))
    run.run([{"n": 0, "a": "x", "b": "y"}, {"n": 1, "a": "1", "b": "2"}, {"n": 2, "a": "y", "b": "3"}])
    assert run.output() == [
        {"n": 0, "a": "x", "b": "y"},
        {"n": 1, "a": 1, "b": 2},
        {"n": 2, "a": "y", "b": 3},
    ]


def test_a_sql_step_keeps_the_texts_of_records_that_fail_in_it():
    job = BatchJob("job", max_failed_records=-1, block_size=10)
    job.sql_step("number", checks={"no number": "qty <> 'many'"}, assign={"qty": "qty::INTEGER"})
    run = LocalRun(job.spec)
    run.run([{"qty": "1"}, {"qty": "many"}, {"qty": None}])
    assert [row["qty"] for row in run.output()] == [1, "many", None]


def test_a_writer_gets_the_kept_values_of_the_columns_it_reads_only(tmp_path):
    path = tmp_path / "warehouse.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE t (n INTEGER, a)")
    job = BatchJob("job", max_failed_records=-1, block_size=10)
    job.step(lambda record: {"a": int(record["a"])}, name="a")
    job.step(lambda record: {"b": int(record["b"])}, name="b", accept_policy="ALL")
    job.write("store", SqlTable("warehouse", "t"), reads=["n", "a"], accept_policy="ALL")
    access = LocalAccess({"warehouse": lambda: sqlite3.connect(path)})
    run = LocalRun(job.spec, access=access)
    run.run([{"n": 1, "a": "1", "b": "x"}, {"n": 2, "a": "two", "b": "2"}, {"n": 3, "a": "3", "b": "3"}])
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT n, a FROM t ORDER BY n").fetchall() == [(1, 1), (2, "two"), (3, 3)]


def test_a_step_that_writes_says_so_where_there_is_no_way_to_a_database():
    job = BatchJob("job", max_failed_records=-1, block_size=10)
    job.write("store", SqlTable("warehouse", "t"))
    run = LocalRun(job.spec)
    run.load(numbers(1))
    work = run.generation.claim("store", "01", run.info, run.job)
    with pytest.raises(InvalidOptionError, match="step 'store' writes to a database"):
        process_shard(ShardTask(run.job, run.job.steps[0], work, run.clock))


# --- the sandbox ----------------------------------------------------------------------------------------------


def test_a_connection_made_before_a_fork_is_left_alone_after_it(monkeypatch):
    box = Sandbox()
    before = box.run(lambda conn: conn)
    monkeypatch.setattr(os, "getpid", lambda: -1)  # as the child sees it
    after = box.run(lambda conn: conn)
    assert after is not before
    assert before.execute("SELECT 1").fetchall() == [(1,)], "not closed: it is the parent's"
    box.close()


def test_work_that_no_interrupt_reaches_is_left_behind(monkeypatch):
    monkeypatch.setattr(sandbox, "_LOCKED_IN", 0.05)
    box, leave = Sandbox(timeout=0.05), threading.Event()
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        box.run(lambda _: leave.wait(10))
    assert time.monotonic() - started < 5
    leave.set()
    assert box.run(lambda conn: conn.execute("SELECT 1").fetchall()) == [(1,)]
    box.close()


# --- rounds ---------------------------------------------------------------------------------------------------


def test_a_shard_that_another_one_stopped_says_so_until_it_is_cleared_too():
    step = Step(fails={0, 1})
    run = LocalRun(job_of(step, max_failed_records=1, block_size=2), shards=2)
    assert run.run(numbers(8)).state is JobState.FAILED_PROCESS_RECORDS
    step.fails = set()
    run.next_round()
    run.process(run.job.step("s1"), "01")

    result = run.complete()

    assert result.state is JobState.FAILED_PROCESS_RECORDS
    assert (result.failed_records, result.not_run_records) == (0, 4)
    assert "no further block is started" in result.reason


def test_a_stream_whose_worker_died_between_two_closes_is_not_called_again():
    class Dying(MemoryBlobs):
        closes = 2

        def put(self, name, data, **options):
            if "/attempts/tell/" in name:
                self.closes -= 1
                if self.closes == 0:
                    raise Killed
            super().put(name, data, **options)

    calls = []
    job = BatchJob("job", max_failed_records=-1, block_size=4)
    job.aggregator("tell", streaming=True)(lambda records: calls.append(len(list(records))))
    run = LocalRun(job.spec, store=Dying(), shards=2)
    run.load(numbers(8))
    with pytest.raises(Killed):
        run.process_all()
    run.process_all()
    assert calls == [8]
    assert run.complete().step("tell").successful == 8


def test_a_manifest_of_no_records_with_shards_is_data_loss():
    blobs = MemoryBlobs()
    run = LocalRun(job_of(Step()), store=blobs)
    run.run(numbers(3))
    document = run.generation.manifest.to_json() | {"total": 0}
    name = f"{run.generation.base}/manifest.json"
    blobs.delete(name)
    put_json(blobs, name, document)
    with pytest.raises(DataLossError, match="0 records were loaded, 3 are accounted for"):
        run.complete()


def test_the_dead_letters_of_a_large_block_are_its_few_failed_records():
    bad = {3, 40_000 + 1}
    blobs = MemoryBlobs()

    def check(record):
        if record["n"] in bad:
            raise ValueError("bad")

    run = LocalRun(job_of(check, block_size=50_000), store=blobs)
    result = run.run(pa.table({"n": range(40_000 + 5)}))
    [name] = result.dead_letters
    letters = pq.read_table(pa.BufferReader(blobs.get(f"{run.generation.base}/{name}")))
    assert set(letters["n"].to_pylist()) == set(letters["_id"].to_pylist()) == bad

"""An isolating attempt in this process: only its children die."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import select
import signal
import sqlite3
import threading
from multiprocessing import Pipe
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from batch_provider import BatchJob, ParquetFiles, SqlTable
from batch_provider.domain.errors import InvalidExpressionError, ProcessDiedError, StopRequestedError, StorageError
from batch_provider.domain.fused import checkpoint_steps
from batch_provider.domain.layout import Span
from batch_provider.engine.calls.invoke import RecordError
from batch_provider.engine.isolation.child import READY, asking, outcome_of, serve_runner
from batch_provider.engine.isolation.faults import let_faults_kill
from batch_provider.engine.isolation.index import CallIndex
from batch_provider.engine.isolation.messages import (
    Blame,
    CutRequest,
    OutOfMemory,
    Question,
    Raised,
    RunRequest,
    from_ipc,
    is_out_of_memory,
)
from batch_provider.engine.isolation.process import Child, ChildDiedError
from batch_provider.engine.isolation.stream import StreamWork, serve_stream
from batch_provider.engine.process.process import ShardTask, process_shard
from batch_provider.engine.steps.runners import make_runner
from batch_provider.sources.access import LocalAccess
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.testing import Fault, Faults, FaultyBlobs, LocalRun
from tests.builders import Killed, failures, numbers, outcomes

PARENT = os.getpid()


def die(signal_number=signal.SIGKILL):
    assert os.getpid() != PARENT, "not in a child"
    faulthandler.disable()  # pytest's: a page of stacks for every child
    os.kill(os.getpid(), signal_number)


def isolating(**options):
    return BatchJob("job", **{"max_failed_records": -1, "max_process_deaths": 0, **options})


def died(run):
    """(record, step) of those whose process died."""
    return [(record, step) for record, step, kind, _ in failures(run) if kind == "ProcessDiedError"]


def in_round_two(run, count):
    """The first round, and another in which everything that failed is tried again."""
    run.run(numbers(count))
    run.next_round()
    run.process_all()
    run.complete()


# --- records, blocks, groups -------------------------------------------------------------------------------------


def test_with_no_death_allowed_a_job_in_this_process_outlives_what_would_kill_it():
    with isolating() as job:

        @job.step
        def work(record):
            if record["n"] in (3, 4, 40):
                die(signal.SIGSEGV)
            return {"twice": record["n"] * 2, "pid": os.getpid()}

    run = LocalRun(job.spec)
    result = run.run(numbers(64))

    assert died(run) == [(3, "work"), (4, "work"), (40, "work")]
    assert (result.successful_records, result.failed_records) == (61, 3)
    good = [row for row in run.output() if row["n"] not in (3, 4, 40)]
    assert [row["twice"] for row in good] == [row["n"] * 2 for row in good]
    assert PARENT not in {row["pid"] for row in good}


def test_types_live_on_when_the_child_that_gave_them_is_dead():
    with isolating(block_size=2) as job:

        @job.step
        def work(record):
            if record["n"] == 3:
                die()
            return {"x": 1 if record["n"] < 3 else "text"}

    run = LocalRun(job.spec)
    run.run(numbers(6))
    assert [(n, kind) for n, _, kind, _ in failures(run)] == [
        (3, "ProcessDiedError"),
        (4, "FieldTypeError"),
        (5, "FieldTypeError"),
    ]


def test_a_record_that_kills_in_a_redrive_fails_alone_and_keeps_the_others():
    first = {"round": True}
    with isolating() as job:

        @job.step
        def work(record, record_id):
            if first["round"] and record_id % 4 == 0:
                raise ValueError("not yet")
            if not first["round"] and record_id == 8:
                die()
            return {"twice": record["n"] * 2}

    run = LocalRun(job.spec)
    run.run(numbers(20))
    first["round"] = False
    run.next_round()
    run.process_all()
    run.complete()
    assert died(run) == [(8, "work")]
    assert [row["twice"] for row in run.output() if row["n"] != 8] == [2 * n for n in range(20) if n != 8]


def test_in_a_redrive_of_a_vectorised_step_the_records_are_halved():
    with isolating() as job:

        @job.arrow_step
        def work(block):
            found = block.column("n").to_pylist()
            if run.info.round_token == "local-0":
                raise ValueError("not yet")
            if {5, 6} & set(found):
                die()
            return block.append_column("x", block.column("n"))

    run = LocalRun(job.spec)
    in_round_two(run, 12)
    assert died(run) == [(5, "work"), (6, "work")]


@pytest.mark.parametrize(("on_error", "lost"), [("fail_group", [4, 5, 6, 7]), ("isolate", [6])])
def test_in_a_redrive_a_group_is_halved_only_if_it_isolates(on_error, lost):
    with isolating(block_size=12) as job:

        @job.aggregator("work", size=4, on_error=on_error)
        def work(records):
            if run.info.round_token == "local-0":
                raise ValueError("not yet")
            if 6 in [record["n"] for record in records]:
                die()

    run = LocalRun(job.spec)
    in_round_two(run, 12)
    assert died(run) == [(n, "work") for n in lost]


def test_records_that_die_in_company_only_are_finished_apart_and_cannot_be_in_a_redrive():
    with isolating() as job:

        @job.arrow_step
        def work(block):
            if block.num_rows > 3:
                die()
            if run.info.round_token == "local-0":
                raise ValueError("not yet")

    run = LocalRun(job.spec)
    run.run(numbers(20))
    assert died(run) == []
    assert set(outcomes(run, "work").values()) == {"FAILED"}

    with isolating(block_size=8) as job:

        @job.arrow_step
        def work(block):
            if run.info.round_token == "local-0":
                raise ValueError("not yet")
            if block.num_rows > 3:
                die()

    run = LocalRun(job.spec)
    run.run(numbers(8))
    run.next_round()
    with pytest.raises(ProcessDiedError, match="with the records 0 to 7, was ended by signal SIGKILL"):
        run.process_all()


@pytest.mark.parametrize("is_fused", [False, True])
def test_an_accept_expression_that_kills_fails_its_record(is_fused):
    def accepts(record):
        if record["n"] == 5:
            die()
        return record["n"] != 6

    with isolating(fuse_steps=is_fused) as job:

        @job.step
        def before(record): ...

        job.aggregator("work", size=3, accept_expression=accepts)(lambda records: None)

    run = LocalRun(job.spec)
    run.run(numbers(12))
    assert died(run) == [(5, "work")]
    assert {n: found for n, found in outcomes(run, "work").items() if found != "SUCCEEDED"} == {
        5: "FAILED",
        6: "SKIPPED",
    }


def test_an_accept_expression_that_kills_a_stream_fails_all_that_its_policy_admits():
    def accepts(record):
        if record["n"] == 5:
            die()
        return True

    with isolating() as job:

        @job.step
        def before(record):
            if record["n"] == 2:
                raise ValueError("bad")

        job.aggregator("work", streaming=True, accept_expression=accepts)(lambda records: list(records) and None)

    run = LocalRun(job.spec)
    run.run(numbers(8))
    assert died(run) == [(n, "work") for n in range(8) if n != 2]


def test_a_stream_in_a_child_gives_what_it_gives_without():
    with isolating() as job:

        @job.aggregator("work", streaming=True)
        def work(records):
            if sum(record["n"] for record in records) != 28:
                raise ValueError("some are missing")

    run = LocalRun(job.spec)
    assert run.run(numbers(8)).successful_records == 8


def test_a_stream_that_kills_in_its_call_fails_all_that_it_was_given():
    with isolating() as job:
        job.aggregator("work", streaming=True, accept_expression="n < 2")(lambda records: die())

    run = LocalRun(job.spec)
    run.run(numbers(4))
    assert died(run) == [(0, "work"), (1, "work")]


def test_an_async_function_with_retries_is_told_apart_by_its_record():
    tries = {}
    with isolating() as job:

        @job.step(retries=1, retry_delay=0.001)
        async def work(record, record_id):
            tries[record_id] = tries.get(record_id, 0) + 1
            if record["n"] == 3:
                die()
            if tries[record_id] == 1:
                raise ValueError("again")
            return {"id": record_id}

    run = LocalRun(job.spec)
    run.run(numbers(6))
    assert died(run) == [(3, "work")]
    assert [row["id"] for row in run.output() if row["n"] != 3] == [0, 1, 2, 4, 5]


def test_an_answer_that_arrow_finds_unsound_counts_as_a_death():
    with isolating() as job:

        @job.arrow_step
        def work(block):
            raw = pa.array([b"\xff" if n == 3 else b"fine" for n in block.column("n").to_pylist()])
            return block.append_column("text", pa.Array.from_buffers(pa.string(), len(raw), raw.buffers()))

    run = LocalRun(job.spec)
    run.run(numbers(6))
    assert died(run) == [(3, "work")]
    assert "an unsound answer" in failures(run)[0][3]


def test_a_record_for_which_memory_does_not_suffice_fails_alone():
    with isolating() as job:

        @job.step
        def work(record):
            if record["n"] == 3:
                raise MemoryError("3 GB")

    run = LocalRun(job.spec)
    run.run(numbers(6))
    assert died(run) == [(3, "work")]
    assert "lack of memory (MemoryError: 3 GB)" in failures(run)[0][3]


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_record_that_dies_in_company_and_once_alone_is_not_failed_for_it(tmp_path, deaths):
    with isolating() as job:

        @job.step
        def work(record):
            if run.info.round_token == "local-0":
                raise ValueError("not yet")
            if record["n"] == 3 and len(list(tmp_path.iterdir())) < deaths:
                (tmp_path / str(os.getpid())).touch()
                die()

    run = LocalRun(job.spec)
    in_round_two(run, 6)
    assert failures(run) == []


def warehouse(folder, killer):
    """Opens a database that kills whoever writes a row of that number, in a child."""

    def connect():
        connection = sqlite3.connect(folder / "db", timeout=60)
        connection.create_function("deadly", 1, lambda n: die() if n == killer else 0)
        return connection

    connection = sqlite3.connect(folder / "db")
    connection.execute("CREATE TABLE orders (n INTEGER)")
    connection.execute("CREATE TRIGGER t BEFORE INSERT ON orders BEGIN SELECT deadly(NEW.n); END")
    connection.close()
    return connect


def test_a_row_that_kills_its_writer_fails_alone_and_the_others_are_written_once(tmp_path):
    with isolating() as job:
        job.write("store", SqlTable("warehouse", "orders"), size=4)

    run = LocalRun(job.spec, access=LocalAccess({"warehouse": warehouse(tmp_path, 6)}))
    run.run(numbers(10))

    assert died(run) == [(6, "store")]
    connection = sqlite3.connect(tmp_path / "db")
    assert connection.execute("SELECT n FROM orders ORDER BY n").fetchall() == [(n,) for n in range(10) if n != 6]
    connection.close()


def test_in_a_redrive_a_block_of_files_is_not_tried_in_parts(tmp_path):
    def accepts(record):
        if run.info.round_token == "local-0":
            raise ValueError("not yet")
        return record["n"] != 3 or die()

    with isolating() as job:
        job.write("store", ParquetFiles(str(tmp_path / "lake")), accept_expression=accepts)

    run = LocalRun(job.spec)
    run.run(numbers(5))
    run.next_round()
    with pytest.raises(ProcessDiedError, match="with the records 0 to 4"):
        run.process_all()


# --- what is no record's ------------------------------------------------------------------------------------------


def test_nobody_is_blamed_while_somebody_asks_for_an_end():
    with isolating() as job:
        job.step(name="work")(lambda record: die())

    run = LocalRun(job.spec)
    run.load(numbers(3))
    work = run.generation.claim("work", "01", run.info, run.job)
    asked = iter([False])  # once before the first block; the child dies after that

    task = ShardTask(run.job, run.job.steps[0], work, run.clock, cancelled=lambda: next(asked, True))
    with pytest.raises(StopRequestedError):
        process_shard(task)
    assert run.complete().failed_records == 0


def test_a_child_that_dies_before_it_has_a_runner_ends_the_task():
    with isolating() as job:
        job.aggregator("work", size=2, transaction="warehouse")(lambda records: None)

    run = LocalRun(job.spec, access=LocalAccess({"warehouse": die}))
    with pytest.raises(ProcessDiedError, match="'work' with no record yet, was ended by signal SIGKILL") as caught:
        run.run(numbers(3))
    assert caught.value.retryable


def test_a_child_that_dies_although_nothing_is_called_ends_the_task():
    faults = Faults(Fault("get:before */input/*", lambda _: os.getpid() == PARENT or die(), times=None))
    with isolating() as job:
        job.step(name="work")(lambda record: None)

    run = LocalRun(job.spec, store=FaultyBlobs(MemoryBlobs(), faults))
    run.load(numbers(3))
    with pytest.raises(ProcessDiedError, match="with record 0 alone, twice, was ended by signal SIGKILL"):
        run.process_all()


def test_what_ends_a_task_ends_it_out_of_a_child_too():
    with isolating() as job:

        @job.step
        def work(record):
            raise StorageError("write to", "the warehouse", "it is closed")

    run = LocalRun(job.spec)
    with pytest.raises(StorageError, match="it is closed") as caught:
        run.run(numbers(3))
    assert "In the child process" in caught.value.__notes__[0]

    with isolating() as job:

        @job.step
        def work(record):
            raise Killed

    with pytest.raises(Killed):
        LocalRun(job.spec).run(numbers(3))

    with isolating() as job:
        job.sql_step("work", assign={"x": "nobody + 1"})
    with pytest.raises(InvalidExpressionError):
        LocalRun(job.spec).run(numbers(3))


def test_an_error_that_cannot_cross_the_border_is_told_as_text():
    class LocalError(Exception):
        pass

    said = outcome_of(LocalError("here"))
    assert isinstance(said, Raised)
    assert str(said.error) == "LocalError: here"
    error = StorageError("write to", "the warehouse", "it is closed")
    assert str(outcome_of(error).error) == str(error)


def test_lack_of_memory_is_seen_behind_other_errors():
    error = RuntimeError("no thread")
    error.__cause__ = MemoryError("3 GB")
    assert outcome_of(error) == OutOfMemory("RuntimeError: no thread")
    assert not is_out_of_memory(ValueError())

    class ExpressionLimitError(Exception):
        pass

    assert is_out_of_memory(ExpressionLimitError("more than 1GB of memory for 3 records"))
    assert not is_out_of_memory(ExpressionLimitError("longer than 60 s for 3 records"))


# --- children -----------------------------------------------------------------------------------------------------


def test_a_child_that_leaves_by_itself_has_died():
    child = Child(lambda pipe: os._exit(3), CallIndex())
    with pytest.raises(ChildDiedError) as caught:
        child.answer()
    assert caught.value.how == "exit code 3"


def test_a_death_by_a_signal_without_a_name_is_told_by_number():
    number = signal.SIGRTMIN + 3
    child = Child(lambda pipe: os.kill(os.getpid(), number), CallIndex())
    with pytest.raises(ChildDiedError) as caught:
        child.answer()
    assert caught.value.how == f"signal {int(number)}"


def test_a_child_of_the_child_that_holds_the_pipe_hides_no_death():
    reading, writing = os.pipe()

    def serve(pipe):
        if os.fork() == 0:
            os.close(writing)
            os.read(reading, 1)  # until the test lets it go
            os._exit(0)
        die()

    child = Child(serve, CallIndex())
    with pytest.raises(ChildDiedError) as caught:
        child.answer()
    assert caught.value.how == "signal SIGKILL"
    os.close(writing)
    os.close(reading)


def test_whoever_does_not_leave_is_killed():
    child = Child(lambda pipe: signal.pause(), CallIndex())
    child.end(patience=0.0)
    assert child._status == signal.SIGKILL


def test_a_child_whose_parent_is_dead_dies_too():
    reading, writing = os.pipe()

    def serve(pipe):  # in a child that is a parent itself
        Child(lambda _: (os.write(writing, b"%d\n" % os.getpid()), signal.pause()), CallIndex())
        signal.pause()

    parent = Child(serve, CallIndex())
    grandchild = int(os.read(reading, 20))
    descriptor = os.pidfd_open(grandchild)
    parent.end(patience=0.0)
    assert signal_of_end(descriptor)
    for each in (reading, writing, descriptor):
        os.close(each)


def signal_of_end(descriptor):
    return select.select([descriptor], [], [], 20)[0]


def test_a_fault_kills_whatever_handler_airflow_has_left():
    def serve(pipe):
        signal.signal(signal.SIGSEGV, lambda *_: None)
        let_faults_kill()
        faulthandler.disable()
        ctypes.string_at(0)

    child = Child(serve, CallIndex())
    with pytest.raises(ChildDiedError) as caught:
        child.answer()
    assert caught.value.how == "signal SIGSEGV"


def test_handlers_are_left_alone_in_other_threads():
    before = signal.signal(signal.SIGFPE, lambda *_: None)
    try:
        mine = signal.getsignal(signal.SIGFPE)
        thread = threading.Thread(target=let_faults_kill)
        thread.start()
        thread.join()
        assert signal.getsignal(signal.SIGFPE) is mine
        let_faults_kill()
        assert signal.getsignal(signal.SIGFPE) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGFPE, before)


class Echo:
    """The world outside."""

    def enter(self, ask):
        self.ask = ask

    def answer(self, question):
        return question.upper()


def test_a_child_asks_the_world_outside_through_its_parent():
    outside = Echo()
    child = Child(lambda pipe: pipe.send(outside.ask(b"who is there")), CallIndex(), outside)
    assert child.answer() == b"WHO IS THERE"
    child.end()


def test_questions_of_several_threads_do_not_mix():
    mine, theirs = Pipe()
    ask, found = asking(theirs), []
    threads = [threading.Thread(target=lambda: found.append(ask(b"x"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert mine.recv() == Question(b"x")
        mine.send(b"y")
    for thread in threads:
        thread.join()
    assert found == [b"y"] * 3


def test_a_child_that_is_at_work_is_killed_when_its_parent_lets_go():
    class Interrupted(Echo):
        def answer(self, question):
            raise KeyboardInterrupt

    child = Child(lambda pipe: (outside.ask(b"?"), signal.pause()), CallIndex(), outside := Interrupted())
    with pytest.raises(KeyboardInterrupt):
        child.ask("work")
    child.close()
    assert child._status == signal.SIGKILL


# --- what a child does, without a child ---------------------------------------------------------------------------


def served(run, step, *requests):
    """What a child would answer to these requests."""
    work = run.generation.claim(step.name, "01", run.info, run.job)
    mine, theirs = Pipe()
    index = CallIndex()
    make = lambda: make_runner(run.job, step, {}, work, None)  # noqa: E731
    thread = threading.Thread(target=serve_runner, args=(theirs, index, work.upstream, make))
    thread.start()
    assert mine.recv() == READY
    found = []
    for request in requests:
        mine.send(request)
        found.append((mine.recv(), from_ipc(mine.recv_bytes())))
    mine.close()
    thread.join()
    return found


def test_a_child_notes_the_step_whose_groups_it_looks_for():
    with BatchJob("job") as job:
        job.aggregator("work", size=2)(lambda records: None)
    run = LocalRun(job.spec)
    run.load(numbers(6))
    ((cut, _),) = served(run, run.job.steps[0], CutRequest(Span(0, 5), 3, {}))
    assert cut.span == Span(0, 1)


def test_a_stream_is_asked_and_called_in_this_order():
    piece = SimpleNamespace(taken=None, errors={})

    def accept(piece):
        piece.taken = "taken"

    mine, theirs = Pipe()
    serve_stream(theirs, StreamWork("s", [piece], accept, accept, lambda: "called"))
    assert (mine.recv(), mine.recv()) == ([("taken", {})], "called")


@pytest.mark.parametrize("kind", ["record", "async", "sql", "arrow", "group", "writer", "accepting", "fused"])
def test_a_child_notes_and_spares_in_every_kind_of_step(kind):
    with BatchJob("job", fuse_steps=kind == "fused") as job:
        if kind in ("record", "fused"):
            job.step(name="work")(lambda record, record_id: {"id": record_id})
        if kind == "async":

            async def work(record): ...

            job.step(name="work")(work)
        if kind == "sql":
            job.sql_step("work", assign={"twice": "n * 2"})
        if kind == "arrow":
            job.arrow_step(name="work")(lambda block: None)
        if kind == "accepting":
            job.step(name="work", accept_expression=lambda record: True)(lambda record: None)
        if kind in ("group", "writer"):
            job.aggregator("work", size=2)(lambda records: None)
        if kind == "fused":
            job.aggregator("group", size=2)(lambda records: None)
    run = LocalRun(job.spec)
    run.load(numbers(6))
    error = RecordError("ProcessDiedError", "it died")
    blames = {"work": {1: Blame(error), 3: Blame(error, is_asked=False)}}
    (step,) = checkpoint_steps(run.job)

    (cut, _), (again, _) = served(
        run, step, CutRequest(Span(0, 5), 6, blames), RunRequest(Span(0, 5), np.array([1, 2]), {})
    )

    assert cut.span == Span(0, 5)
    assert cut.result.errors == {1: error, 3: error}
    assert again.result.outcome.tolist() == [0, 1, 1, 0, 0, 0]
    assert set(cut.work) == ({"work", "group"} if kind == "fused" else set())


def test_a_transaction_that_dies_in_a_child_is_not_committed(tmp_path):
    with isolating() as job:

        @job.step(transaction="warehouse")
        def work(record, *, connection):
            connection.execute("INSERT INTO seen VALUES (?)", [record["n"]])
            if record["n"] == 2:
                die()

    connect = lambda: sqlite3.connect(tmp_path / "db", timeout=60)  # noqa: E731
    with connect() as connection:
        connection.execute("CREATE TABLE seen (n)")
    connection.close()
    run = LocalRun(job.spec, access=LocalAccess({"warehouse": connect}))
    run.run(numbers(5))
    assert died(run) == [(2, "work")]
    connection = connect()
    assert connection.execute("SELECT n FROM seen ORDER BY n").fetchall() == [(0,), (1,), (3,), (4,)]
    connection.close()


def test_a_child_that_takes_its_time_is_waited_for():
    def serve(pipe):
        threading.Event().wait(0.5)  # longer than the parent waits before it looks whether the child is there
        pipe.send("done")
        pipe.recv()

    child = Child(serve, CallIndex())
    assert child.answer() == "done"
    child.close()

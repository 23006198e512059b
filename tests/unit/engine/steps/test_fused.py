"""Fused steps give what they give one by one; only where a redrive begins differs."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_provider import BatchJob, InvalidOptionError, JobState
from batch_provider.domain.errors import StepsChangedError
from batch_provider.domain.fused import checkpoint_steps
from batch_provider.domain.layout import Span
from batch_provider.engine.columns.block import Block, BlockResult
from batch_provider.engine.columns.kept import kept_values
from batch_provider.engine.steps.overlay import Overlay
from batch_provider.storage.blobs.local import LocalBlobs
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.storage.views.instance_view import InstanceView
from batch_provider.testing import LocalRun
from tests.builders import Killed, Step, job_of, numbers


def job(*, fuse=True, check=None, bulk=None, late=None, **options):
    """check → price (SQL) → bulk (groups of 3) → late → quarantine."""
    options.setdefault("block_size", 4)
    with BatchJob("job", max_failed_records=-1, fuse_steps=fuse, **options) as made:
        made.step(name="check")(check or Step(fails={2}))
        made.sql_step("price", checks={"no sevens": "n <> 7"}, assign={"price": "n * 10", "n": "CAST(n AS DOUBLE)"})
        made.aggregator("bulk", size=3, on_error="isolate")(
            bulk or (lambda records: [{"of": len(records)}] * len(records))
        )
        made.step(name="late", accept_expression="price > 30")(late or Step(fails={5}))

        @made.step(accept_policy="ONLY_FAILURES")
        def quarantine(record, *, failures):
            return {"why": failures[0]["step"]}

    return made.spec


def finished(count=12, store=None, shards=1, **options):
    run = LocalRun(job(**options), store=store, shards=shards)
    result = run.run(numbers(count))
    return run, result


def told(result):
    steps = [(s.name, s.received, s.successful, s.failed, s.skipped, s.not_run, s.processed) for s in result.steps]
    errors = [(row.step, row.exception, row.count, row.sample) for row in result.errors]
    return result.state, result.successful_records, result.failed_records, result.skipped_records, steps, errors


@pytest.mark.parametrize("block_size", [1, 4, 5, 100, "auto"])
@pytest.mark.parametrize("shards", [1, 3])
def test_the_result_is_that_of_the_steps_one_by_one(block_size, shards):
    fused, result = finished(30, block_size=block_size, shards=shards)
    single, expected = finished(30, block_size=block_size, shards=shards, fuse=False)

    assert told(result) == told(expected)
    assert fused.output() == single.output()
    for question in (
        "SELECT record_id, step, error_type, message FROM failures ORDER BY ALL",
        "SELECT step, record_id, outcome FROM outcomes ORDER BY ALL",
        "SELECT * FROM steps ORDER BY position",
        "SELECT * FROM errors ORDER BY ALL",
    ):
        assert fused.query(question) == single.query(question)


def test_every_function_is_called_once_for_a_record():
    check, late = Step(fails={2}), Step(fails={5})
    groups = []
    finished(30, check=check, late=late, bulk=lambda records: groups.append([r["n"] for r in records]))

    assert check.seen == list(range(30))
    assert sorted(late.seen) == [n for n in range(30) if n not in (2, 7) and n > 3]
    assert [len(group) for group in groups] == [3] * 9 + [1]
    assert sorted(n for group in groups for n in group) == [n for n in range(30) if n not in (2, 7)]


def test_there_is_a_checkpoint_for_each_run_of_steps():
    run, _ = finished()

    assert [step["name"] for step in run.generation.manifest.steps] == ["check_to_bulk", "late", "quarantine"]
    assert run.generation.manifest.step_names == ("check", "price", "bulk", "late", "quarantine")


@pytest.mark.parametrize("dies_at", [0, 3, 4, 8, 11])
def test_a_killed_attempt_is_resumed(dies_at):
    check = Step(fails={2}, dies_at=dies_at)
    run = LocalRun(job(check=check))
    run.load(numbers(12))
    with suppress(Killed):
        run.process_all()
    seen = check.forget()
    run.process_all()

    assert told(run.complete())[:4] == told(finished()[1])[:4]
    assert run.output() == finished()[0].output()
    assert len(seen) + len(check.seen) <= 12 + 2 * 4, "no more than the blocks in flight are done again"


def test_a_redrive_starts_at_the_first_of_the_fused_steps_and_keeps_what_succeeded():
    check, late = Step(fails={2}), Step(fails={5})
    groups = []
    run, _ = finished(check=check, late=late, bulk=lambda records: groups.append([r["n"] for r in records]))
    check.forget(), late.forget(), groups.clear()
    check.fails, late.fails = set(), set()
    run.next_round()
    run.process_all()
    result = run.complete()

    assert (result.successful_records, result.failed_records) == (11, 1), "the seventh is refused by SQL still"
    assert check.seen == [2, 7]
    assert groups == [[2]]
    assert late.seen == [5], "the second is worth 20 only"
    assert [row["price"] for row in run.output()] == [n * 10 if n != 7 else None for n in range(12)]


def test_dead_letters_have_the_payload_on_entering_the_step_that_failed(tmp_path):
    run, result = finished(store=LocalBlobs(tmp_path), bulk=lambda records: 1 / 0)

    letters = pa.concat_tables(
        [pq.read_table(tmp_path / run.generation.base / name) for name in result.dead_letters],
        promote_options="default",
    ).to_pylist()
    by_id = {row["_id"]: row for row in letters}
    assert (by_id[2]["_step"], by_id[2]["price"]) == ("check", None)
    assert (by_id[7]["_step"], by_id[7]["price"], by_id[7]["_error_message"]) == ("price", None, "no sevens")
    assert (by_id[4]["_step"], by_id[4]["price"], by_id[4]["_error_type"]) == ("bulk", 40, "ZeroDivisionError")
    assert len(by_id) == 12


def test_the_errors_of_one_step_and_of_one_record_are_told_by_its_own_name():
    run, _ = finished()
    view = InstanceView(run.store)

    assert [failure.record_id for failure in view.errors("price")] == [7]
    assert view.first_error(2).step == "check"
    with view.connect() as views:
        assert views.execute("SELECT count(*) FROM check_to_bulk WHERE failed").fetchone() == (2,)


def test_variables_dropped_columns_and_new_types_go_from_step_to_step():
    def made(fuse):
        with BatchJob("job", block_size=3, fuse_steps=fuse, max_failed_records=-1, variables={"sum": 0}) as declared:

            @declared.step(drop=["old"])
            def first(record, *, variables):
                variables["sum"] += record["n"]
                return {"n": str(record["n"]), "tmp": 1} if record["n"] != 4 else None

            @declared.step(drop=["tmp"], accept_expression="variables['sum'] <> 2")
            def second(record, *, variables, record_id):
                if record_id == 5:
                    raise ValueError("five")
                return {"n": int(record["n"]) + variables["sum"], "old": record_id}

            @declared.step(output="replace")
            def third(record):
                return {"only": record["n"]}

        run = LocalRun(declared.spec)
        result = run.run([{"n": n, "old": -n} for n in range(9)])
        return told(result), run.output()

    assert made(True) == made(False)


def test_a_column_that_only_some_groups_drop_keeps_its_values_for_the_others():
    def made(fuse):
        with BatchJob("job", block_size=2, fuse_steps=fuse, max_failed_records=-1) as declared:

            @declared.step(drop=["old"], accept_expression="n < 4")
            def cut(record):
                return {"big": record["n"] if record["n"] != 1 else 2**60 + 1}

            @declared.step(accept_expression="n >= 4")
            def other(record):
                return {"big": 0.5, "old": str(record["old"])}

            declared.aggregator("bulk", size=5)(lambda records: None)
        run = LocalRun(declared.spec)
        return told(run.run([{"n": n, "old": n * 2} for n in range(8)])), run.output()

    assert made(True) == made(False)


def test_an_inner_step_has_no_output_of_its_own():
    run, _ = finished()

    assert run.output("bulk")[0]["of"] == 3
    with pytest.raises(InvalidOptionError, match="bulk, late, quarantine"):
        run.output("price")


def test_steps_fused_after_the_load_are_refused_with_what_to_do():
    store = MemoryBlobs()
    run = LocalRun(job(fuse=False), store=store)
    run.load(numbers(4))
    run.job = job()

    with pytest.raises(StepsChangedError, match=r"[Cc]lear the load task"):
        run.process(checkpoint_steps(run.job)[0], "01")


def test_a_limit_stops_fused_steps_at_a_block_and_a_redrive_goes_on():
    check = Step(fails={0, 1})
    with BatchJob("job", max_failed_records=1, fuse_steps=True, block_size=4) as made:
        made.step(name="a")(check)
        made.step(name="b")(lambda record: None)
    run = LocalRun(made.spec)
    result = run.run(numbers(12))
    assert (result.state, result.not_run_records) == (JobState.FAILED_PROCESS_RECORDS, 8)
    assert [(step.name, step.not_run) for step in result.steps] == [("a", 8), ("b", 8)]

    check.fails = set()
    run.next_round()
    run.process_all()
    assert run.complete().state is JobState.SUCCESSFUL


def both(declare, records, **options):
    """What a job gives with its steps fused, and one by one."""
    found = []
    for fuse in (True, False):
        with BatchJob("job", max_failed_records=-1, fuse_steps=fuse, **options) as made:
            declare(made)
        run = LocalRun(made.spec)
        result = run.run(records)
        found.append((told(result), run.output()))
    return found


def test_a_text_that_a_vector_step_could_not_convert_stays_with_its_record():
    def declare(made):
        made.step(Step(), name="first")
        made.sql_step("number", checks={"no number": "qty <> 'many'"}, assign={"qty": "qty::INTEGER"})
        made.step(Step(), name="last", accept_policy="NO_FAILURES")

    fused, single = both(declare, [{"qty": "1"}, {"qty": "many"}, {"qty": "3"}], block_size=10)
    assert fused == single
    assert [row["qty"] for row in fused[1]] == [1, "many", 3]


def test_a_step_that_asks_for_failures_is_told_of_none():
    asked = []

    def declare(made):
        made.step(Step(fails={1}), name="first")

        @made.step
        def second(record, *, failures):
            asked.append(failures)

    fused, single = both(declare, numbers(3), block_size=10)
    assert fused == single
    assert asked == [[]] * 4


@pytest.mark.parametrize("block_size", [2, 3, 4])
def test_a_column_that_only_some_blocks_have_changed_is_as_it_came_elsewhere(block_size):
    def declare(made):
        made.step(lambda record: {"x": -1}, name="first", accept_expression="n < 3")
        made.aggregator("bulk", size=3, accept_expression="n >= 3")(lambda records: None)

    fused, single = both(declare, [{"n": n, "x": n * 10} for n in range(10)], block_size=block_size)
    assert fused == single
    assert [row["x"] for row in fused[1]] == [-1] * 3 + [30, 40, 50, 60, 70, 80, 90]


@pytest.mark.parametrize("block_size", [2, 3, 4])
def test_a_column_that_only_some_blocks_have_lost_is_null_there(block_size):
    def declare(made):
        made.step(Step(), name="first", drop=["x"], accept_expression="n < 3")
        made.aggregator("bulk", size=3, accept_expression="n >= 3")(
            lambda records: [{"of": len(records)}] * len(records)
        )

    fused, single = both(declare, [{"n": n, "x": n * 10} for n in range(10)], block_size=block_size)
    assert fused == single
    assert [row.get("x") for row in fused[1]] == [None] * 3 + [30, 40, 50, 60, 70, 80, 90]


def test_values_that_a_step_moved_aside_and_did_not_write_are_not_lost():
    run = LocalRun(job_of(Step()))
    run.load(numbers(2))
    span = Span(0, 1)
    overlay = Overlay.of(run.generation.reader("01", None), span, "s1_to_s2")
    block = Block(overlay, span, ())
    block.keep_aside("n", pa.array([0, 1]), np.array([1]))

    overlay.apply(block, BlockResult(np.zeros(2, np.uint8)))

    assert kept_values(overlay.read(span, ["_kept"])["_kept"]) == {0: {"n": 0}}

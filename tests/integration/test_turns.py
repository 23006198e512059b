"""``scheduling="ordered_sequential"`` and ``max_concurrency`` under `dag.test()`, whose tasks can defer."""

from __future__ import annotations

import threading
import time

import pytest
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from sqlalchemy import delete, update

from batch_provider.domain.outcome import JobState

pytestmark = pytest.mark.integration


def at_work(run):
    """As if it were in the middle: its DAG run is running, and on-complete has not ended."""
    set_state(run, "running")
    with create_session() as session:
        session.execute(
            update(TaskInstance)
            .where(TaskInstance.run_id == run.run_id, TaskInstance.task_id == "orders.on_complete")
            .values(state=None)
        )


def set_state(run, state):
    with create_session() as session:
        session.execute(update(DagRun).where(DagRun.run_id == run.run_id).values(state=state))


def soon(action, *args):
    """Do it in three seconds, as somebody else would."""
    timer = threading.Timer(3, action, args)
    timer.start()
    return timer


@pytest.fixture
def go(run, orders):
    """Runs a DAG with one order; `dag.test()` itself would delete the run before."""
    return lambda dag_id="in_turn": run.without_waiting(dag_id, orders(1))


@pytest.mark.parametrize("ends", ["success", "failed", "deleted"])
def test_an_instance_waits_for_the_one_that_was_loaded_before_it(go, ends):
    first = go()
    at_work(first)

    def end():
        if ends != "deleted":
            set_state(first, ends)
            return
        with create_session() as session:
            session.execute(delete(TaskInstance).where(TaskInstance.run_id == first.run_id))
            session.execute(delete(DagRun).where(DagRun.run_id == first.run_id))

    began, timer = time.monotonic(), soon(end)
    second = go()
    timer.join()

    assert time.monotonic() - began > 3
    assert f"Loaded; waits for {first.run_id}" in second.log
    assert (second.state, second.result.successful_records) == ("success", 1)
    assert second.tries["orders.load"] == 1


def test_it_goes_on_when_the_other_has_closed_its_instance_though_its_run_goes_on(go):
    first = go()
    set_state(first, "running")  # with tasks after the job, say
    second = go()
    assert (first.state, second.state) == ("running", "success")
    assert "waits for" not in second.log


@pytest.mark.parametrize("state", ["failed", "success", "queued"])
def test_a_run_that_is_not_running_holds_nobody_up(go, state):
    first = go()
    at_work(first)
    set_state(first, state)
    second = go()
    assert (first.state, second.state) == (state, "success")
    assert "waits for" not in second.log


def test_round_robin_does_not_wait(go):
    first = go("side_by_side")
    at_work(first)
    second = go("side_by_side")
    assert (first.state, second.state) == ("running", "success")
    assert "waits for" not in second.log
    assert len(list((second.folder.parent / ".tickets").iterdir())) == 2, "for readers who ask which is the latest"


def test_another_dag_has_its_own_line(go):
    at_work(go())
    assert "waits for" not in go("bounded").log


def test_a_redrive_does_not_wait(run, go):
    first, second = go(), go()
    at_work(second)
    again = run.clear(first, ["orders.process.double"])
    assert (again.result.state, second.state) == (JobState.SUCCESSFUL, "running")
    assert "waits for" not in again.log


def test_a_cleared_load_goes_to_the_end_of_the_line(run, go):
    first, second = go(), go()
    at_work(second)
    timer = soon(set_state, second, "failed")
    again = run.clear(first, ["orders.load"])
    timer.join()
    assert f"Loaded; waits for {second.run_id}" in again.log
    assert again.result.generation.startswith("g2-")


def test_max_concurrency_bounds_the_shards(run, orders):
    """A shard has one running task at a time, so there are never more than so many."""
    done = run.without_waiting("bounded", orders(*range(9)))
    assert len(done.generation.manifest.shards) == 2
    assert done.result.successful_records == 9

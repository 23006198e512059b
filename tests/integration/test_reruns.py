"""What people clear in the Airflow UI, and what must come of it: calls, counts, rows in the warehouse."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest

from batch_provider.domain.instance import JobInstance
from batch_provider.domain.names import default_instance_id
from batch_provider.domain.outcome import JobState
from batch_provider.storage.instances.store import InstanceStore
from batch_provider.storage.views.instance_view import InstanceView

pytestmark = pytest.mark.integration

TWELVE = range(100, 112)  # amounts; the ids are 0 to 11, three in each of four shards


@pytest.fixture
def refuse(tmp_path):
    """Say which ids a step refuses from now on."""

    def refuse(**steps):
        (tmp_path / "out" / "refused.json").write_text(json.dumps(steps))

    return refuse


@pytest.fixture
def warehouse(tmp_path, monkeypatch):
    """Rows of the table that the job writes to."""
    path = tmp_path / "warehouse.db"
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": "sqlite", "host": str(path)}))
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, amount INTEGER, price INTEGER, label TEXT)")
        yield lambda: database.execute("SELECT id, price FROM orders ORDER BY id").fetchall()


@pytest.fixture
def calls(tmp_path):
    """What a function of the job noted since the last time."""
    read = {}

    def calls(name):
        file = tmp_path / "out" / name
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        start, read[name] = read.get(name, 0), len(lines)
        return lines[start:]

    return calls


def priced(ids, first=100):
    return [(number, (first + number) * 10) for number in ids]


def counts(done):
    result = done.result
    return (result.total_records, result.successful_records, result.failed_records, result.not_run_records)


def per_step(done):
    return {step.name: (step.successful, step.failed, step.skipped) for step in done.result.steps}


@pytest.mark.usefixtures("warehouse")
def test_the_middle_step_cleared_after_a_fix_heals_what_failed_in_it(run, orders, refuse, calls, warehouse):
    refuse(check=[1], price=[4, 5])
    done = run("rerun", orders(*TWELVE))
    assert (done.state, counts(done)) == ("success", (12, 9, 3, 0))
    assert warehouse() == priced([0, 2, 3, *range(6, 12)])
    for name in ("check", "price", "label"):
        calls(name)

    refuse(check=[1])
    done = run.clear(done, ["orders.process.price"])

    assert (done.state, counts(done)) == ("success", (12, 11, 1, 0))
    assert (calls("check"), sorted(calls("price")), sorted(calls("label"))) == ([], [4, 5], [4, 5])
    assert per_step(done) == {name: (11, int(name == "check"), int(name != "check")) for name in per_step(done)}
    assert warehouse() == priced([0, *range(2, 12)])
    assert [(error.step, error.count) for error in done.result.errors] == [("check", 1)]


@pytest.mark.usefixtures("warehouse")
def test_a_second_clear_finds_nothing_to_do(run, orders, refuse, calls, warehouse):
    refuse(price=[4])
    done = run("rerun", orders(*TWELVE))
    refuse()
    done = run.clear(done, ["orders.process.check"])
    healed, rows = per_step(done), warehouse()
    for name in ("check", "price", "label"):
        calls(name)

    done = run.clear(done, ["orders.process.check"])

    assert [calls(name) for name in ("check", "price", "label")] == [[], [], []]
    assert (done.state, counts(done), per_step(done)) == ("success", (12, 12, 0, 0), healed)
    assert warehouse() == rows == priced(range(12))


@pytest.mark.usefixtures("warehouse")
def test_a_job_over_its_limit_ends_successful_after_the_fix(run, orders, refuse, warehouse):
    refuse(price=[0, 1, 2, 3, 4, 5])
    done = run.without_waiting("rerun", orders(*TWELVE))
    assert done.state == "failed"
    assert done.result.state is JobState.FAILED_PROCESS_RECORDS

    refuse()
    done = run.clear(done, ["orders.process.check"])

    assert (done.state, counts(done)) == ("success", (12, 12, 0, 0))
    assert warehouse() == priced(range(12))
    assert done.result.errors == ()


@pytest.mark.usefixtures("warehouse")
def test_one_shard_cleared_leaves_the_others_alone(run, orders, refuse, calls, warehouse):
    refuse(price=[1, 4])
    done = run("rerun", orders(*TWELVE))
    calls("price")
    refuse()

    done = run.clear(done, [("orders.process.price", 1)])

    assert calls("price") == [4]
    assert (done.state, counts(done)) == ("success", (12, 11, 1, 0))
    assert warehouse() == priced([0, *range(2, 12)])
    assert {name: tries for name, tries in done.tries.items() if "price" in name} == {
        "orders.process.price[0]": 1,
        "orders.process.price[1]": 2,
        "orders.process.price[2]": 1,
        "orders.process.price[3]": 1,
    }


@pytest.mark.usefixtures("warehouse")
def test_a_load_cleared_with_a_smaller_input_has_fewer_shards(run, orders, warehouse):
    source = orders(*TWELVE)
    done = run("rerun", source)
    assert len(done.generation.manifest.shards) == 4
    orders(200, 201)  # the same file

    done = run.clear(done, ["orders.load"])

    assert (done.state, counts(done)) == ("success", (2, 2, 0, 0))
    assert [shard.id for shard in done.generation.manifest.shards] == ["01", "02"]
    steps = {name: state for name, state in done.tasks.items() if "price" in name}
    assert steps == {
        "orders.process.price[0]": "success",
        "orders.process.price[1]": "success",
        "orders.process.price[2]": "removed",
        "orders.process.price[3]": "removed",
    }
    assert warehouse()[:3] == [(0, 2000), (1, 2010), (2, 1020)], "an upsert replaces, it takes nothing away"


@pytest.mark.usefixtures("warehouse")
@pytest.mark.parametrize("amounts", [range(300, 320), range(300, 312), []], ids=["more", "others", "none"])
def test_a_load_cleared_with_another_input_counts_that_input_only(run, orders, refuse, warehouse, amounts):
    refuse(price=[2])
    done = run("rerun", orders(*TWELVE))
    refuse()
    orders(*amounts)

    done = run.clear(done, ["orders.load"])

    total = len(amounts)
    assert (done.state, counts(done)) == ("success", (total, total, 0, 0))
    assert done.generation.manifest.generation.startswith("g2-")
    assert warehouse()[:total] == [(number, amount * 10) for number, amount in enumerate(amounts)]


@pytest.mark.usefixtures("warehouse")
def test_more_shards_after_fewer(run, orders, warehouse):
    done = run("rerun", orders(100))
    assert len(done.generation.manifest.shards) == 1
    orders(*TWELVE)
    done = run.clear(done, ["orders.load"])
    assert (done.state, counts(done)) == ("success", (12, 12, 0, 0))
    assert done.tasks["orders.process.store[3]"] == "success"
    assert warehouse() == priced(range(12))


def test_aggregators_get_what_is_new_or_all_of_it(run, orders, refuse, calls):
    refuse(price=[1, 4, 5])
    done = run("rerun_bulk", orders(*range(100, 108)))
    assert (done.state, counts(done)) == ("success", (8, 5, 3, 0))
    assert sorted(calls("group")) == [[0, 2, 3], [6, 7]]
    assert [sorted(call) for call in calls("new")] == [[0, 2, 3, 6, 7]]
    assert [sorted(call) for call in calls("every")] == [[0, 2, 3, 6, 7]]

    refuse(price=[1])
    done = run.clear(done, ["orders.process.price"])

    assert (done.state, counts(done)) == ("success", (8, 7, 1, 0))
    assert calls("group") == [[4, 5]]
    assert calls("new") == [[4, 5]]
    assert [sorted(call) for call in calls("every")] == [[0, 2, 3, 4, 5, 6, 7]]
    assert per_step(done)["every"] == (7, 0, 1)

    done = run.clear(done, ["orders.new"])

    assert [calls(name) for name in ("group", "new", "every")] == [[], [], []]
    assert counts(done) == (8, 7, 1, 0)


def test_two_jobs_of_a_dag_are_cleared_apart(run, orders, refuse, calls):
    refuse(price=[1])
    done = run("two_jobs", orders(*range(100, 106)))
    assert done.state == "success"
    bills = JobInstance(default_instance_id("two_jobs", done.run_id, "bills"), "two_jobs", done.run_id, "bills")
    other = InstanceView(InstanceStore(done.store.blobs, done.store.clock, bills))
    assert (done.result.failed_records, other.result().failed_records) == (1, 1)
    calls("price")
    refuse()

    done = run.clear(done, ["bills.process.price"])

    assert calls("price") == [1]
    assert (done.result.failed_records, other.result().failed_records) == (1, 0)
    assert (done.result.stale if done.result else "", other.result().stale) == ("", "")


@pytest.mark.usefixtures("warehouse")
def test_a_step_cleared_without_downstream_leaves_a_result_that_says_so(run, orders, refuse, warehouse):
    refuse(price=[4])
    done = run("rerun", orders(*TWELVE))
    refuse()
    done = run.clear_alone(done, [("orders.process.price", 1)])

    result = InstanceView(done.store).result()
    assert "Clear step 'label' (shard 02) with Downstream" in result.stale
    assert warehouse() == priced([*range(4), *range(5, 12)])

    done = run.clear(done, [("orders.process.label", 1)])

    assert InstanceView(done.store).result().stale == ""
    assert (done.state, counts(done)) == ("success", (12, 12, 0, 0))
    assert warehouse() == priced(range(12))

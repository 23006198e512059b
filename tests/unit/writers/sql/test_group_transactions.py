"""Aggregators with transaction=: nothing of a call is committed unless all that it returned is accepted."""

from __future__ import annotations

import pytest

from batch_provider import BatchJob
from batch_provider.testing import LocalRun
from tests.builders import failures, outcomes

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)  # nothing here is PostgreSQL's own
both = pytest.mark.parametrize("on_error", ["fail_group", "isolate"])


@pytest.fixture
def table(database):
    database.run("CREATE TABLE t (n INTEGER)")
    return database


class Store:
    """An aggregator's function that writes its group and returns patches.

    Attributes:
        returns: makes them of the records.
    """

    def __init__(self, returns):
        self.returns, self.groups = returns, []

    def __call__(self, records, *, connection):
        self.groups.append([record["n"] for record in records])
        cursor = connection.cursor()
        for record in records:
            cursor.execute(f"INSERT INTO t VALUES ({record['n']})")
        return self.returns(records)


def finished(table, store, *, count=4, size=4, on_error="isolate", **options):
    with BatchJob("job", max_failed_records=-1, **options) as job:
        job.aggregator("store", size=size, transaction="warehouse", on_error=on_error)(store)
    run = LocalRun(job.spec, access=table.access)
    run.run([{"n": n} for n in range(count)])
    return run


def written(table):
    return [n for (n,) in table.rows()]


def succeeded(run):
    return [record for record, outcome in outcomes(run, "store").items() if outcome == "SUCCEEDED"]


@both
@pytest.mark.parametrize(
    "returned",
    [
        pytest.param([{"ok": 1}], id="one patch for all"),
        pytest.param([{}] * 5, id="one too many"),
        pytest.param({"ok": 1}, id="a dict"),
        pytest.param("abcd", id="a text"),
        pytest.param(7, id="a number"),
    ],
)
def test_a_group_whose_call_returns_no_list_of_patches_leaves_nothing_and_is_called_once(table, returned, on_error):
    store = Store(lambda records: returned)
    run = finished(table, store, on_error=on_error)

    assert written(table) == succeeded(run) == []
    assert store.groups == [[0, 1, 2, 3]]
    assert {kind for _, _, kind, _ in failures(run)} == {"InvalidPatchError"}
    assert "for 4 records; return one for each, or None" in failures(run)[0][3]


WRONG = {"no patch": 5, "a reserved key": {"_id": 1}, "what Arrow cannot hold": {"ok": object()}}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_isolated_only_the_record_with_a_wrong_patch_leaves_nothing(table, wrong):
    run = finished(table, Store(lambda records: [wrong if r["n"] == 2 else {"ok": r["n"]} for r in records]), size=3)

    assert written(table) == succeeded(run) == [0, 1, 3]
    assert [row.get("ok") for row in run.output()] == [0, 1, None, 3]
    assert [failure[0] for failure in failures(run)] == [2]


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_not_isolated_all_the_group_of_a_record_with_a_wrong_patch_leaves_nothing(table, wrong):
    returns = Store(lambda records: [wrong if r["n"] == 2 else {"ok": r["n"]} for r in records])
    run = finished(table, returns, size=3, on_error="fail_group")

    assert written(table) == succeeded(run) == [3]
    found = {record: message for record, _, _, message in failures(run)}
    assert found.keys() == {0, 1, 2}
    assert found[0] == found[1] == f"nothing of its group is committed, as record 2 fails: {found[2]}"
    assert len({kind for _, _, kind, _ in failures(run)}) == 1


@pytest.mark.parametrize("block_size", [1, 100])
def test_what_is_committed_is_not_failed_by_a_later_group(table, block_size):
    """A float takes the place of integers in a column; one of these is too large for that, and is committed."""
    values = [2**60 + 1, 2, 0.5, 4]
    run = finished(
        table, Store(lambda records: [{"v": values[r["n"]]} for r in records]), size=1, block_size=block_size
    )

    assert written(table) == succeeded(run)
    assert {0, 1, 3} <= set(written(table))
    assert [row["v"] for row in run.output() if row["n"] in written(table)] == [values[n] for n in written(table)]


@both
def test_a_later_group_that_cannot_stand_beside_what_is_committed_is_rolled_back(table, on_error):
    values = [2**60 + 1, 1, 2, 0.5, 4, 5]
    store = Store(lambda records: [{"v": values[r["n"]]} for r in records])
    run = finished(table, store, count=6, size=2, on_error=on_error)

    good = [0, 1, 4, 5] if on_error == "fail_group" else [0, 1, 2, 4, 5]
    assert written(table) == succeeded(run) == good
    assert "double cannot stand beside int64" in failures(run)[-1][3]


def test_values_of_a_group_that_was_rolled_back_decide_on_no_later_one(table):
    values = [0.5, object(), 2, 3]
    run = finished(
        table, Store(lambda records: [{"v": values[r["n"]]} for r in records]), size=2, on_error="fail_group"
    )

    assert written(table) == [2, 3]
    assert [(row["v"], type(row["v"])) for row in run.output()[2:]] == [(2, int), (3, int)]


def test_types_that_a_later_group_widens_are_widened_for_all(table):
    values = [1, 0.5, {"a": 1}, {"b": 2}, None, 7]
    run = finished(
        table,
        Store(lambda records: [{f"v{r['n'] // 2}": values[r["n"]]} for r in records]),
        count=6,
        size=1,
    )

    assert written(table) == succeeded(run) == [0, 1, 2, 3, 4, 5]
    output = run.output()
    assert [output[0]["v0"], output[1]["v0"], output[5]["v2"]] == [1.0, 0.5, 7]
    assert [output[2]["v1"], output[3]["v1"]] == [{"a": 1, "b": None}, {"a": None, "b": 2}]


def test_patches_and_none_are_taken(table):
    run = finished(table, Store(lambda records: [None if r["n"] == 1 else {"sum": len(records)} for r in records]))

    assert written(table) == [0, 1, 2, 3]
    assert run.output() == [{"n": n, "sum": None if n == 1 else 4} for n in range(4)]


def test_a_call_that_returns_nothing_is_committed(table):
    run = finished(table, Store(lambda records: None), size=3)

    assert written(table) == succeeded(run) == [0, 1, 2, 3]


@both
def test_a_group_whose_function_commits_by_itself_fails_and_is_not_called_again_in_halves(table, on_error):
    calls = []

    def store(records, *, connection):
        calls.append([record["n"] for record in records])
        connection.executemany("INSERT INTO t VALUES (?)", [[record["n"]] for record in records])
        connection.commit()

    run = finished(table, store, on_error=on_error)

    assert written(table) == [0, 1, 2, 3]
    assert calls == [[0, 1, 2, 3]]
    assert {kind for _, _, kind, _ in failures(run)} == {"TransactionEndedError"}

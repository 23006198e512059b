"""A record that kills its process is found, and fails alone."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing

import pytest

from tests.unit.engine.isolation.dying import RECORDS, calls


@pytest.mark.parametrize(("way", "how"), [("segfault", "signal SIGSEGV"), ("sigkill", "signal SIGKILL")])
def test_a_record_that_kills_its_process_fails_alone_with_the_signal(server, tmp_path, way, how):
    died, found = server.until_done(tmp_path, "record_step", way=way)

    assert died == 2
    assert found["counts"] == [RECORDS - 1, 1, 0]
    ((record, step, kind, message),) = found["failures"]
    assert (record, step, kind) == (17, "work", "ProcessDiedError")
    assert how in message


def failed(found):
    """Record → step and kind of its failure."""
    return {record: (step, kind) for record, step, kind, _ in found["failures"]}


def outcomes(found, step):
    return Counter(outcome for name, _, outcome in found["outcomes"] if name == step)


DIED = ("work", "ProcessDiedError")


def test_a_record_that_takes_too_much_memory_fails_alone(server, tmp_path):
    died, found = server.until_done(tmp_path, "record_step", way="memory", memory=2 << 30)

    assert died == 2
    assert failed(found) == {17: DIED}
    assert "lack of memory (MemoryError" in found["failures"][0][3]


def test_a_text_that_kills_the_parser_of_a_sql_step_fails_alone(server, tmp_path):
    died, found = server.until_done(tmp_path, "sql_step")

    assert (died, failed(found)) == (2, {23: DIED})
    assert found["counts"] == [RECORDS - 1, 1, 0]


def test_records_that_kill_an_arrow_step_fail_alone(server, tmp_path):
    died, found = server.until_done(tmp_path, "arrow_step", max_process_deaths=1, block_size=40)

    assert (died, failed(found)) == (1, {5: DIED, 30: DIED})
    assert [row.get("twice") for row in found["output"]] == [None if n in (5, 30) else 2 * n for n in range(RECORDS)]


def test_a_group_that_kills_its_process_fails_as_a_whole(server, tmp_path):
    died, found = server.until_done(tmp_path, "aggregator", max_process_deaths=0)

    assert (died, failed(found)) == (0, dict.fromkeys(range(16, 20), DIED))
    assert {row["size"] for row in found["output"] if row["n"] not in range(16, 20)} == {4}
    assert "the group of records 16 to 19" in found["failures"][0][3]


def test_a_group_that_isolates_loses_the_record_that_kills_alone(server, tmp_path):
    died, found = server.until_done(tmp_path, "aggregator", on_error="isolate", max_process_deaths=0)

    assert (died, failed(found)) == (0, {17: DIED})


def test_a_record_that_kills_one_of_several_fused_steps_fails_there(server, tmp_path):
    died, found = server.until_done(tmp_path, "fused", max_process_deaths=0)

    assert (died, failed(found)) == (0, {17: DIED})
    assert {step: outcomes(found, step) for step in ("first", "work", "after", "group")} == {
        "first": {"SUCCEEDED": RECORDS},
        "work": {"SUCCEEDED": RECORDS - 1, "FAILED": 1},
        "after": {"SUCCEEDED": RECORDS - 1, "SKIPPED": 1},
        "group": {"SUCCEEDED": RECORDS - 1, "SKIPPED": 1},
    }


def test_transactions_of_a_child_that_died_are_each_there_once(server, tmp_path):
    died, found = server.until_done(tmp_path, "transaction", max_process_deaths=0)

    assert (died, failed(found)) == (0, {17: DIED})
    with closing(sqlite3.connect(tmp_path / "warehouse.db")) as warehouse:
        assert sorted(warehouse.execute("SELECT n FROM seen")) == [(n,) for n in range(RECORDS) if n != 17]
    assert {n for n, times in calls(tmp_path).items() if times > 1} == {17}


def test_a_streaming_aggregator_that_kills_its_process_fails_with_the_name_of_its_step(server, tmp_path):
    died, found = server.until_done(tmp_path, "stream", max_process_deaths=1)

    assert (died, failed(found)) == (1, dict.fromkeys(range(30), DIED))
    assert outcomes(found, "work") == {"FAILED": 30, "SKIPPED": 10}
    assert outcomes(found, "after") == {"SKIPPED": 30, "SUCCEEDED": 10}
    message = found["failures"][0][3]
    assert "step 'work' with the call for all its records" in message
    assert "SIGSEGV" in message

from __future__ import annotations

import pytest

pytestmark = pytest.mark.integration


def test_a_child_process_asks_airflow_through_its_parent(run, orders, monkeypatch):
    from airflow.models import Variable

    from tests.dags.dying import KILLER, RECORDS

    monkeypatch.setenv("AIRFLOW_CONN_DYING_HOST", '{"conn_type": "http", "host": "example.test"}')
    Variable.set("dying_word", "hello")

    done = run("dying_from_the_start", orders(1), way="segfault")

    assert done.state == "success"
    result = done.result
    assert (result.total_records, result.failed_records, result.not_run_records) == (RECORDS, 1, 0)
    assert [(row.exception, row.step, row.count) for row in result.errors] == [("ProcessDiedError", "work", 1)]
    rows = done.generation.latest_reader("after", "01").read(done.generation.manifest.shard("01").span).to_pylist()
    assert [(row["n"], row["host"], row["word"]) for row in rows if row["host"]] == [
        (n, "example.test", "hello") for n in (0, 20)
    ]
    assert KILLER not in [row["n"] for row in rows]

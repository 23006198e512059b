"""The views show every record once, with the payload that the steps' own reader reads."""

from __future__ import annotations

import json
from contextlib import closing, suppress
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import duckdb
import pyarrow as pa
import pytest

from batch_provider.domain.errors import CorruptCheckpointError
from batch_provider.engine.columns.kept import kept_values
from batch_provider.storage.blobs.local import LocalBlobs
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.storage.views.instance_view import InstanceView
from batch_provider.testing import LocalRun
from tests.builders import Killed, Step, checkpoint_files, job_of, numbers

FIXED = {"_id", "_kept", "outcome", "failed", "error_type", "error_message"}


@pytest.fixture(params=["memory", "local"])
def blobs(request, tmp_path):
    return MemoryBlobs() if request.param == "memory" else LocalBlobs(tmp_path / "it's")


def run_of(*steps, blobs, records=None, shards=1, **options):
    options.setdefault("block_size", 3)
    run = LocalRun(job_of(*steps, **options), store=blobs, shards=shards)
    run.load(numbers(10) if records is None else records)
    return run


def ask(run, sql):
    with closing(InstanceView(run.store).connect()) as connection:
        return connection.execute(sql).fetchall()


def rows(run, step):
    with closing(InstanceView(run.store).connect()) as connection:
        found = connection.execute(f'SELECT * FROM "{step}" ORDER BY _id')
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def payloads(run, step):
    """The payloads as a step would get them: values that were kept aside are back in their columns."""
    found = rows(run, step)
    kept = kept_values(pa.array([row["_kept"] for row in found], pa.string()))
    return [
        {name: value for name, value in row.items() if name not in FIXED} | kept.get(number, {})
        for number, row in enumerate(found)
    ]


def text_if_odd(record):
    return {"n": str(record["n"])} if record["n"] % 2 else None


SHAPES = {
    "nothing changes": (Step(), Step()),
    "new columns": (lambda record: {"a": record["n"] * 2}, lambda record: {"b": record["a"] + 1}),
    "replaced column": (lambda record: {"n": record["n"] + 100}, lambda record: {"n": record["n"] + 100}),
    "dropped column": ((lambda record: {"a": 1}, {"drop": ["n"]}), Step()),
    "whole payload replaced": ((lambda record: {"x": record["n"]}, {"output": "replace"}), Step()),
    "some blocks change a column": (lambda record: {"n": -1} if record["n"] < 3 else None, Step()),
    "retyped for some": (text_if_odd, Step()),
    "retyped, then some fail": (lambda record: {"n": f"<{record['n']}>"}, Step(fails={1, 5})),
    "retyped where accepted": (
        (lambda record: {"n": str(record["n"])}, {"accept_expression": "n > 4"}),
        Step(fails={7}),
    ),
    "failures keep what came": (Step(fails={0, 4, 9}), lambda record: {"n": Decimal("1.5")}),
    "all skipped": ((Step(), {"accept_expression": "n > 100"}), Step()),
    "nested": (lambda record: {"m": {"a": [record["n"], None]}, "l": ["x"]}, Step()),
}


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_view_shows_the_payload_after_its_step(shape, shards, blobs):
    run = run_of(*SHAPES[shape], blobs=blobs, shards=shards)
    run.process_all()

    for step in run.job.steps:
        assert payloads(run, step.name) == run.output(step.name)
    assert payloads(run, "input")[0].items() >= {"n": 0}.items()


VALUES = {
    "datetime": [datetime.fromisoformat("2026-01-02T03:04:05.000678"), datetime.fromisoformat("1999-12-31")],
    "instant": [datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=timezone(timedelta(hours=2)))],
    "date": [date(2026, 1, 2), date(1, 1, 1)],
    "duration": [timedelta(days=3, microseconds=5), timedelta(seconds=-1)],
    "decimal": [Decimal("12345678901234567890.12"), Decimal("0.50")],
    "bytes": [b"\x00\xff", b""],
    "float": [1.5, float("inf")],
    "bool": [True, False],
    "struct": [{"a": 1, "b": "x"}, {"a": None, "b": "y"}],
}


@pytest.mark.parametrize("kind", sorted(VALUES.keys() - {"instant"}))
def test_a_view_shows_values_of_every_type(kind, blobs):
    values = VALUES[kind]
    run = run_of(lambda record: {"x": values[record["n"] % 2]}, blobs=blobs, records=numbers(4))
    run.process_all()

    assert [row["x"] for row in rows(run, "s1")] == values * 2 == [row["x"] for row in run.output()]


def test_a_view_shows_instants_in_utc(blobs):
    run = run_of(lambda record: {"x": VALUES["instant"][record["n"] % 2]}, blobs=blobs, records=numbers(2))
    run.process_all()

    with closing(InstanceView(run.store).connect()) as connection:
        found = connection.sql("SELECT x FROM s1 ORDER BY _id").to_arrow_table()["x"].to_pylist()
    assert found == VALUES["instant"] == [row["x"] for row in run.output()]


@pytest.mark.parametrize("kind", VALUES)
def test_values_that_other_files_have_in_another_type_are_kept_as_json(kind, blobs):
    values = VALUES[kind]

    def step(record):
        return {"x": values[record["n"] % 2] if record["n"] < 2 else "text"}

    run = run_of(step, blobs=blobs, records=numbers(6), shards=3, block_size=1)
    run.process_all()

    assert [row["x"] for row in rows(run, "s1")] == [None, None, *["text"] * 4]
    assert payloads(run, "s1") == run.output()


def test_whole_numbers_that_a_float_cannot_hold_are_kept(blobs):
    large = 2**53 + 1
    run = run_of(lambda record: {"x": [large, 7, 0.5, 1.5][record["n"]]}, blobs=blobs, records=numbers(4), shards=4)
    run.process_all()

    assert [(row["x"], row["_kept"]) for row in rows(run, "s1")] == [
        (None, f'{{"x": {large}}}'), (7.0, None), (0.5, None), (1.5, None),
    ]  # fmt: skip


def test_numbers_of_extreme_types_are_shown_as_near_as_duckdb_can(blobs):
    table = pa.table(
        {
            "half": pa.array([1.5], pa.float16()),
            "huge": pa.array([Decimal("1.5")], pa.decimal256(50, 2)),
            "time": pa.array([1], pa.time32("s")),
            "nothing": pa.nulls(1),
            "second": pa.array([1], pa.timestamp("s")),
            "pair": pa.array([[1, 2]], pa.list_(pa.int8(), 2)),
            "pairs": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.duration("s"))),
        }
    )
    run = run_of(Step(), blobs=blobs, records=table)
    run.process_all()

    [row] = ask(run, "SELECT half, huge, typeof(time), nothing, second, pair, pairs['a'] FROM s1")
    assert row == (1.5, 1.5, "TIME", None, datetime.fromisoformat("1970-01-01T00:00:01"), [1, 2], 1)


def test_outcomes_and_errors_of_each_step(blobs):
    run = run_of(
        Step(fails={1}),
        (Step(fails={2}), {"accept_expression": "n <> 3"}),
        blobs=blobs,
        records=numbers(4),
    )
    run.process_all()

    columns = "SELECT _id, outcome, failed, error_type, error_message"
    assert ask(run, f"{columns} FROM s1 WHERE failed") == [(1, "FAILED", True, "ValueError", "record 1 is bad")]
    assert ask(run, f"{columns} FROM s2 ORDER BY _id") == [
        (0, "SUCCEEDED", False, None, None),
        (1, "SKIPPED", True, None, None),
        (2, "FAILED", True, "ValueError", "record 2 is bad"),
        (3, "SKIPPED", False, None, None),
    ]


def test_malformed_records_stand_in_the_view_of_the_input(blobs):
    run = run_of(Step(), blobs=blobs, records=[{"n": 1}, 5, {"n": 3}])
    run.process_all()

    assert ask(run, "SELECT n, outcome, error_type, _line, _raw FROM input WHERE failed") == [
        (None, "FAILED", "MalformedRecord", 2, "5")
    ]
    assert ask(run, "SELECT outcome, count(*) FROM s1 GROUP BY 1 ORDER BY 1") == [("SKIPPED", 1), ("SUCCEEDED", 2)]


def test_records_that_a_running_step_has_not_come_to_are_not_run(blobs):
    run = run_of(Step(fails={1}, returns=lambda record: {"a": 1}), Step(dies_at=7), blobs=blobs)
    with suppress(Killed):
        run.process_all()

    found = rows(run, "s2")
    assert [row["outcome"] for row in found] == ["SUCCEEDED", "SKIPPED", *["SUCCEEDED"] * 4, *["NOT_RUN"] * 4]
    assert [row["failed"] for row in found] == [False, True, *[False] * 8]
    assert [(row["n"], row["a"]) for row in found[5:7]] == [(5, 1), (None, None)]
    assert ask(run, "SELECT count(*), count(n) FROM s1") == [(10, 10)]


def test_a_failure_before_a_step_that_has_not_run_is_known_there(blobs):
    run = run_of(Step(fails={4}), Step(), blobs=blobs)
    run.process(run.job.step("s1"), "01")

    assert ask(run, "SELECT _id, outcome FROM s2 WHERE failed") == [(4, "NOT_RUN")]


def test_rows_of_before_a_redrive_of_the_step_above_are_not_run(blobs):
    first = Step(fails={1, 8}, returns=lambda record: {"a": record["n"] * 10})
    run = run_of(first, lambda record: {"b": record["a"]}, blobs=blobs)
    run.process_all()
    first.fails.clear()
    run.next_round()
    run.process(run.job.step("s1"), "01")

    assert [row["a"] for row in rows(run, "s1")] == [n * 10 for n in range(10)]
    assert [row["_id"] for row in rows(run, "s2")] == list(range(10))
    stale = [row for row in rows(run, "s2") if row["outcome"] == "NOT_RUN"]
    assert [(row["_id"], row["n"], row["a"], row["failed"]) for row in stale] == [
        (1, None, None, False),
        (8, None, None, False),
    ]
    run.process(run.job.step("s2"), "01")
    assert payloads(run, "s2") == run.output("s2") == [{"n": n, "a": n * 10, "b": n * 10} for n in range(10)]


def test_a_connection_goes_on_showing_what_counted_when_it_was_made(blobs):
    step = Step(fails={1})
    run = run_of(step, blobs=blobs)
    run.process_all()
    with closing(InstanceView(run.store).connect()) as connection:
        step.fails.clear()
        run.next_round()
        run.process_all()

        assert connection.execute("SELECT _id FROM s1 WHERE failed").fetchall() == [(1,)]
    assert ask(run, "SELECT _id FROM s1 WHERE failed") == []


def test_names_that_duckdb_cannot_tell_apart_get_a_suffix(blobs):
    record = {"a": 1, "A": 2, "a_2": 3, "outcome": "theirs", "_ID": 4, 'say "x"': 5}
    run = run_of(Step(), blobs=blobs, records=[record] * 4)
    run.process_all()

    with closing(InstanceView(run.store).connect()) as connection:
        names = [row[0] for row in connection.execute("DESCRIBE s1").fetchall()]
        found = connection.execute('SELECT a, A_2, a_2_2, outcome_2, _ID_2, "say ""x""", outcome FROM s1').fetchall()
    assert names[:7] == ["_id", "a", "A_2", "a_2_2", "outcome_2", "_ID_2", 'say "x"']
    assert found == [(1, 2, 3, "theirs", 4, 5, "SUCCEEDED")] * 4


def test_an_instance_without_records_has_empty_views(blobs):
    run = run_of(Step(), blobs=blobs, records=[])
    run.process_all()

    assert ask(run, "SELECT * FROM s1") == ask(run, "SELECT * FROM input") == []


def test_views_can_be_joined_and_read_through_a_second_cursor(blobs):
    run = run_of(lambda record: {"n": record["n"] + 1}, blobs=blobs)
    run.process_all()

    with closing(InstanceView(run.store).connect()) as connection:
        sql = 'SELECT count(*) FROM input JOIN s1 USING (_id) WHERE s1.n = "input".n + 1'
        assert connection.cursor().execute(sql).fetchall() == [(10,)]
        assert [name for (name,) in connection.execute("SHOW TABLES").fetchall()] == ["input", "s1"]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('{other}')",
        "SELECT * FROM read_parquet('{root}/**/*.parquet')",
        "COPY (SELECT 1) TO '{root}/out.csv'",
        "ATTACH '{root}/out.duckdb' AS other",
        "SET enable_external_access = true",
        "SET allowed_directories = ['/']",
        "SELECT * FROM table_of_mine",
    ],
)
def test_the_connection_reads_and_writes_nothing_else(sql, tmp_path):
    other = tmp_path / "secret.txt"
    other.write_text("secret")
    run = run_of(Step(), blobs=LocalBlobs(tmp_path / "store"))
    run.process_all()
    table_of_mine = pa.table({"x": [1]})

    with closing(InstanceView(run.store).connect()) as connection:
        with pytest.raises(duckdb.Error):
            connection.execute(sql.format(other=other, root=tmp_path)).fetchall()
        connection.execute("SET threads = 1")
        assert connection.execute("SELECT count(*) FROM s1").fetchall() == [(10,)]
    assert table_of_mine.num_rows == 1
    assert {path.name for path in tmp_path.iterdir()} == {"secret.txt", "store"}


def test_a_damaged_file_is_found_before_anything_is_shown(tmp_path):
    run = run_of(Step(), blobs=LocalBlobs(tmp_path))
    run.process_all()
    [name, *_] = checkpoint_files(run.store.blobs, run, "s1")
    path = tmp_path / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    with pytest.raises(CorruptCheckpointError, match="its digest is"):
        InstanceView(run.store).connect()


def test_asking_an_instance_that_was_never_loaded_is_a_clear_error():
    run = LocalRun(job_of(Step()))

    with pytest.raises(LookupError, match="has no loaded input"):
        InstanceView(run.store).connect()


def test_kept_values_are_json_that_names_their_columns(blobs):
    run = run_of((lambda record: {"n": f"<{record['n']}>"}, {"accept_expression": "n <> 2"}), blobs=blobs)
    run.process_all()

    [(kept,)] = ask(run, "SELECT _kept FROM s1 WHERE _kept IS NOT NULL")
    assert json.loads(kept) == {"n": 2}


def test_values_kept_in_a_file_and_by_the_view_stand_side_by_side(blobs):
    run = run_of(
        (lambda record: {"n": f"<{record['n']}>"}, {"accept_expression": "n <> 2"}),
        (lambda record, record_id: {"x": 5 if record_id < 3 else "text"}),
        blobs=blobs,
        shards=3,
    )
    run.process_all()

    assert [json.loads(kept) for (kept,) in ask(run, "SELECT _kept FROM s2 WHERE _kept IS NOT NULL ORDER BY _id")] == [
        {"x": 5},
        {"x": 5},
        {"n": 2, "x": 5},
    ]
    assert payloads(run, "s2") == run.output()

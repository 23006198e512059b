"""SqlTable: each record's row exactly once, whatever crashes; a record that is refused fails alone."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pytest

from batch_provider import BatchJob, Files, InvalidOptionError, JobState, SqlTable
from batch_provider.domain.errors import FencedError, StorageError
from batch_provider.engine.ports.writing import Rows
from batch_provider.testing import LocalRun
from batch_provider.testing.contracts import Killed

shards = pytest.mark.parametrize("shards", [pytest.param(1, id="one shard"), pytest.param(3, id="three shards")])


def writing(target, *, size=10, **options):
    with BatchJob("job", **{"max_failed_records": -1, **options}) as job:
        job.write("store", target, size=size)
    return job.spec


def numbers(*found):
    return [{"n": n} for n in found]


def rows_of(*found):
    return Rows(range(len(found)), [0] * len(found), pa.table({"n": found}))


def refusing(database, *refused):
    database.run(f"CREATE TABLE t (n INTEGER PRIMARY KEY CHECK (n NOT IN ({', '.join(map(str, refused))})))")
    return SqlTable("warehouse", "t")


def six_lines(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("n,m\n1,a\n2,b\n3,c,d\n4,d\n5\n6,f\n")
    return Files(str(path))


@shards
def test_s11_malformed_lines_and_refused_rows_fail_alone(database, tmp_path, shards):
    database.run("CREATE TABLE t (n INTEGER PRIMARY KEY CHECK (n <> 4), m VARCHAR(9))")
    job = writing(SqlTable("warehouse", "t"), block_size=2, max_failed_records=3)

    result = LocalRun(job, access=database.access, shards=shards).run(six_lines(tmp_path))

    assert result.state is JobState.SUCCESSFUL
    assert (result.total_records, result.successful_records, result.failed_records) == (6, 3, 3)
    assert {(error.step, error.count) for error in result.errors} == {("input", 2), ("store", 1)}
    assert database.rows() == [(1, "a"), (2, "b"), (6, "f")]


def test_s12_one_failure_more_than_the_limit_fails_the_job(database, tmp_path):
    database.run("CREATE TABLE t (n INTEGER PRIMARY KEY CHECK (n <> 4), m VARCHAR(9))")
    job = writing(SqlTable("warehouse", "t"), block_size=2, max_failed_records=2)

    result = LocalRun(job, access=database.access).run(six_lines(tmp_path))

    assert result.state is JobState.FAILED_PROCESS_RECORDS


def test_s13_five_records_in_blocks_of_two_are_three_blocks_and_five_rows(database):
    job = writing(refusing(database, 0), size=2, block_size=2)
    run = LocalRun(job, access=database.access)

    run.run(numbers(1, 2, 3, 4, 5))

    assert len(run.generation.current_files("store", "01")) == 3
    assert database.rows() == [(1,), (2,), (3,), (4,), (5,)]


@pytest.mark.parametrize(
    ("given", "refused", "rows"),
    [
        pytest.param((1, 2, 3), (2, 3), [(1,)], id="S14"),
        pytest.param((1, 2, 3, 4, 5), (3,), [(1,), (2,), (4,), (5,)], id="S15"),
        pytest.param((1, 2, 3), (1, 2, 3), [], id="S16"),
    ],
)
def test_s14_to_s16_the_bad_records_of_a_group_stand_alone(database, given, refused, rows):
    run = LocalRun(writing(refusing(database, *refused)), access=database.access)

    result = run.run(numbers(*given))

    assert database.rows() == rows
    assert (result.successful_records, result.failed_records) == (len(rows), len(refused))
    assert {row[0] for row in run.query("SELECT message FROM failures")}, "the database's own message"


def inserting(**options):
    with BatchJob("job", **options) as job:

        @job.aggregator("store", size=options_size, transaction="warehouse", on_error="isolate")
        def store(records, *, connection):
            for record in records:
                connection.cursor().execute(f"INSERT INTO t VALUES ({record['n']})")
                if record["n"] in (2, 3):
                    raise ValueError("no")

    return job.spec


options_size = 2


def test_s17_what_an_aggregator_did_before_it_raised_is_rolled_back(database):
    database.run("CREATE TABLE t (n INTEGER)")

    result = LocalRun(inserting(max_failed_records=-1), access=database.access).run(numbers(1, 2, 3))

    assert database.rows() == [(1,)]
    assert (result.successful_records, result.failed_records) == (1, 2)


@pytest.mark.parametrize(
    ("limit", "state"),
    [
        pytest.param(1, JobState.FAILED_PROCESS_RECORDS, id="limit 1"),
        pytest.param(2, JobState.SUCCESSFUL, id="limit 2"),
    ],
)
def test_s20_the_limit_counts_what_stands_alone_and_the_good_rows_stay(database, limit, state):
    database.run("CREATE TABLE t (n INTEGER)")

    result = LocalRun(inserting(max_failed_records=limit), access=database.access).run(numbers(1, 2, 3, 4))

    assert result.state is state
    assert database.rows() == [(1,), (4,)]


@shards
def test_a_crash_between_commit_and_checkpoint_writes_nothing_twice(database, shards):
    """Without a key, a second insert of the same row would be there to be seen."""
    database.run("CREATE TABLE t (n INTEGER)")
    job = writing(SqlTable("warehouse", "t"), size=3, block_size=6)
    run = LocalRun(job, access=database.access, shards=shards)
    run.load(numbers(*range(30)))
    dying = DyingStore(run.store.blobs, after=2)
    run.store.blobs = dying
    with pytest.raises(Killed):
        run.process_all()
    dying.after = None
    run.process_all()
    result = run.complete()

    assert database.rows() == [(n,) for n in range(30)]
    assert result.successful_records == 30


class DyingStore:
    """A store in which the writer of a checkpoint dies before its file is there."""

    def __init__(self, blobs, after):
        self._blobs, self.after = blobs, after

    def put(self, name, data, **options):
        if "/steps/" in name and self.after is not None:
            self.after -= 1
            if self.after < 0:
                raise Killed
        self._blobs.put(name, data)

    def __getattr__(self, name):
        return getattr(self._blobs, name)


def test_a_redrive_writes_only_what_failed(database):
    database.run("CREATE TABLE t (n INTEGER)", "CREATE TABLE gate (n INTEGER)")
    broken = [True]
    with BatchJob("job", max_failed_records=-1) as job:

        @job.step
        def check(record):
            if broken and record["n"] == 2:
                raise ValueError("two")

        job.write("store", SqlTable("warehouse", "t"), size=2)

    run = LocalRun(job.spec, access=database.access)
    first = run.run(numbers(1, 2, 3))
    broken.clear()
    run.next_round()
    run.process_all()
    second = run.complete()

    assert (first.failed_records, second.failed_records) == (1, 0)
    assert database.rows() == [(1,), (2,), (3,)]


def test_an_upsert_updates_the_row_that_has_the_key(database):
    database.run("CREATE TABLE t (n INTEGER PRIMARY KEY, m INTEGER)", "INSERT INTO t VALUES (1, 0)")
    job = writing(SqlTable("warehouse", "t", key=["n"]))

    LocalRun(job, access=database.access).run([{"n": 1, "m": 5}, {"n": 2, "m": 6}])

    assert database.rows() == [(1, 5), (2, 6)]


def test_a_later_attempt_fences_the_writes_of_an_earlier_one(database):
    database.run("CREATE TABLE t (n INTEGER)")
    target = SqlTable("warehouse", "t")
    run = LocalRun(writing(target), access=database.access)
    run.load(numbers(1, 2))
    place = (run.instance.id, run.generation.manifest.generation)
    zombie = target.open(database.access, *place, run.generation.claim("store", "01", run.info).claim)
    heir = target.open(database.access, *place, run.generation.claim("store", "01", run.info).claim)

    with pytest.raises(FencedError):
        zombie.write(rows_of(1))
    assert heir.write(rows_of(1)) == {}
    zombie.close()
    heir.close()

    assert database.rows() == [(1,)]


def test_values_of_every_kind_arrive(database):
    kind = "TEXT" if database.name == "sqlite" else "TIMESTAMPTZ"
    database.run(f'CREATE TABLE t (n INTEGER, at {kind}, price NUMERIC(9, 2), tags TEXT, ok BOOLEAN, "a b" TEXT)')
    record = {
        "n": 1,
        "at": datetime(2030, 1, 2, 3, 4, tzinfo=UTC),
        "price": Decimal("1.50"),
        "tags": ["x", "y"],
        "ok": True,
        "a b": None,
    }

    result = LocalRun(writing(SqlTable("warehouse", "t")), access=database.access).run([record])

    assert result.failed_records == 0
    ((number, at, price, tags, ok, empty),) = database.rows()
    at = at if isinstance(at, str) else str(at.astimezone(UTC))
    assert (number, at[:16], float(price), tags, bool(ok), empty) == (
        1, "2030-01-02 03:04", 1.5, '["x", "y"]', True, None,
    )  # fmt: skip


def test_columns_choose_what_is_written(database):
    database.run("CREATE TABLE t (n INTEGER)")
    job = writing(SqlTable("warehouse", "t", columns=["n"]))

    LocalRun(job, access=database.access).run([{"n": 1, "more": "x"}])

    assert database.rows() == [(1,)]


def test_a_table_that_is_not_there_is_an_error_of_the_store_not_of_the_records(database):
    job = writing(SqlTable("warehouse", "absent"))
    run = LocalRun(job, access=database.access)
    run.load(numbers(1))

    with pytest.raises(StorageError, match="table absent of connection warehouse"):
        run.process_all()


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"mode": "upsert"}, id="upsert without a key"),
        pytest.param({"mode": "merge"}, id="unknown mode"),
        pytest.param({"key": "n"}, id="key as a text"),
        pytest.param({"columns": [1]}, id="column that is no text"),
    ],
)
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises(InvalidOptionError):
        SqlTable("warehouse", "t", **options)


def test_something_else_than_a_writer_is_refused_where_it_is_declared():
    job = BatchJob("job")

    with pytest.raises(InvalidOptionError, match="in step 'store' of job 'job'"):
        job.write("store", "warehouse.t")


def test_a_failing_write_of_one_shard_leaves_the_others_their_rows(database):
    database.run("CREATE TABLE t (n INTEGER PRIMARY KEY)")
    job = writing(SqlTable("warehouse", "t"), size=4)

    result = LocalRun(job, access=database.access, shards=3).run(numbers(*range(9), 0, 1, 2))

    assert (result.successful_records, result.failed_records) == (9, 3)
    assert database.rows() == [(n,) for n in range(9)]

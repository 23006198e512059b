"""What an older generation of an instance wrote: refused, updated or replaced; and its attempts write no more."""

from __future__ import annotations

import threading

import pyarrow as pa
import pytest

from batch_provider import BatchJob, InvalidOptionError, SqlTable
from batch_provider.domain.errors import FencedError, OlderGenerationError
from batch_provider.engine.ports.writing import Rows
from batch_provider.testing import LocalRun
from batch_provider.testing.contracts import Killed

REPLACING = {"mode": "replace_run", "run_column": "run"}


def new_run(database, *, shards=1, run_id="run", store=None, **options):
    with BatchJob("job", max_failed_records=-1, block_size=4) as job:
        job.write("store", SqlTable("warehouse", "t", **options), size=4)
    return LocalRun(job.spec, access=database.access, shards=shards, run_id=run_id, store=store)


def numbers(*found):
    return [{"n": n} for n in found]


def rows_of(*found):
    return Rows(range(len(found)), [0] * len(found), pa.table({"n": found}))


def numbers_in(database):
    return sorted(row[0] for row in database.run("SELECT n FROM t"))


def open_shard(run, target, shard, access):
    generation = run.generation
    claim = generation.claim("store", shard, run.info).claim
    return target.open(access, run.instance.id, generation.manifest.generation, claim)


def test_insert_refuses_a_new_generation_before_it_writes_anything(database):
    database.run("CREATE TABLE t (n INTEGER)")
    run = new_run(database)
    run.run(numbers(1, 2, 3))
    run.next_round()
    run.load(numbers(1, 2, 3, 4))

    with pytest.raises(OlderGenerationError, match=r"generation g1-.*Give SqlTable a key="):
        run.process_all()

    assert numbers_in(database) == [1, 2, 3]


def test_insert_goes_on_when_the_older_rows_and_their_commits_were_deleted_by_hand(database):
    database.run("CREATE TABLE t (n INTEGER)")
    run = new_run(database)
    run.run(numbers(1, 2, 3))
    run.next_round()
    database.run("DELETE FROM t", "DELETE FROM _batch_commits WHERE step = 'store'")

    assert run.run(numbers(1, 4)).is_successful

    assert numbers_in(database) == [1, 4]


def test_insert_of_another_instance_is_not_refused(database):
    database.run("CREATE TABLE t (n INTEGER)")
    new_run(database, run_id="one").run(numbers(1))

    assert new_run(database, run_id="two").run(numbers(2)).is_successful

    assert numbers_in(database) == [1, 2]


def test_insert_of_a_generation_whose_older_one_wrote_nothing_is_not_refused(database):
    database.run("CREATE TABLE t (n INTEGER)")
    run = new_run(database)
    run.load(numbers(1, 2))
    open_shard(run, SqlTable("warehouse", "t"), "01", database.access).close()
    run.next_round()

    assert run.run(numbers(3)).is_successful

    assert numbers_in(database) == [3]


def test_upsert_rewrites_what_an_older_generation_wrote(database):
    database.run("CREATE TABLE t (n INTEGER PRIMARY KEY, m INTEGER)")
    run = new_run(database, key=["n"])
    run.run([{"n": 1, "m": 1}, {"n": 2, "m": 1}])
    run.next_round()
    run.run([{"n": 2, "m": 2}, {"n": 3, "m": 2}])

    assert database.rows() == [(1, 1), (2, 2), (3, 2)]


@pytest.mark.parametrize("shards", [1, 3])
def test_replace_run_deletes_what_older_generations_wrote_and_nothing_else(database, shards):
    database.run("CREATE TABLE t (n INTEGER, run VARCHAR(300))", "INSERT INTO t VALUES (0, 'by hand'), (-1, NULL)")
    new_run(database, run_id="other", **REPLACING).run(numbers(100))
    run = new_run(database, shards=shards, **REPLACING)
    run.run(numbers(*range(1, 10)))
    run.next_round()
    run.run(numbers(*range(5, 15)))
    run.next_round()
    run.run(numbers(*range(6, 18)))

    assert numbers_in(database) == [-1, 0, *range(6, 18), 100]
    assert len(database.run("SELECT DISTINCT run FROM t WHERE run LIKE '%/g3-%'")) == 1


def test_replace_run_keeps_its_rows_when_it_is_killed_and_resumed(database):
    """Killed after the deletion and before the first row, then after some rows."""
    database.run("CREATE TABLE t (n INTEGER, run VARCHAR(300))")
    run = new_run(database, shards=2, **REPLACING)
    run.run(numbers(*range(20)))
    run.next_round()
    run.load(numbers(*range(100, 130)))
    target = run.job.step("store").writer

    open_shard(run, target, "01", database.access).close()
    assert numbers_in(database) == [], "deleted, and not yet written"

    run.store.blobs = dying = DyingStore(run.store.blobs, after=2)
    with pytest.raises(Killed):
        run.process_all()
    written = numbers_in(database)
    dying.after = None
    run.process_all()
    result = run.complete()

    assert written, "the kill was to come after a commit"
    assert result.successful_records == 30
    assert numbers_in(database) == list(range(100, 130))


class DyingStore:
    """A store in which the writer of a checkpoint dies before its file is there."""

    def __init__(self, blobs, after):
        self._blobs, self.after = blobs, after

    def put(self, name, data, **options):
        if "/steps/" in name and self.after is not None:
            self.after -= 1
            if self.after < 0:
                raise Killed
        self._blobs.put(name, data, **options)

    def __getattr__(self, name):
        return getattr(self._blobs, name)


def test_replace_run_deletes_once_however_many_shards_begin_at_the_same_moment(database):
    """Each writes as soon as it may: a second deletion would take what another has written."""
    database.run("CREATE TABLE t (n INTEGER, run VARCHAR(300))")
    run = new_run(database, shards=6, **REPLACING)
    run.run(numbers(*range(60)))
    run.next_round()
    run.load(numbers(*range(100, 160)))
    target, shards = run.job.step("store").writer, [f"{n:02d}" for n in range(1, 7)]
    claims = {shard: run.generation.claim("store", shard, run.info).claim for shard in shards}
    place = (run.instance.id, run.generation.manifest.generation)
    start, failures = threading.Barrier(len(shards)), []

    def write(shard):
        try:
            start.wait()
            session = target.open(database.access, *place, claims[shard])
            session.write(rows_of(int(shard)))
            session.close()
        except Exception as error:  # noqa: BLE001  # shown by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=write, args=(shard,)) for shard in shards]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert numbers_in(database) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("options", [{}, {"key": ["n"]}, REPLACING], ids=["insert", "upsert", "replace_run"])
def test_an_attempt_of_an_older_generation_writes_no_more(database, options):
    database.run("CREATE TABLE t (n INTEGER PRIMARY KEY, run VARCHAR(300))")
    run = new_run(database, shards=2, **options)
    target = run.job.step("store").writer
    run.load(numbers(1, 2))
    old = run.generation
    claims = [old.claim("store", shard, run.info).claim for shard in ("01", "02")]
    zombie = target.open(database.access, run.instance.id, old.manifest.generation, claims[0])
    run.next_round()
    run.load(numbers(3, 4))
    heir = open_shard(run, target, "01", database.access)

    with pytest.raises(FencedError):
        zombie.write(rows_of(1))
    with pytest.raises(FencedError, match="of generation g2-"):
        target.open(database.access, run.instance.id, old.manifest.generation, claims[1])
    assert heir.write(rows_of(3)) == {}
    zombie.close()
    heir.close()

    assert numbers_in(database) == [3]


def test_replace_run_with_a_key_updates_the_row_of_a_record_that_changed(database):
    database.run("CREATE TABLE t (n INTEGER PRIMARY KEY, run VARCHAR(300))")
    run = new_run(database, key=["n"], **REPLACING)
    run.load(numbers(1))
    session = open_shard(run, run.job.step("store").writer, "01", database.access)
    table = pa.table({"n": [1]})

    assert session.write(Rows([0], [0], table)) == {}
    assert session.write(Rows([0], [1], table)) == {}
    session.close()

    assert numbers_in(database) == [1]


def test_without_a_key_a_record_that_changed_fails_as_written_already(database):
    database.run("CREATE TABLE t (n INTEGER, run VARCHAR(300))")
    run = new_run(database, **REPLACING)
    run.load(numbers(1))
    session = open_shard(run, run.job.step("store").writer, "01", database.access)
    table = pa.table({"n": [1]})

    assert session.write(Rows([0], [0], table)) == {}
    assert session.write(Rows([0], [1], table))[0].type == "AlreadyWritten"
    session.close()

    assert numbers_in(database) == [1]


@pytest.mark.parametrize("many", [False, True], ids=["few rows", "many rows"])
def test_the_run_column_is_written_in_every_mode(database, many):
    database.run("CREATE TABLE t (n INTEGER PRIMARY KEY, run VARCHAR(300))")
    with BatchJob("job") as job:
        job.write("store", SqlTable("warehouse", "t", key=["n"], columns=["n"], run_column="run"), size=1_000)
    run = LocalRun(job.spec, access=database.access)

    run.run([{"n": n, "run": "of the input", "other": 1} for n in range(300 if many else 3)])

    place = f"{run.instance.id}/{run.generation.manifest.generation}"
    assert database.run("SELECT DISTINCT run FROM t") == [(place,)]


@pytest.mark.parametrize("column", [None, "", 7])
def test_replace_run_needs_a_column_to_find_the_rows_by(column):
    with pytest.raises(InvalidOptionError, match="run_column"):
        SqlTable("warehouse", "t", mode="replace_run", run_column=column)

"""ParquetFiles: exactly once for readers of the manifest, whatever is killed, redriven or left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_provider import BatchJob, InvalidOptionError, JobState, ParquetFiles
from batch_provider.domain.errors import DataLossError, StorageError
from batch_provider.domain.layout import ClaimId, Span
from batch_provider.engine.complete.complete import complete
from batch_provider.engine.ports.writing import Rows
from batch_provider.storage.instances.completion import Completion
from batch_provider.testing import LocalRun
from batch_provider.testing.contracts import BlobsContract, Killed
from batch_provider.writers.parquet.folder import FsspecBlobs, LocalFolder

shards = pytest.mark.parametrize("shards", [pytest.param(1, id="one shard"), pytest.param(3, id="three shards")])


@pytest.fixture(params=["local", "file URL", "object store"])
def url(request, tmp_path):
    if request.param == "object store":
        return f"memory://{tmp_path.name}/out"
    return f"file://{tmp_path}/out" if request.param == "file URL" else str(tmp_path / "out")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "out"


def numbers(*found):
    return [{"n": n} for n in found]


def new_run(url, *, run_id="run", shards=1, step=None, limit=-1, **options):
    with BatchJob("job", max_failed_records=limit, block_size=4) as job:
        if step is not None:
            job.step(step)
        job.write("store", ParquetFiles(str(url), **options), size=4)
    return LocalRun(job.spec, shards=shards, run_id=run_id)


def shown(url, instance=None):
    """What a reader of the manifest sees."""
    files = ParquetFiles(str(url)).read_manifest(instance, which=None if instance else "all")
    return sorted(row["n"] for file in files for row in read(file))


def read(file):
    from fsspec.core import url_to_fs

    filesystem, path = url_to_fs(file)
    with filesystem.open(path, "rb") as opened:
        return pq.read_table(opened).to_pylist()


def parts(folder):
    return sorted(path for path in Path(folder).rglob("*.parquet"))


@shards
def test_every_record_is_shown_once(url, shards):
    result = new_run(url, shards=shards).run(numbers(*range(30)))

    assert result.successful_records == 30
    assert shown(url) == list(range(30))


def test_the_files_are_named_by_shard_claim_and_digest(folder):
    run = new_run(folder, shards=2)
    run.run(numbers(*range(8)))
    generation = run.generation.manifest.generation
    [manifest] = ParquetFiles(str(folder)).manifests()

    assert [file["path"] for file in manifest["files"]] == [
        path.relative_to(folder).as_posix() for path in parts(folder)
    ]
    assert {path.parent for path in parts(folder)} == {folder / run.instance.id / generation}
    assert [path.name[:14] for path in parts(folder)] == ["part-01-000001", "part-02-000001"]
    assert {key: manifest[key] for key in ("version", "instance", "generation", "step", "state", "rows")} == {
        "version": 1, "instance": run.instance.id, "generation": generation, "step": "store",
        "state": "SUCCESSFUL", "rows": 8,
    }  # fmt: skip
    assert [(file["first"], file["last"], file["rows"]) for file in manifest["files"]] == [(0, 3, 4), (4, 7, 4)]


def test_nothing_is_shown_before_on_complete(folder):
    run = new_run(folder)
    run.load(numbers(1, 2))
    run.process_all()

    assert len(parts(folder)) == 1
    assert shown(folder) == []


@shards
def test_killed_between_part_and_checkpoint_nothing_is_shown_twice(folder, shards):
    run = new_run(folder, shards=shards)
    run.load(numbers(*range(30)))
    run.store.blobs = dying = DyingStore(run.store.blobs, after=1)
    with pytest.raises(Killed):
        run.process_all()
    assert len(parts(folder)) == 2, "the second has no checkpoint"
    dying.after = None
    run.process_all()
    run.complete()

    assert shown(folder) == list(range(30))
    assert sorted(row["n"] for path in parts(folder) for row in read(str(path))) == list(range(30)), "tidied up"


class DyingStore:
    """A store in which whoever writes a file of this kind dies before it is there."""

    def __init__(self, blobs, after, kind="/steps/"):
        self._blobs, self.after, self._kind = blobs, after, kind

    def put(self, name, data, **options):
        if self._kind in name and self.after is not None:
            self.after -= 1
            if self.after < 0:
                raise Killed
        self._blobs.put(name, data, **options)

    def __getattr__(self, name):
        return getattr(self._blobs, name)


def test_on_complete_killed_after_the_manifest_says_the_same_when_it_runs_again(folder):
    run = new_run(folder)
    run.load(numbers(1, 2))
    run.process_all()
    run.store.blobs = dying = DyingStore(run.store.blobs, after=0, kind="/result.")
    with pytest.raises(Killed):
        run.complete()
    assert shown(folder) == [1, 2]
    dying.after = None
    run.complete()

    assert shown(folder) == [1, 2]
    assert len(list((folder / "_manifest").iterdir())) == 1


@shards
def test_a_redrive_adds_what_failed_and_repeats_nothing(folder, shards):
    broken = [True]

    def check(record):
        if broken and record["n"] % 7 == 2:
            raise ValueError("not yet")

    run = new_run(folder, shards=shards, step=check)
    run.run(numbers(*range(30)))
    assert shown(folder) == [n for n in range(30) if n % 7 != 2]
    untouched = set(parts(folder))
    broken.clear()
    run.next_round()
    run.process_all()
    run.complete()

    assert shown(folder) == list(range(30))
    assert sorted(row["n"] for path in parts(folder) for row in read(str(path))) == list(range(30))
    assert untouched & set(parts(folder)), "blocks without failures keep their parts"


def test_the_old_row_of_a_record_that_was_made_again_is_not_shown(folder):
    """Its neighbours, which nothing happened to, are: the block's part is written again with them."""
    run = new_run_of_two_steps(folder)
    run.broken.append(2)
    run.run(numbers(0, 1, 2, 3))
    assert shown(folder) == [0, 1, 2, 3], "mended for the writer, which takes failed records too"
    run.broken.clear()
    run.next_round()
    run.process_all()
    run.complete()

    [file] = ParquetFiles(str(folder)).read_manifest()
    assert [(row["n"], row["by"]) for row in read(file)] == [(0, "check"), (1, "check"), (2, "check"), (3, "check")]


def new_run_of_two_steps(folder):
    broken = []
    with BatchJob("job", max_failed_records=-1, block_size=4) as job:

        @job.step
        def check(record):
            if record["n"] in broken:
                raise ValueError("not yet")
            return {"by": "check"}

        @job.step(accept_policy="ONLY_FAILURES")
        def mend(record):
            return {"by": "mend"}

        job.write("store", ParquetFiles(str(folder)), size=4, accept_policy="ALL")

    run = LocalRun(job.spec)
    run.broken = broken
    return run


def test_a_record_that_is_no_more_accepted_in_a_redrive_is_shown_no_more(folder):
    broken = [True]
    with BatchJob("job", max_failed_records=-1, block_size=4) as job:

        @job.step
        def check(record):
            if record["n"] == 1 or (broken and record["n"] == 2):
                raise ValueError("no")

        job.write("store", ParquetFiles(str(folder)), size=4, accept_policy="ONLY_FAILURES")

    run = LocalRun(job.spec)
    run.run(numbers(0, 1, 2))
    assert shown(folder) == [1, 2]
    broken.clear()
    run.next_round()
    run.process_all()
    run.complete()

    assert shown(folder) == [1]


def test_a_new_generation_replaces_what_the_older_one_wrote(url):
    run = new_run(url)
    other = new_run(url, run_id="other")
    other.run(numbers(100))
    run.run(numbers(1, 2, 3))
    run.next_round()
    run.load(numbers(3, 4))
    run.process_all()
    assert shown(url, run.instance.id) == [1, 2, 3], "until it is completed"
    run.complete()

    assert shown(url, run.instance.id) == [3, 4]
    assert shown(url) == [3, 4, 100]


def test_the_parts_of_an_older_generation_are_deleted(folder):
    run = new_run(folder)
    run.run(numbers(1))
    run.next_round()
    run.run(numbers(2))

    assert [path.parent.name[:3] for path in parts(folder)] == ["g2-"]
    assert len(list((folder / "_manifest").iterdir())) == 1


def test_a_zombie_is_shown_to_nobody_and_tidied_up_by_the_next_on_complete(folder):
    run = new_run(folder)
    run.load(numbers(1, 2))
    zombie = run.generation.claim("store", "01", run.info).claim
    run.process_all()
    run.complete()
    session = run.job.step("store").writer.open(
        run._access, run.instance.id, run.generation.manifest.generation, zombie
    )
    session.write(Span(0, 1), Rows([0, 1], [0, 0], pa.table({"n": [1, 2]})))
    assert shown(folder) == [1, 2]
    assert len(parts(folder)) == 2
    run.next_round()
    run.complete()

    assert shown(folder) == [1, 2]
    assert len(parts(folder)) == 1


def test_on_complete_leaves_alone_what_a_later_attempt_is_writing(folder):
    """A redrive began while on-complete was at work: its part is not listed yet, and is needed soon."""
    run = new_run(folder)
    run.run(numbers(1, 2))
    later = run.generation.claim("store", "01", run.info)
    session = run.job.step("store").writer.open(
        run._access, run.instance.id, run.generation.manifest.generation, later.claim
    )
    session.write(Span(0, 1), Rows([0, 1], [0, 0], pa.table({"n": [1, 2]})))
    from batch_provider.domain.outcome import JobState
    from batch_provider.engine.ports.writing import Written, WrittenBlock

    first = run.generation.attempts("store", "01")[0]
    written = Written(
        run.instance.id, run.generation.manifest.generation, "store", ClaimId.next(None), JobState.SUCCESSFUL, "",
        [WrittenBlock("01", Span(0, 1), first.claim, 2)], {"01": first.claim}, "local", "job", ClaimId.next(None),
    )  # fmt: skip
    run.job.step("store").writer.publish(run._access, written)

    assert len(parts(folder)) == 2
    assert shown(folder) == [1, 2]


@pytest.mark.parametrize("harm", ["deleted", "cut short"])
def test_a_part_that_is_not_as_it_was_written_is_loss_of_data(folder, harm):
    run = new_run(folder)
    run.load(numbers(1, 2))
    run.process_all()
    [part] = parts(folder)
    part.unlink() if harm == "deleted" else part.write_bytes(part.read_bytes()[:50])

    with pytest.raises(DataLossError, match="wrote 2 rows for the records 0 to 1, and the part for them is not there"):
        run.complete()

    assert shown(folder) == []


def test_the_state_stands_in_the_manifest(folder):
    def check(record):
        if record["n"] == 2:
            raise ValueError("two")

    result = new_run(folder, step=check, limit=0).run(numbers(1, 2, 3))

    assert result.state is JobState.FAILED_PROCESS_RECORDS
    assert [m["state"] for m in ParquetFiles(str(folder)).manifests()] == ["FAILED_PROCESS_RECORDS"]


def test_no_records_are_an_empty_manifest(folder):
    assert new_run(folder).run([]).is_successful

    assert [m["files"] for m in ParquetFiles(str(folder)).manifests()] == [[]]


def test_a_block_without_accepted_records_has_no_part(folder):
    with BatchJob("job", block_size=4) as job:
        job.write("store", ParquetFiles(str(folder)), size=1, accept_expression="n > 100")
    result = LocalRun(job.spec).run(numbers(1, 2))

    assert result.skipped_records == 2
    assert parts(folder) == []


def test_columns_choose_what_is_written(folder):
    new_run(folder, columns=["n"]).run([{"n": 1, "more": "x"}])

    [file] = parts(folder)
    assert read(str(file)) == [{"n": 1}]


def test_a_column_that_no_record_can_have_is_refused_by_the_load(folder):
    with pytest.raises(InvalidOptionError, match=r"'absent' is not allowed in step 'store'.* use columns .*: n, more"):
        new_run(folder, columns=["n", "absent"]).load([{"n": 1, "more": "x"}])


def test_a_column_that_only_other_records_have_is_null(folder):
    def late(record):
        return {"late": 1} if record["n"] == 2 else None

    new_run(folder, step=late, columns=["n", "late"]).run(numbers(1, 2))

    [file] = parts(folder)
    assert read(str(file)) == [{"n": 1, "late": None}, {"n": 2, "late": 1}]


def test_only_columns_whose_values_repeat_have_a_dictionary(folder):
    with BatchJob("orders", block_size=500) as job:
        job.write("store", ParquetFiles(folder))
    records = [{"id": row, "country": "DE" if row % 2 else "FR", "tags": ["a"]} for row in range(500)]

    run = LocalRun(job.spec)
    run.run(records)

    (path,) = ParquetFiles(folder).read_manifest()
    group = pq.ParquetFile(path).metadata.row_group(0)
    columns = [group.column(at) for at in range(group.num_columns)]
    assert {column.path_in_schema for column in columns if column.has_dictionary_page} == {"country"}
    assert sorted(pq.read_table(path).to_pylist(), key=lambda row: row["id"]) == records


def test_a_value_that_cannot_stand_in_its_column_fails_its_record(folder):
    """A step made numbers of a text column; the record that failed in it still has its text (ADR 0007)."""

    def number(record):
        return {"m": int(record["m"])}

    with BatchJob("job", max_failed_records=-1, block_size=4) as job:
        job.step(number)
        job.write("store", ParquetFiles(str(folder)), size=4, accept_policy="ALL")
    result = LocalRun(job.spec).run([{"n": n, "m": "seven" if n == 1 else str(n)} for n in range(3)])

    assert {(error.step, error.exception) for error in result.errors} == {
        ("number", "ValueError"), ("store", "FieldTypeError"),
    }  # fmt: skip
    assert shown(folder) == [0, 2]


def test_duckdb_reads_by_the_manifest(folder):
    import duckdb

    new_run(folder, shards=2).run(numbers(*range(8)))
    with duckdb.connect() as connection:
        files = ParquetFiles(str(folder)).read_manifest()
        assert connection.execute("SELECT sum(n) FROM read_parquet(?)", [files]).fetchone() == (28,)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"url": ""}, id="no url"),
        pytest.param({"url": "out/*.parquet"}, id="pattern"),
        pytest.param({"url": "out", "columns": [1]}, id="column that is no text"),
        pytest.param({"url": "out", "compression": "rar"}, id="compression"),
    ],
)
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises(InvalidOptionError):
        ParquetFiles(**options)


def test_two_steps_of_a_job_may_not_share_a_directory(folder):
    job = BatchJob("job")
    job.write("one", ParquetFiles(str(folder)))

    with pytest.raises(InvalidOptionError, match="a directory of its own"):
        job.write("two", ParquetFiles(f"{folder}/"))


def test_a_url_that_nothing_knows_is_a_clear_error():
    run = new_run("nowhere://bucket/out")
    run.load(numbers(1))

    with pytest.raises(StorageError, match=r"Cannot write to nowhere://bucket/out: .*Check the URL"):
        run.process_all()


def test_a_directory_that_cannot_be_written_is_an_error_of_the_store(tmp_path):
    (tmp_path / "out").write_text("a file")
    run = new_run(tmp_path / "out")
    run.load(numbers(1))

    with pytest.raises(StorageError, match="a part of this path is a file"):
        run.process_all()


def test_manifests_are_json_that_a_person_can_read(folder):
    new_run(folder).run(numbers(1))

    [manifest] = (folder / "_manifest").iterdir()
    assert json.loads(manifest.read_text())["rows"] == 1


class TestFsspecBlobs(BlobsContract):
    @pytest.fixture
    def blobs(self, tmp_path):
        import fsspec

        return FsspecBlobs(fsspec.filesystem("memory"), f"/{tmp_path.name}")


class TestLocalFolder(BlobsContract):
    @pytest.fixture
    def blobs(self, tmp_path):
        return LocalFolder(tmp_path)


def test_a_row_that_stood_and_cannot_be_written_again_stops_the_step(folder):
    """Records that failed at first get floats, which cannot hold the large numbers of those that stand."""
    broken = True

    def step(record):
        if record["n"] >= 2 and broken:
            raise ValueError("not yet")
        return {"x": 2**60 + 1 if record["n"] < 2 else 0.5}

    def job(block_size):
        with BatchJob("job", max_failed_records=-1, block_size=block_size) as job:
            job.step(step)
            job.write("store", ParquetFiles(str(folder)))
        return job.spec

    run = LocalRun(job(2))
    run.load(numbers(*range(6)))
    run.process(run.job.step("step"), "01")
    run.job = job(6)  # the writer's blocks are larger than those of the step before
    run.process(run.job.step("store"), "01")
    run.complete()
    broken = False
    run.next_round()

    with pytest.raises(StorageError, match="Cannot write record 0 again"):
        run.process_all()


def test_a_job_that_writes_files_is_not_completed_where_there_is_no_way_to_them(folder):
    run = new_run(folder)
    run.load(numbers(1))
    run.process_all()
    with pytest.raises(InvalidOptionError, match="step 'store' writes to one"):
        complete(run.job, Completion(run.generation), info=run.info, clock=run.clock)


def test_a_record_without_any_column_fails_and_says_why(folder):
    with BatchJob("job", max_failed_records=-1) as job:

        @job.step(output="replace")
        def empty(record):
            return {}

        job.write("store", ParquetFiles(str(folder)))
    run = LocalRun(job.spec)

    result = run.run(numbers(0, 1))

    assert shown(folder) == []
    assert (result.successful_records, result.failed_records) == (0, 2)
    found = {tuple(row) for row in run.query("SELECT record_id, error_type FROM failures")}
    assert found == {(0, "NoColumnsError"), (1, "NoColumnsError")}

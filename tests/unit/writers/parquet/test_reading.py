"""Which instance of a directory a reader gets: the one that is named, the latest by ticket, or all."""

from __future__ import annotations

import json

import pytest

from batch_provider import BatchJob, InvalidOptionError, ParquetFiles
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.storage.instances.tickets import Tickets
from batch_provider.testing import LocalRun


@pytest.fixture
def lake(tmp_path):
    return ParquetFiles(tmp_path / "out")


@pytest.fixture
def store():
    return MemoryBlobs()


def new_run(lake, run_id, store, *, name="job"):
    with BatchJob(name) as job:
        job.write("store", lake)
    return LocalRun(job.spec, run_id=run_id, store=store)


def completed(lake, run_id, store, **options):
    run = new_run(lake, run_id, store, **options)
    run.run([{"n": run_id}])
    return run


def shown(files):
    import pyarrow.parquet as pq

    return sorted(row["n"] for file in files for row in pq.read_table(file).to_pylist())


def test_the_only_instance_need_not_be_named(lake, store):
    completed(lake, "one", store)

    assert shown(lake.read_manifest()) == shown(lake.read_manifest(which="latest")) == ["one"]


def test_an_empty_directory_has_no_files(lake):
    assert lake.read_manifest() == lake.read_manifest(which="latest") == lake.read_manifest(which="all") == []


def test_with_several_instances_the_caller_says_which(lake, store):
    one, two = completed(lake, "one", store), completed(lake, "two", store)

    with pytest.raises(InvalidOptionError) as refused:
        lake.read_manifest()

    assert one.instance.id in str(refused.value)
    assert two.instance.id in str(refused.value)
    assert shown(lake.read_manifest(one.instance.id)) == ["one"]
    assert shown(lake.read_manifest(which="latest")) == ["two"]
    assert shown(lake.read_manifest(which="all")) == ["one", "two"]


def test_an_error_does_not_name_a_thousand_instances(lake, store):
    for number in range(7):
        completed(lake, f"run-{number}", store)

    with pytest.raises(InvalidOptionError, match="and 2 more, or which='latest' or which='all'"):
        lake.read_manifest()


def test_the_latest_is_the_one_that_was_loaded_last_and_not_the_one_that_was_completed_last(lake, store):
    early, late = new_run(lake, "early", store), new_run(lake, "late", store)
    for run in (early, late):
        run.load([{"n": run.instance.run_id}])
        Tickets(store, "local", "job").take(run.instance, run.generation.manifest.generation)
    for run in (late, early):
        run.process_all()
        run.complete()

    assert shown(lake.read_manifest(which="latest")) == ["late"]


def test_a_redrive_is_no_later_load(lake, store):
    first = completed(lake, "first", store)
    completed(lake, "second", store)
    first.next_round()
    first.process_all()
    first.complete()

    assert shown(lake.read_manifest(which="latest")) == ["second"]


def test_a_new_generation_is_a_later_load(lake, store):
    first = completed(lake, "first", store)
    completed(lake, "second", store)
    first.next_round()
    first.run([{"n": "again"}])

    assert shown(lake.read_manifest(which="latest")) == ["again"]


def test_a_number_is_not_given_again_when_the_tickets_before_it_were_purged(lake, store):
    for number in range(3):
        run = completed(lake, f"run-{number}", store)
        Tickets(store, "local", "job").forget(run.instance.id)

    assert shown(lake.read_manifest(which="latest")) == ["run-2"]


def test_what_a_version_without_tickets_wrote_is_older(lake, store, tmp_path):
    completed(lake, "z-old", store)
    [path] = (tmp_path / "out/_manifest").iterdir()
    document = json.loads(path.read_text())
    path.write_text(json.dumps({key: document[key] for key in document.keys() - {"ticket", "dag_id", "job"}}))
    completed(lake, "new", store)

    assert shown(lake.read_manifest(which="latest")) == ["new"]


@pytest.mark.parametrize("other", [{"name": "another"}, {}], ids=["another job", "another store"])
def test_without_an_order_there_is_no_latest(lake, store, other):
    completed(lake, "one", store)
    completed(lake, "two", store if other else MemoryBlobs(), **other)

    with pytest.raises(InvalidOptionError, match=r"instance= with one of .* not known which was loaded last"):
        lake.read_manifest(which="latest")


@pytest.mark.parametrize("options", [{"which": "newest"}, {"instance": "one", "which": "all"}])
def test_other_words_are_refused(lake, options):
    with pytest.raises(InvalidOptionError, match="which"):
        lake.read_manifest(**options)

"""Files that are damaged, missing or forged: never adopted, never counted, always said."""

from __future__ import annotations

import pyarrow as pa
import pytest

from batch_provider.domain.errors import CorruptCheckpointError, DataLossError
from batch_provider.domain.layout import FileRef
from batch_provider.storage.blobs.local import LocalBlobs
from batch_provider.storage.blobs.protocol import put_json
from batch_provider.storage.reading.checkpoint_file import Footer, encode, open_checkpoint
from batch_provider.testing import LocalRun
from tests.builders import Step, checkpoint_files, job_of, numbers
from tests.unit.engine.attempts import die, last_attempt, loaded, process

# --- damaged files --------------------------------------------------------------------------------------------


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def empty(path):
    path.write_bytes(b"")


def replace_by_another(path):
    path.write_bytes(b"PAR1 something else PAR1")


def delete(path):
    path.unlink()


DAMAGES = [flip, truncate, empty, replace_by_another, delete]


def on_disk(tmp_path, *steps, **options):
    options.setdefault("block_size", 4)
    blobs = LocalBlobs(tmp_path)
    run = LocalRun(job_of(*steps, **options), store=blobs)
    run.load(numbers(10))
    return run, blobs


def file_of(tmp_path, blobs, run, step, index):
    return tmp_path / checkpoint_files(blobs, run, step)[index]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_checkpoint_is_not_adopted_by_a_retry(tmp_path, damage):
    step = Step(fails={1}, dies_at=9)
    run, blobs = on_disk(tmp_path, step)
    die(run)
    step.forget()
    damage(file_of(tmp_path, blobs, run, "s1", 0))

    process(run)
    result = run.complete()

    assert sorted(step.seen) == [0, 1, 2, 3, 8, 9]
    assert (result.successful_records, result.failed_records) == (9, 1)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_checkpoint_is_made_again_by_a_redrive(tmp_path, damage):
    first, second = Step(returns=lambda record: {"n": record["n"] + 1}), Step()
    run, blobs = on_disk(tmp_path, first, second)
    run.process_all()
    run.complete()
    first.forget()
    second.forget()
    damage(file_of(tmp_path, blobs, run, "s1", 1))

    run.next_round()
    run.process_all()
    result = run.complete()

    assert (first.seen, second.seen) == ([4, 5, 6, 7], [4, 5, 6, 7])
    assert result.successful_records == 10
    assert [record["n"] for record in run.output()] == list(range(1, 11))


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_checkpoint_is_a_clear_error_on_complete(tmp_path, damage):
    run, blobs = on_disk(tmp_path, Step(fails={5}))
    run.process_all()
    path = file_of(tmp_path, blobs, run, "s1", 1)
    damage(path)

    with pytest.raises(CorruptCheckpointError, match="Clear the task of the step that wrote it") as caught:
        run.complete()

    assert str(path) in str(caught.value)
    assert run.store.result() is None


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_upstream_checkpoint_is_a_clear_error_for_the_next_step(tmp_path, damage):
    run, blobs = on_disk(tmp_path, Step(), Step())
    process(run, "s1")
    damage(file_of(tmp_path, blobs, run, "s1", 2))

    with pytest.raises(CorruptCheckpointError, match="is damaged"):
        process(run, "s2")


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_input_is_a_clear_error(tmp_path, damage):
    run, blobs = on_disk(tmp_path, Step())
    directory = f"{run.generation.base}/input"
    damage(tmp_path / directory / blobs.files(directory)[0])

    with pytest.raises(CorruptCheckpointError, match=r"is damaged: .* clear the load task with Downstream"):
        process(run)


# --- manipulated files ----------------------------------------------------------------------------------------


def forge(run, blobs, change, step="s1", index=0):
    """Write a checkpoint again with other rows, under a name and digest that fit, and name it in the close."""
    generation = run.generation
    close = generation.attempts(step, "01")[-1]
    old = close.files[index]
    directory = f"{generation.base}/steps/{step}/01"
    opened = open_checkpoint(blobs, f"{directory}/{old.name}", old)
    rows = change(opened.read(opened.columns))
    buffer, digest = encode(rows, Footer(step, opened.footer.owners, opened.footer.tally))
    new = FileRef(old.span, old.claim, digest)
    blobs.put(f"{directory}/{new.name}", buffer)
    files = [new if file == old else file for file in close.files]
    path = f"{generation.base}/attempts/{step}/01/{close.claim}.json"
    put_json(blobs, path, {**close.to_json(), "files": [file.name for file in files]})


def with_column(table, name, values):
    return table.set_column(table.column_names.index(name), name, [values])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda t: t.slice(1), "a file of step 's1' does not hold its ids", id="a row is missing"),
        pytest.param(lambda t: t.take([0, 0, 2, 3]), "does not hold its ids", id="a row stands twice"),
        pytest.param(lambda t: t.take([1, 0, 2, 3]), "does not hold its ids", id="rows change places"),
        pytest.param(lambda t: t.slice(0, 0), "does not hold its ids", id="no rows"),
        pytest.param(
            lambda t: with_column(t, "_in", pa.array([7] * 4, pa.int32())),
            "was made from an earlier output of the step before (record ids 0, 1, 2, 3)",
            id="another upstream",
        ),
        pytest.param(
            lambda t: with_column(t, "_status", pa.array([1, 9, 1, 1], pa.uint8())),
            "does not agree with the step before on which records have failed (record ids 1)",
            id="failed before, it says",
        ),
    ],
)
def test_manipulated_checkpoint_is_data_loss(change, message):
    run, blobs = loaded(Step())
    run.process_all()
    forge(run, blobs, change)

    with pytest.raises(DataLossError) as caught:
        run.complete()

    assert message in str(caught.value)


def test_done_attempt_that_misses_a_file_is_data_loss():
    run, blobs = loaded(Step())
    run.process_all()
    close = last_attempt(run)
    path = f"{run.generation.base}/attempts/s1/01/{close.claim}.json"
    put_json(blobs, path, {**close.to_json(), "files": [file.name for file in close.files[1:]]})

    with pytest.raises(DataLossError, match="says it is done, but records are missing"):
        run.complete()


@pytest.mark.parametrize("part", ["shards", "files"])
def test_manifest_that_does_not_cover_its_records_is_data_loss(part):
    run, blobs = loaded(Step(), shards=2)
    run.process_all()
    manifest = run.generation.manifest.to_json()
    put_json(blobs, f"{run.generation.base}/manifest.json", {**manifest, part: manifest[part][1:]})

    with pytest.raises(DataLossError, match=r"its (shards|input files) do not cover 10 records"):
        run.complete()

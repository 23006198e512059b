"""Older loads are named for reading, and only the latest is worked on; what is not loaded says why, and what to do."""

from __future__ import annotations

from argparse import Namespace

import pytest

from batch_provider import JobState, Records
from batch_provider.cli.redrive import redrive
from batch_provider.domain.errors import (
    CheckpointMissingError,
    GenerationGoneError,
    InvalidOptionError,
    NotLoadedError,
    RedriveRefusedError,
    SourceError,
)
from batch_provider.engine.complete.complete import load_failed
from batch_provider.hooks.batch import BatchHook
from batch_provider.storage.blobs.local import LocalBlobs
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.storage.blobs.protocol import get_json, put_json
from batch_provider.storage.instances.catalog import Catalog
from batch_provider.storage.views.instance_view import InstanceView
from batch_provider.testing import LocalRun
from tests.builders import Killed, Step, job_of, numbers


def broken():
    raise ConnectionError("the source is down")
    yield


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Loaded twice: one record of four failed in the first generation, five of five succeeded in the second."""
    monkeypatch.setenv("AIRFLOW__BATCH_PROVIDER__STORAGE_PATH", str(tmp_path))
    step = Step(fails={1})
    run = LocalRun(job_of(step), store=LocalBlobs(tmp_path))
    run.run(numbers(4))
    run.next_round()
    step.fails = set()
    run.run(numbers(5))
    return run


def ask_to_redrive(run, generation=None):
    redrive(Namespace(instance=run.instance.id, dag_id=None, job=None, generation=generation))


def test_every_load_has_a_name_and_can_be_read_by_it(run):
    hook = BatchHook("local", "job")
    older, latest = hook.generations("run")

    assert (older[:3], latest[:3]) == ("g1-", "g2-")
    assert hook.get_result("run").total_records == hook.get_result("run", generation=latest).total_records == 5
    assert hook.get_result("run", generation=older).failed_records == 1
    view = hook.view("run", generation=older)
    assert (view.state(), view.first_error(1).message) == (JobState.SUCCESSFUL, "record 1 is bad")


def test_a_name_that_nobody_gave_is_refused_with_those_there_are(run):
    with pytest.raises(InvalidOptionError, match=r"generation='g9' is not allowed; use one of g1-.*, g2-"):
        InstanceView(run.store, "g9").result()


def test_nobody_works_on_an_older_load_that_has_no_result():
    run = LocalRun(job_of(Step()), store=MemoryBlobs())
    run.load(numbers(4))
    (older,) = run.store.generations()
    assert InstanceView(run.store, older).state() is JobState.EXECUTING
    run.next_round()
    run.load(numbers(5))

    assert InstanceView(run.store, older).state() is JobState.CANCELLED
    assert InstanceView(run.store).state() is JobState.EXECUTING


def test_an_older_load_is_not_redriven(run):
    older, latest = run.store.generations()

    with pytest.raises(RedriveRefusedError) as refused:
        ask_to_redrive(run, older)
    assert f"loaded again since generation {older}, as {latest}, and only the latest load is worked on" in str(
        refused.value
    )
    assert f"airflow batch show {run.instance.id} --generation {older}" in str(refused.value)
    with pytest.raises(InvalidOptionError, match="use one of g1-"):
        ask_to_redrive(run, "g9")
    with pytest.raises(RedriveRefusedError, match="no record failed"):
        ask_to_redrive(run, latest)


def test_a_redrive_after_a_failed_second_load_says_that_it_failed(run):
    run.next_round()
    with pytest.raises(SourceError):
        run.load(Records(broken()))
    kept = run.store.generations()[-1]

    for ask in (lambda: ask_to_redrive(run), lambda: run.store.request_stop("now")):
        with pytest.raises(NotLoadedError) as refused:
            ask()
        text = str(refused.value)
        assert "its latest load failed (SourceError: " in text
        assert "the source is down" in text
        assert "Put the input right and clear the load task with Downstream." in text
        assert text.endswith(f"What was loaded before is kept for reading only: generation {kept}.")
        assert "Wait until it is loaded" not in text


def test_what_is_still_being_loaded_is_waited_for():
    def dies():
        yield {"n": 1}
        raise Killed

    run = LocalRun(job_of(Step()), store=MemoryBlobs())
    with pytest.raises(Killed):
        run.load(Records(dies()))

    with pytest.raises(NotLoadedError, match="Wait until it is loaded"):
        run.store.request_stop("now")
    assert run.store.generations() == []


def test_a_first_load_that_failed_has_nothing_to_read():
    run = LocalRun(job_of(Step()), store=MemoryBlobs())
    with pytest.raises(SourceError):
        run.load(Records(broken()))

    assert "kept for reading" not in str(run.store.not_loaded())
    with pytest.raises(InvalidOptionError, match="nothing is loaded"):
        InstanceView(run.store, "g1-00000000").state()


def test_what_a_later_release_adds_to_an_attempt_to_load_keeps_nobody_from_loading():
    blobs = MemoryBlobs()
    run = LocalRun(job_of(Step()), store=blobs)
    run.load(numbers(4))
    name = f"{run.store.base}/load/{run.store.load_claims()[0]}.json"
    document = get_json(blobs, name)
    document["instance"]["colour"] = "blue"
    put_json(blobs, name, {**document, "mood": "good"})

    run.next_round()
    assert run.run(numbers(5)).total_records == 5
    assert [store.instance for store in Catalog(blobs, run.clock).instances()] == [run.instance]


# --- purged ---------------------------------------------------------------------------------------------------


def test_on_complete_of_a_purged_instance_says_what_may_have_happened():
    run = LocalRun(job_of(Step()), store=MemoryBlobs())
    run.run(numbers(4))
    run.store.blobs.delete(run.store.base)

    result = load_failed(run.instance, run.store.load_problem(), None, run.clock)

    assert result.state is JobState.FAILED_LOADING
    assert "its load task never began, it was purged, or [batch_provider] storage_path is another one" in result.reason
    assert "Clear the load task with Downstream." in result.reason
    assert "purged" in str(run.store.not_loaded())


@pytest.mark.parametrize("half", [False, True])
def test_a_step_of_a_purged_instance_says_so(half):
    """A purge that was killed has removed the manifest, and not yet the rest."""
    run = LocalRun(job_of(Step()), store=MemoryBlobs())
    run.run(numbers(4))
    generation = run.generation
    gone = run.store.generation(generation.base.rpartition("/")[2])
    run.store.blobs.delete(f"{generation.base}/manifest.json" if half else generation.base)

    with pytest.raises(GenerationGoneError, match="Clear the load task with Downstream"):
        gone.claim("s1", "01", run.info, run.job)


# --- output ---------------------------------------------------------------------------------------------------


def test_the_output_of_a_stopped_run_is_asked_for_in_vain_and_the_advice_works():
    step = Step(fails={1})
    run = LocalRun(job_of(step, max_failed_records=0, block_size=2))
    run.run(numbers(4))

    with pytest.raises(CheckpointMissingError) as missing:
        run.output()
    text = str(missing.value)
    assert "Step 's1' of shard 01 has no finished output: it was limited (1 record failed" in text
    assert text.endswith("or ask query() or InstanceView(run.store).connect() for what there is.")

    with InstanceView(run.store).connect() as records:
        assert records.execute("SELECT count(*) FROM s1 WHERE outcome <> 'NOT_RUN'").fetchall() == [(2,)]
    step.fails = set()
    run.next_round()
    run.process_all()
    assert run.output() == numbers(4)

"""What a running job tells on-call by itself is true of the job, wherever it is read."""

from __future__ import annotations

from datetime import timedelta

import pytest

from batch_provider import BatchJob, JobState
from batch_provider.domain.errors import StorageError
from batch_provider.engine.process.process import ShardTask, process_shard
from batch_provider.notifications.notifier import BatchNotifier
from batch_provider.operators.alerts import late_alert
from batch_provider.storage.blobs.local import LocalBlobs
from batch_provider.testing import FakeClock, Fault, Faults, FaultyBlobs, LocalRun, raising
from tests.unit.notifications.conftest import RUN_ID
from tests.unit.notifications.servers import LOGIN, PASSWORD


@pytest.fixture
def told(mail, httpserver, connect, task_context):
    """The mail and the webhook of a job that was late and went on, and its result."""
    httpserver.expect_request("/hook").respond_with_data("ok")
    extra = {"from_email": "airflow@example.com", "to": ["on-call@example.com"]}
    connect("mail", conn_type="smtp", host="127.0.0.1", port=mail.port, login=LOGIN, password=PASSWORD, extra=extra)
    connect("hook", conn_type="http", host=httpserver.url_for("/hook"))
    task_context["ti"].state = "running"

    def late_job(conn_id, clock):
        with BatchJob("job", block_size=2, sla=timedelta(seconds=10), alert_conn_id=conn_id) as job:

            @job.step
            def work(record):
                clock.advance(3)

        return job.spec

    for conn_id in ("mail", "hook"):
        clock = FakeClock()
        job = late_job(conn_id, clock)
        run = LocalRun(job, clock=clock)
        (shard,) = run.load([{"n": n} for n in range(10)])
        work = run.generation.claim("work", shard, run.info, job)
        process_shard(ShardTask(job, job.step("work"), work, clock, on_late=late_alert(job, task_context)))
        assert run.complete().state is JobState.SUCCESSFUL
    ((request, _),) = httpserver.log
    (sent,) = mail.mails
    return {"mail": f"{sent['Subject']}\n{sent.get_content()}", "webhook": request.json["text"]}


def test_a_late_job_that_goes_on_is_not_said_to_have_stopped(told, caplog):
    (logged, _) = [record.message for record in caplog.get_records("setup") if record.message.startswith("LATE")]
    for text in (*told.values(), logged):
        words = " ".join(text.split())
        assert "its deadline 2030-01-01T00:00:10+00:00 has passed after 0:00:12. The work goes on" in words
        assert "nothing has to be cleared" in words
        assert "stopped" not in words
        assert "Clear the failed tasks" not in words


def test_the_alert_names_job_run_and_task(told):
    assert "SLA of job job has passed: flights.price.step[3]" in told["mail"]
    assert "State:     running" in told["webhook"]


# --- a run that failed ----------------------------------------------------------------------------------------


@pytest.fixture
def failed_run(tmp_path, monkeypatch, task_context):
    """A run whose step could not write its checkpoint, and what Airflow tells the DAG's callback of it."""
    monkeypatch.setenv("AIRFLOW__BATCH_PROVIDER__STORAGE_PATH", str(tmp_path))
    faults = Faults(Fault("put:before */steps/*", raising(StorageError("write", "/data/x", "the disk is full"))))
    job = BatchJob("prices")
    job.step(name="work")(lambda record: None)
    run = LocalRun(job.spec, store=FaultyBlobs(LocalBlobs(tmp_path), faults), dag_id="flights", run_id=RUN_ID)
    run.load([{"n": 1}])
    with pytest.raises(StorageError):
        run.process(run.job.step("work"), "01")
    run.complete()
    task_context["dag_run"].state = "failed"
    return {**task_context, "reason": "task_failure"}


def alert(mail, connect, context):
    extra = {"from_email": "airflow@example.com", "to": ["on-call@example.com"]}
    connect("mail", conn_type="smtp", host="127.0.0.1", port=mail.port, login=LOGIN, password=PASSWORD, extra=extra)
    BatchNotifier(conn_id="mail")(context)
    (sent,) = mail.mails
    return sent.get_content()


def test_the_alert_of_a_failed_run_has_the_error_that_ended_it(mail, connect, failed_run):
    text = alert(mail, connect, failed_run)

    assert (
        "prices: Step 'work' of shard 01 did not finish: StorageError: Cannot write /data/x: the disk is full" in text
    )


@pytest.mark.parametrize("path", ["s3://bucket/batch", ""])
def test_a_store_out_of_reach_does_not_hold_up_the_alert(mail, connect, failed_run, monkeypatch, tmp_path, path):
    monkeypatch.setenv("AIRFLOW__BATCH_PROVIDER__STORAGE_PATH", path or str(tmp_path / "nowhere"))

    assert "task_failure" in alert(mail, connect, failed_run)

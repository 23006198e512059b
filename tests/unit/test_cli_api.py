"""What a redrive asks of Airflow's REST API, and what it says when Airflow refuses."""

from __future__ import annotations

import pytest

from batch_provider.cli.api import TOKEN_VARIABLE, AirflowApi, ApiError
from batch_provider.cli.redrive import tasks_to_clear
from batch_provider.domain.errors import RedriveRefusedError
from batch_provider.domain.instance import JobInstance
from batch_provider.storage.instances.redrive_targets import RedriveTarget

OWNER = JobInstance("i", "d", "r", "orders")


@pytest.fixture
def api(httpserver):
    with AirflowApi(httpserver.url_for("/air"), "secret") as api:
        yield api


def target(task_id, map_index=0):
    return RedriveTarget("check", "01", task_id, map_index, 1, 0)


def test_it_clears_with_the_users_token_downstream_and_on_the_latest_version(api, httpserver):
    httpserver.expect_oneshot_request(
        "/air/api/v2/dags/a b/clearTaskInstances",
        method="POST",
        headers={"Authorization": "Bearer secret"},
        json={
            "dry_run": False,
            "dag_run_id": "manual__2026-01-01T00:00:00+00:00",
            "task_ids": [["orders.process.check", 1], "orders.total"],
            "only_failed": False,
            "include_downstream": True,
            "reset_dag_runs": True,
            "run_on_latest_version": True,
            "prevent_running_task": True,
        },
    ).respond_with_json({"task_instances": [{}, {}]})
    tasks = [("orders.process.check", 1), "orders.total"]
    assert len(api.clear("a b", "manual__2026-01-01T00:00:00+00:00", tasks, dry_run=False)) == 2


def test_ids_with_special_characters_stay_one_part_of_the_path(api, httpserver):
    httpserver.expect_oneshot_request("/air/api/v2/dags/d/dagRuns/a/b?c+d").respond_with_json({"state": "failed"})
    assert api.run_state("d", "a/b?c+d") == "failed"


@pytest.mark.parametrize(
    ("status", "advice"), [(401, "Log in"), (403, "The user of the token may not do this"), (404, "Check --api-url")]
)
def test_a_refusal_says_what_to_do_and_hides_the_token(api, httpserver, status, advice):
    httpserver.expect_request("/air/api/v2/dags/d/dagRuns/r").respond_with_data("no", status=status)
    with pytest.raises(ApiError, match=f"answered {status}: no {advice}") as refused:
        api.run_state("d", "r")
    assert "secret" not in str(refused.value)


def test_an_airflow_that_cannot_be_reached():
    with AirflowApi("http://127.0.0.1:9", "secret") as api, pytest.raises(ApiError, match=r"Cannot reach .*:9"):
        api.run_state("d", "r")


def test_without_a_token_nothing_is_asked(monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    with pytest.raises(ApiError, match=TOKEN_VARIABLE):
        AirflowApi("http://127.0.0.1:9")
    monkeypatch.setenv(TOKEN_VARIABLE, "secret")
    with AirflowApi("http://127.0.0.1:9/") as api:
        assert api.url == "http://127.0.0.1:9"


def test_a_task_that_several_shards_share_is_cleared_once(api):
    assert tasks_to_clear(api, OWNER, [target("orders.total", -1), target("orders.total", -1)]) == ["orders.total"]


@pytest.mark.parametrize(
    ("known", "found"),
    [
        (["orders.load", "orders.process.check"], [("orders.process.check", 0)]),
        (["returns.process.check", "orders.process.check"], [("orders.process.check", 0)]),
        (["mine.check", "load"], [("mine.check", 0)]),
        (["a.check", "b.check"], None),
        (["load"], None),
    ],
)
def test_a_step_that_nobody_has_begun_is_found_by_its_name(api, httpserver, known, found):
    httpserver.expect_request("/air/api/v2/dags/d/tasks").respond_with_json({"tasks": [{"task_id": t} for t in known]})
    if found is None:
        with pytest.raises(RedriveRefusedError, match="Clear it in Airflow's UI"):
            tasks_to_clear(api, OWNER, [target("")])
    else:
        assert tasks_to_clear(api, OWNER, [target("")]) == found

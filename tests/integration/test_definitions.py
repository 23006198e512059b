"""What a DAG file makes of a job, before anything runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Label, TaskGroup, chain, chain_linear, cross_downstream, task

from batch_provider import BatchJob, Records

pytestmark = pytest.mark.integration

BROKEN = Path(__file__).parents[1] / "dags_broken"

SERIALIZE = """
import json
from airflow.dag_processing.dagbag import DagBag
from airflow.models.serialized_dag import SerializedDagModel
from airflow.serialization.serialized_objects import DagSerialization

bag = DagBag("tests/dags/jobs.py")
dags = {name: DagSerialization.to_dict(dag) for name, dag in bag.dags.items()}
text = json.dumps(dags, sort_keys=True)
print(json.dumps({"hashes": {name: SerializedDagModel.hash(dag) for name, dag in dags.items()}, "text": text}))
"""


# --- the graph ---------------------------------------------------------------------------------------------


def serialized(dag):
    from airflow.serialization.serialized_objects import DagSerialization

    made = json.loads(json.dumps(DagSerialization.serialize_dag(dag)))
    made["tasks"] = {task["__var"]["task_id"]: task["__var"] for task in made["tasks"]}
    return made


@pytest.mark.parametrize("by_hand", ["small_by_hand", "two_stages_by_hand"])
def test_builder_and_hand_wired_operators_make_the_same_dag(dags, by_hand):
    built, wired = serialized(dags[by_hand.removesuffix("_by_hand")]), serialized(dags[by_hand])

    assert json.loads(json.dumps(wired).replace("_by_hand", "")) == built, "but for the id of the DAG"


def test_the_graph_of_a_job_is_load_then_mapped_steps_then_on_complete(dags):
    tasks = serialized(dags["small"])["tasks"]

    kinds = {name: (task["task_type"], task.get("downstream_task_ids", [])) for name, task in tasks.items()}
    assert kinds.pop("orders.load") == ("BatchJobOperator", sorted(kinds)), "every task reads its shard, or comes last"
    assert kinds == {
        "orders.process.validate": ("BatchStepOperator", ["orders.process.double"]),
        "orders.process.double": ("BatchStepOperator", ["orders.process.store"]),
        "orders.process.store": ("BatchAggregatorOperator", ["orders.process.quarantine"]),
        "orders.process.quarantine": ("BatchStepOperator", ["orders.on_complete"]),
        "orders.on_complete": ("BatchOnCompleteOperator", []),
    }
    assert tasks["orders.on_complete"]["trigger_rule"] == "all_done"
    assert tasks["orders.process.validate"]["weight_rule"] == "upstream"


def test_a_serialized_job_is_the_same_in_every_process():
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SERIALIZE],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    first, second = (json.loads(process.communicate()[0].splitlines()[-1]) for process in processes)

    assert set(first["hashes"]) >= {"small", "two_stages", "dated"}
    assert first["hashes"] == second["hashes"]
    for process_bound in (" at 0x", "<function", "<lambda", "object at"):
        assert process_bound not in first["text"]


# --- wrong definitions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        pytest.param(
            "two_steps_of_one_name",
            "DuplicateStepError: Job 'orders' has two steps named 'check'; give each step a name of its own.",
            id="two-steps-of-one-name",
        ),
        pytest.param(
            "bad_expression",
            "InvalidExpressionError: The expression 'amount >' in step 'check' of job 'orders' cannot be used: "
            'syntax error at or near ">". Write '
            "one scalar SQL expression over the record's columns, for example \"amount > 0 AND country = 'NL'\".",
            id="bad-expression",
        ),
        pytest.param(
            "block_of_nothing",
            "InvalidOptionError: block_size=0 is not allowed in job 'orders'; use a whole number, 1 or more or 'auto'.",
            id="block-size-0",
        ),
        pytest.param(
            "limit_below_never",
            "InvalidOptionError: max_failed_records=-2 is not allowed in job 'orders'; use -1 (never stop), 0 "
            "(stop at the first) or "
            "more.",
            id="max-failed-records-minus-2",
        ),
        pytest.param(
            "unknown_policy",
            "InvalidOptionError: accept_policy='SOME_FAILURES' is not allowed in step 'check' of job 'orders'; "
            "use NO_FAILURES or ONLY_FAILURES or "
            "ALL.",
            id="unknown-accept-policy",
        ),
        pytest.param(
            "two_jobs_of_one_name",
            "JobDefinitionError: DAG 'two_jobs_of_one_name' has two jobs named 'orders'; give each job a name of its "
            "own.",
            id="two-jobs-of-one-name",
        ),
        pytest.param(
            "two_jobs_of_one_name_in_groups",
            "JobDefinitionError: DAG 'two_jobs_of_one_name_in_groups' has two jobs named 'orders'; give each job a "
            "name of its own.",
            id="two-jobs-of-one-name-in-two-groups",
        ),
        pytest.param(
            "job_in_a_mapped_group",
            "JobDefinitionError: Job 'orders' stands inside the mapped group 'each', which Airflow cannot map again; "
            "use one DAG run for each input instead.",
            id="job-in-a-mapped-group",
        ),
        pytest.param(
            "no_source",
            "JobDefinitionError: Job 'orders' has no source; give it source=Files(…), Sql(…) or Records(…).",
            id="no-source",
        ),
        pytest.param(
            "no_steps",
            "JobDefinitionError: Job 'orders' has no steps; declare at least one, for example with @job.step.",
            id="no-steps",
        ),
    ],
)
def test_a_wrong_definition_fails_at_parse_with_one_sentence(airflow_db, file, sentence):
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(BROKEN / f"{file}.py")

    (error,) = bag.import_errors.values()
    assert bag.dags == {}
    assert error.strip().splitlines()[-1] == f"batch_provider.domain.errors.{sentence}"


# --- a job beside other tasks ------------------------------------------------------------------------------


def a_job(name):
    with BatchJob(name, source=Records([])) as job:

        @job.step
        def check(record): ...

    return job


def a_group(name):
    with TaskGroup(name) as group:
        EmptyOperator(task_id="inside")
    return group


@task
def called(): ...


def a_task(name):
    return EmptyOperator(task_id=name)


BEFORE = {("a", "job.load")}
AFTER = {("job.on_complete", "b")}


@pytest.mark.parametrize(
    ("wire", "edges"),
    [
        pytest.param(lambda: a_task("a") >> a_job("job"), BEFORE, id="task>>job"),
        pytest.param(lambda: a_job("job") << a_task("a"), BEFORE, id="job<<task"),
        pytest.param(lambda: a_job("job") >> a_task("b"), AFTER, id="job>>task"),
        pytest.param(lambda: a_task("b") << a_job("job"), AFTER, id="task<<job"),
        pytest.param(lambda: a_task("a") >> a_job("job") >> a_task("b"), BEFORE | AFTER, id="task>>job>>task"),
        pytest.param(lambda: a_job("job") >> Label("then") >> a_task("b"), AFTER, id="job>>label>>task"),
        pytest.param(
            lambda: [a_task("a"), a_task("c")] >> a_job("job"), BEFORE | {("c", "job.load")}, id="[task,task]>>job"
        ),
        pytest.param(
            lambda: a_job("job") >> [a_task("b"), a_task("c")],
            AFTER | {("job.on_complete", "c")},
            id="job>>[task,task]",
        ),
        pytest.param(lambda: a_job("job") >> a_job("next"), {("job.on_complete", "next.load")}, id="job>>job"),
        pytest.param(lambda: a_job("next") << a_job("job"), {("job.on_complete", "next.load")}, id="job<<job"),
        pytest.param(
            lambda: [a_job("job"), a_job("other")] >> a_job("next"),
            {("job.on_complete", "next.load"), ("other.on_complete", "next.load")},
            id="[job,job]>>job",
        ),
        pytest.param(
            lambda: [a_job("job"), a_job("other")] >> a_task("b"),
            AFTER | {("other.on_complete", "b")},
            id="[job,job]>>task",
        ),
        pytest.param(
            lambda: called() >> a_job("job") >> a_group("group"),
            {("called", "job.load"), ("job.on_complete", "group.inside")},
            id="call>>job>>group",
        ),
        pytest.param(lambda: chain(a_task("a"), a_job("job"), a_task("b")), BEFORE | AFTER, id="chain"),
        pytest.param(
            lambda: chain(a_task("a"), [a_job("job"), a_job("other")], a_task("b")),
            BEFORE | AFTER | {("a", "other.load"), ("other.on_complete", "b")},
            id="chain-with-list",
        ),
        pytest.param(
            lambda: chain(a_job("job").group, a_job("next").group),
            {("job.on_complete", "next.load")},
            id="chain-of-the-groups-of-jobs",
        ),
    ],
)
def test_a_job_is_wired_like_a_task(wire, edges):
    assert edges_of(wire) == edges


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(lambda: chain(a_job("job"), a_job("next")), id="chain-of-two-jobs"),
        pytest.param(lambda: chain_linear(a_task("a"), a_job("job"), a_task("b")), id="chain_linear"),
        pytest.param(lambda: cross_downstream([a_job("job")], [a_task("b")]), id="cross_downstream"),
        pytest.param(lambda: a_task("a") >> Label("then") >> a_job("job"), id="task>>label>>job"),
    ],
)
def test_where_airflow_asks_for_its_own_classes_a_job_is_refused_and_its_group_is_not(wire):
    """These fail at parse, never silently; `job.group` is an Airflow task group and works in all of them."""
    with pytest.raises((TypeError, AttributeError)):
        edges_of(wire)


def edges_of(wire):
    """The edges that leave a job or a task; those within a job are left out."""
    with DAG("wired", schedule=None) as dag:
        wire()
    edges = {(task.task_id, after) for task in dag.tasks for after in task.downstream_task_ids}
    return {(one, other) for one, other in edges if one.partition(".")[0] != other.partition(".")[0]}


def test_on_code_change_reaches_a_step_however_it_is_declared():
    from batch_provider.decorators import batch_step_task

    def work(record): ...

    job = BatchJob("orders", source=Records([]), max_redrives=3)
    job.step(name="record", on_code_change="reprocess")(work)
    job.sql_step("sql", assign={"a": "1"}, on_code_change="reprocess")
    job.arrow_step(name="arrow", on_code_change="reprocess")(work)
    job.aggregator("sized", size=2, on_code_change="reprocess")(work)
    job.aggregator("stream", streaming=True, on_code_change="reprocess")(work)
    batch_step_task(job=job, shard={}, name="task", on_code_change="reprocess")(work)

    assert {step.name: step.on_code_change for step in job.spec.steps} == dict.fromkeys(
        ["record", "sql", "arrow", "sized", "stream", "task"], "reprocess"
    )
    assert job.spec.max_redrives == 3

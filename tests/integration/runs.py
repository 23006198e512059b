"""Runs a DAG of tests/dags in this process, and shows what became of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.sdk import DAG, timezone
from airflow.sdk.definitions.dag import _run_task
from airflow.serialization.definitions.dag import SerializedDAG
from airflow.serialization.serialized_objects import DagSerialization
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState, TaskInstanceState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy import delete, select

from batch_provider.domain.instance import JobInstance
from batch_provider.domain.names import default_instance_id
from batch_provider.domain.result import BatchJobResult
from batch_provider.engine.ports.clock import SystemClock
from batch_provider.storage.blobs.local import LocalBlobs
from batch_provider.storage.claims.generation import Generation
from batch_provider.storage.instances.store import InstanceStore

JOB = "orders"


@dataclass(frozen=True)
class Run:
    """What a DAG run left behind.

    Attributes:
        log: everything its tasks logged.
        out: the folder that its functions write to.
        instance_id: of its job, where the DAG gives it one.
    """

    dag_id: str
    run_id: str
    log: str
    storage: Path
    out: Path
    instance_id: str | None = None

    @property
    def state(self) -> str:
        """Of the DAG run."""
        with create_session() as session:
            wanted = select(DagRun.state).where(DagRun.dag_id == self.dag_id, DagRun.run_id == self.run_id)
            return str(session.scalar(wanted))

    @property
    def tasks(self) -> dict[str, str]:
        """Task id, with the index of a mapped one, → state."""
        return {_name(task): str(task.state) for task in self.task_instances()}

    @property
    def tries(self) -> dict[str, int]:
        """Task id, with the index of a mapped one, → how often it was tried."""
        return {_name(task): task.try_number for task in self.task_instances()}

    def task_instances(self) -> list[TaskInstance]:
        with create_session() as session:
            wanted = select(TaskInstance).where(TaskInstance.dag_id == self.dag_id, TaskInstance.run_id == self.run_id)
            return list(session.scalars(wanted))

    def xcoms(self) -> dict[tuple[str, str], Any]:
        """(Task, key) → value, for everything the run has pushed."""
        with create_session() as session:
            wanted = select(XComModel).where(XComModel.dag_id == self.dag_id, XComModel.run_id == self.run_id)
            found = list(session.scalars(wanted))
            return {(row.task_id, row.key): XComModel.deserialize_value(row) for row in found}

    @property
    def store(self) -> InstanceStore:
        identity = self.instance_id or default_instance_id(self.dag_id, self.run_id, JOB)
        instance = JobInstance(identity, self.dag_id, self.run_id, JOB)
        return InstanceStore(LocalBlobs(self.storage), SystemClock(), instance)

    @property
    def folder(self) -> Path:
        """Where its instance lies."""
        return self.storage / self.store.base

    @property
    def generation(self) -> Generation:
        latest = self.store.latest()
        assert latest is not None, "nothing was loaded"
        return latest

    @property
    def result(self) -> BatchJobResult:
        """As it was stored."""
        result = self.store.result()
        assert result is not None, "no result was stored"
        return result

    def written(self, name: str) -> list[Any]:
        """What the job's functions wrote to a file, line by line."""
        file = self.out / name
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def reported(self) -> BatchJobResult:
        """What the job's on_complete function was given, the last time."""
        return BatchJobResult.from_json(self.written("results")[-1])


class Runner:
    """Runs DAGs of tests/dags, every run with a store and a folder of its own unless told otherwise."""

    def __init__(self, dags: dict[str, DAG], storage: Path, out: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.dags, self.storage, self.out, self._capture = dags, storage, out, capture
        out.mkdir(exist_ok=True)

    def __call__(
        self,
        dag_id: str,
        source: Path,
        *,
        run_after: datetime | None = None,
        instance_id: str | None = None,
        **conf: Any,
    ) -> Run:
        """Run it to its end with `dag.test()`: a manual run without logical date, as the UI makes them."""
        self._capture.readouterr()
        conf = {"input": str(source), "out": str(self.out), **conf}
        run = self.dags[dag_id].test(run_conf=conf, logical_date=None, run_after=run_after)
        return self._ended(dag_id, run.run_id, instance_id)

    def without_waiting(self, dag_id: str, source: Path) -> Run:
        """The same, but for the second that `dag.test()` waits after every task that did not succeed."""
        now = timezone.utcnow()
        return self._made(
            dag_id, source, {}, run_id=f"manual__{now.isoformat()}", run_type=DagRunType.MANUAL, run_after=now
        )

    def scheduled(self, dag_id: str, source: Path, interval: tuple[datetime, datetime], **conf: Any) -> Run:
        """Run it as the scheduler would for that interval; `dag.test()` makes manual runs only."""
        with create_session() as session:
            session.execute(delete(DagRun).where(DagRun.dag_id == dag_id, DagRun.logical_date == interval[0]))
        return self._made(
            dag_id,
            source,
            conf,
            run_id=f"scheduled__{interval[1].isoformat()}",
            run_type=DagRunType.SCHEDULED,
            run_after=interval[1],
            logical_date=interval[0],
            data_interval=interval,
        )

    def _made(self, dag_id: str, source: Path, conf: dict[str, Any], *, run_id: str, **details: Any) -> Run:
        self._capture.readouterr()
        with create_session() as session:
            self._scheduler_dag(dag_id).create_dagrun(
                run_id=run_id,
                conf={"input": str(source), "out": str(self.out), **conf},
                triggered_by=DagRunTriggeredByType.TEST,
                state=DagRunState.RUNNING,
                session=session,
                **details,
            )
        return self._carry_on(dag_id, run_id)

    def _scheduler_dag(self, dag_id: str) -> SerializedDAG:
        return DagSerialization.deserialize_dag(DagSerialization.serialize_dag(self.dags[dag_id]))

    def clear(self, run: Run, task_ids: Iterable[str | tuple[str, int]]) -> Run:
        """Clear these tasks and those after them, as the UI does with Downstream ticked, and run them again."""
        self._capture.readouterr()
        dag = self._scheduler_dag(run.dag_id)
        wanted = list(task_ids)
        names = {task if isinstance(task, str) else task[0] for task in wanted}
        after = {task.task_id for name in names for task in dag.get_task(name).get_flat_relatives(upstream=False)}
        indexes = {task[1] for task in wanted if not isinstance(task, str)}
        mapped = {name for name in after if ".process" in name}
        also = [(name, index) for name in mapped for index in indexes] if indexes else [*mapped]
        with create_session() as session:
            dag.clear(
                task_ids=[*wanted, *also, *(after - mapped)],
                run_id=run.run_id,
                dag_run_state=DagRunState.RUNNING,
                session=session,
            )
        return self._carry_on(run.dag_id, run.run_id, run.instance_id)

    def clear_alone(self, run: Run, tasks: Iterable[tuple[str, int]]) -> Run:
        """Clear these mapped tasks and nothing after them, and run them again."""
        self._capture.readouterr()
        with create_session() as session:
            self._scheduler_dag(run.dag_id).clear(
                task_ids=list(tasks), run_id=run.run_id, dag_run_state=DagRunState.RUNNING, session=session
            )
        return self._carry_on(run.dag_id, run.run_id, run.instance_id)

    def _carry_on(self, dag_id: str, run_id: str, instance_id: str | None = None) -> Run:
        """What `dag.test()` does once it has a run."""
        dag, scheduler_dag = self.dags[dag_id], self._scheduler_dag(dag_id)
        with create_session() as session:
            run = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
            assert run is not None
            run.dag = scheduler_dag
            while run.state == DagRunState.RUNNING:
                session.expire_all()
                before = _states(run)
                ready, _ = run.update_state(session=session)
                for task in ready:
                    task.try_number += 1
                    task.state = TaskInstanceState.SCHEDULED
                session.commit()
                moving = ready or run.state != DagRunState.RUNNING or _states(run) != before
                assert moving, "nothing can run, and the run has not ended"
                for task in ready:
                    _run_task(ti=task, task=dag.task_dict[task.task_id], run_triggerer=True)
        return self._ended(dag_id, run_id, instance_id)

    def _ended(self, dag_id: str, run_id: str, instance_id: str | None) -> Run:
        log = self._capture.readouterr().out
        sys.stdout.write(log)  # so that a failing test shows it
        return Run(dag_id, run_id, log, self.storage, self.out, instance_id)


def _states(run: DagRun) -> dict[str, str]:
    return {_name(task): str(task.state) for task in run.get_task_instances()}


def _name(task: TaskInstance) -> str:
    return task.task_id if task.map_index < 0 else f"{task.task_id}[{task.map_index}]"

"""Runs a DAG on a real Airflow, and reads its job's instance from the store."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

from batch_provider.domain.instance import Claim, JobInstance
from batch_provider.domain.names import default_instance_id
from batch_provider.domain.result import BatchJobResult
from batch_provider.engine.ports.clock import SystemClock
from batch_provider.storage.blobs.local import LocalBlobs
from batch_provider.storage.claims.generation import Generation
from batch_provider.storage.instances.store import InstanceStore
from scripts.local_airflow import LocalAirflow

T = TypeVar("T")


@dataclass(frozen=True)
class Instance:
    """A job's instance in one DAG run."""

    airflow: LocalAirflow
    dag_id: str
    run_id: str
    job: str

    @classmethod
    def start(cls, airflow: LocalAirflow, dag_id: str, job: str, conf: dict[str, Any] | None = None) -> Instance:
        airflow.wait_for_dag(dag_id)
        return cls(airflow, dag_id, airflow.trigger(dag_id, conf), job)

    @property
    def store(self) -> InstanceStore:
        identity = default_instance_id(self.dag_id, self.run_id, self.job)
        owner = JobInstance(identity, self.dag_id, self.run_id, self.job)
        return InstanceStore(LocalBlobs(self.airflow.storage_path), SystemClock(), owner)

    @property
    def generation(self) -> Generation:
        latest = self.store.latest()
        assert latest is not None, "nothing is loaded"
        return latest

    @property
    def folder(self) -> Path:
        """Of the generation."""
        return self.airflow.storage_path / self.generation.base

    @property
    def result(self) -> BatchJobResult:
        result = self.store.result()
        assert result is not None, "there is no result"
        return result

    def end(self, timeout: float) -> str:
        """Wait until the run has ended; returns its state."""
        return self.airflow.wait_for_run(self.dag_id, self.run_id, timeout)

    def task(self, task_id: str, map_index: int = -1) -> dict[str, Any]:
        """A task instance as the API describes it."""
        path = f"dags/{self.dag_id}/dagRuns/{self.run_id}/taskInstances/{task_id}"
        task: dict[str, Any] = self.airflow.api("GET", path if map_index < 0 else f"{path}/{map_index}")
        return task

    def working(self, step: str, shard: str, blocks: int) -> Claim | None:
        """The claim that a task holds now, once it has committed so many blocks and not yet all."""
        if self.store.latest() is None:
            return None
        claim = self.generation.highest_claim(step, shard)
        if claim is None or len(self.generation.current_files(step, shard)) < blocks:
            return None
        assert self.generation.close_of(step, shard, claim.id) is None, "it was too quick to be interrupted"
        return claim

    def successor(self, claim: Claim) -> Claim | None:
        """The claim that has fenced another one."""
        highest = self.generation.highest_claim(claim.step, claim.shard)
        return highest if highest is not None and highest.id > claim.id else None

    def process_of(self, claim: Claim) -> psutil.Process:
        """The process of the task that holds a claim; its parent is the supervisor."""
        (process,) = [process for process in self.airflow.processes() if process.pid == claim.info.pid]
        return process


def until(look: Callable[[], T | None], timeout: float, what: str) -> T:
    """Look again until there is something."""
    deadline = time.monotonic() + timeout
    while (found := look()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {timeout:g} s: {what}")
        time.sleep(0.05)
    return found

"""The builder: declares a job in Python and wires the public operators; no logic that runs in a task.

Airflow is imported only when a DAG is being defined, so a job also runs in a plain process (``job.run()``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from batch_provider.domain.accept import AcceptPolicy
from batch_provider.domain.errors import DuplicateStepError, JobDefinitionError
from batch_provider.domain.limits import FailureLimit
from batch_provider.domain.result import BatchJobResult
from batch_provider.domain.spec import (
    AUTO,
    AcceptExpression,
    AggregatorSpec,
    JobSpec,
    StepSpec,
)

if TYPE_CHECKING:
    from airflow.sdk import TaskGroup

F = TypeVar("F", bound=Callable[..., Any])


class BatchJob:
    """A batch job, declared inside ``with``; in a DAG it becomes a task group of that name.

    Args:
        name: of the job and its task group, unique in the DAG.
        source: where the records come from: ``Files``, ``Sql`` or ``Records``; may hold templates.
        max_failed_records: 0 stops at the first failure, -1 never stops; None: ``[batch_provider]
            max_failed_records``, whose default is 0.
        max_failed_ratio: failed / finished records that stop the job, 0 to 1.
        minimum_sample: records that must be finished before the ratio is looked at.
        block_size: records in a checkpoint, or ``auto``; None: ``[batch_provider] block_size``.
        shards: mapped tasks for each step; None: from the input's size and the worker slots.
        max_records: more than these in the input fail the load.
        variables: what every record's variables start with.
        job_instance_id: templated; None: from DAG id, run id and job name.
        task_options: Airflow options for every task of the job (``pool``, ``retries``, …).

    Raises:
        JobDefinitionError: the declaration cannot run; at parse, with one sentence that says why.
    """

    def __init__(  # noqa: PLR0913  # each is an option of the job, by keyword
        self,
        name: str,
        source: Any = None,
        *,
        max_failed_records: int | None = None,
        max_failed_ratio: float | None = None,
        minimum_sample: int = 1_000,
        block_size: int | str | None = None,
        shards: int | None = None,
        max_records: int | None = None,
        variables: Mapping[str, Any] | None = None,
        job_instance_id: str | None = None,
        task_options: Mapping[str, Any] | None = None,
    ) -> None:
        settings = _settings() if max_failed_records is None or block_size is None else None
        if max_failed_records is None:
            max_failed_records = settings.max_failed_records if settings else 0
        if block_size is None:
            block_size = (settings.block_size if settings else None) or AUTO
        self._base = JobSpec(
            name,
            source=source,
            limit=FailureLimit(max_failed_records, max_failed_ratio, minimum_sample),
            block_size=block_size,
            shards=shards,
            max_records=max_records,
            variables=variables or {},
        )
        self._steps: list[StepSpec] = []
        self._on_complete: Callable[..., Any] | None = None
        self._instance_id = job_instance_id
        self._task_options = dict(task_options or {})
        self.group: TaskGroup | None = None

    # --- declaring --------------------------------------------------------------------------------------------

    @overload
    def step(self, function: F, /) -> F: ...

    @overload
    def step(
        self,
        *,
        name: str | None = None,
        accept_policy: AcceptPolicy | str = AcceptPolicy.NO_FAILURES,
        accept_expression: AcceptExpression | None = None,
        reads: Iterable[str] | None = None,
        drop: Iterable[str] = (),
        output: str = "patch",
        **task_options: Any,
    ) -> Callable[[F], F]: ...

    def step(self, function: Any = None, /, **options: Any) -> Any:  # type: ignore[misc]  # mypy: a / hides "function"
        """Declare a step whose function is called for each record; the function stays what it was.

        Args:
            function: takes the payload (a dict) and, if its signature names them, ``variables``, ``failures``,
                ``record_id``, ``instance`` and names of Airflow's context. It returns a patch or None.
            **options: ``name`` (default: the function's), those of :class:`StepSpec`, and Airflow options of the
                step's tasks.
        """
        name = options.pop("name", None)

        def declare(declared: F) -> F:
            self._add(name or declared.__name__, declared, None, options)
            return declared

        return declare(function) if function is not None else declare

    def aggregator(
        self,
        name: str | None = None,
        *,
        size: int | None = None,
        streaming: bool = False,
        on_error: str = "fail_group",
        **options: Any,
    ) -> Callable[[F], F]:
        """Declare an aggregator: a step whose function is called for groups of records.

        Args:
            name: of the step; default: the function's.
            size: records in a group (sized); the last group of a shard may be smaller.
            streaming: one call with every record of the step.
            on_error: ``fail_group`` or ``isolate``.
            **options: of :class:`StepSpec`; others are Airflow options of the step's tasks.
        """
        spec = AggregatorSpec(size=size, streaming=streaming, on_error=on_error)

        def declare(declared: F) -> F:
            self._add(name or declared.__name__, declared, spec, options)
            return declared

        return declare

    def on_complete(self, function: F) -> F:
        """Declare the function that gets the result, after the report is written."""
        if self._on_complete is not None:
            raise JobDefinitionError(f"Job {self.name!r} has two on_complete functions; keep one.")
        self._on_complete = function
        return function

    def _add(
        self,
        name: str,
        function: Callable[..., Any],
        aggregator: AggregatorSpec | None,
        options: dict[str, Any],
    ) -> None:
        if any(step.name == name for step in self._steps):
            raise DuplicateStepError(self.name, name)
        own = {key: options.pop(key) for key in list(options) if key in StepSpec.__dataclass_fields__}
        step = StepSpec(name, function, aggregator=aggregator, task_options=options, **own)
        if isinstance(step.accept_expression, str):
            from batch_provider.engine.expressions import check_expression

            check_expression(step.accept_expression)
        self._steps.append(step)

    @property
    def name(self) -> str:
        """Of the job."""
        return self._base.name

    @property
    def spec(self) -> JobSpec:
        """The job as declared so far."""
        from dataclasses import replace

        return replace(self._base, steps=tuple(self._steps), on_complete=self._on_complete)

    # --- running without Airflow ------------------------------------------------------------------------------

    def run(self, records: Any = None, **options: Any) -> BatchJobResult:
        """Run the job in this process, without any Airflow database: for notebooks and unit tests.

        Args:
            records: its input (anything ``Records`` takes, or a source); None: the job's own source.
            **options: of :class:`batch_provider.testing.LocalRun`.
        """
        from batch_provider.testing.local import run_job

        return run_job(self.spec, records, **options)

    # --- wiring -----------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Begin to declare."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wire the operators, if a DAG is being defined."""
        if kind is None and (dag := _current_dag()) is not None:
            from batch_provider.operators.wire import wire_job

            self.group = wire_job(dag, self.spec, self._instance_id, self._task_options)

    def _wired(self) -> TaskGroup:
        if self.group is None:
            raise JobDefinitionError(f"Job {self.name!r} has no tasks: declare it inside a DAG, and close its with.")
        return self.group

    @property
    def roots(self) -> Any:
        """The first tasks, for ``task >> job``."""
        return self._wired().roots

    @property
    def leaves(self) -> Any:
        """The last tasks, for ``job >> task``."""
        return self._wired().leaves

    def update_relative(self, other: Any, upstream: bool = True, edge_modifier: Any = None) -> None:
        """Airflow's side of ``task >> job``."""
        self._wired().update_relative(other, upstream, edge_modifier)

    def __rshift__(self, other: Any) -> Any:
        """``job >> task``."""
        self._wired().set_downstream(_node(other))
        return other

    def __lshift__(self, other: Any) -> Any:
        """``job << task``."""
        self._wired().set_upstream(_node(other))
        return other

    def __rrshift__(self, other: Any) -> Self:
        """``[task, …] >> job``."""
        self << other
        return self

    def __rlshift__(self, other: Any) -> Self:
        """``[task, …] << job``."""
        self >> other
        return self


def _node(other: Any) -> Any:
    return other._wired() if isinstance(other, BatchJob) else other


def _current_dag() -> Any:
    """The DAG being defined, without importing Airflow: if nobody has imported it, there is none."""
    contexts = sys.modules.get("airflow.sdk.definitions._internal.contextmanager")
    return contexts.DagContext.get_current() if contexts is not None else None


def _settings() -> Any:
    """The installation's defaults, when a DAG is being defined."""
    if _current_dag() is None:
        return None
    from batch_provider.config import load_settings

    return load_settings()

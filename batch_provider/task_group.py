"""The builder: declares a job in Python and wires the public operators; no logic that runs in a task.

Airflow is imported only when a DAG is being defined, so a job also runs in a plain process (``job.run()``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from batch_provider.domain.accept import AcceptPolicy
from batch_provider.domain.declare import name_of, placing, step_of_options
from batch_provider.domain.errors import DuplicateStepError, InvalidOptionError, JobDefinitionError
from batch_provider.domain.limits import FailureLimit
from batch_provider.domain.result import BatchJobResult
from batch_provider.domain.spec import (
    AUTO,
    AcceptExpression,
    AggregatorSpec,
    JobSpec,
    SqlSpec,
    StepSpec,
    WriterSpec,
)
from batch_provider.operators.node import JobNode, current_dag

F = TypeVar("F", bound=Callable[..., Any])


class BatchJob(JobNode):
    """A batch job, declared inside ``with``; in a DAG it becomes a task group of that name.

    Args:
        name: of the job and its task group, unique in the DAG.
        source: where the records come from: ``Files``, ``Sql`` or ``Records``; may hold templates.
        max_failed_records: 0 stops at the first failure, -1 never stops; None: ``[batch_provider]
            max_failed_records``, whose default is 0, or no count at all beside a ratio.
        max_failed_ratio: failed / finished records that stop the job, 0 to 1.
        minimum_sample: records that must be finished before the ratio is looked at.
        block_size: records in a checkpoint, or ``auto``; None: ``[batch_provider] block_size``.
        shards: mapped tasks for each step; None: from the input's size and the worker slots.
        sla: how long an instance may take, from the start of its load, or of the rerun.
        on_sla: ``alert`` says so and goes on; ``stop`` stops at the next block boundary, and a rerun carries on.
        max_records: more than these in the input fail the load.
        min_records: fewer than these do; None: an empty input is a success.
        max_redrives: a record that failed in so many redrives of a step is not tried again; None: any number.
        max_process_deaths: after so many attempts that died at the same place, the next one runs the step in a child
            process, and a record that kills it fails alone; 0: every attempt runs it so.
        variables: what every record's variables start with.
        fuse_steps: one mapped task for each shard and stage, with as few checkpoints as possible.
        alert_conn_id: Airflow connection (smtp or http) for the alerts the job sends by itself: it is late and
            ``on_sla`` is ``alert``, or records failed under ``max_failed_records=-1``.
        scheduling: ``ordered_sequential``: once loaded, an instance waits (holding no worker slot) until those that
            were loaded before it and whose DAG run is running are done; ``round_robin``: they run side by side.
        max_concurrency: at most so many tasks of one instance run at a time; bounds the number of shards.
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
        sla: timedelta | None = None,
        on_sla: str = "alert",
        max_records: int | None = None,
        min_records: int | None = None,
        max_redrives: int | None = None,
        max_process_deaths: int = 2,
        variables: Mapping[str, Any] | None = None,
        fuse_steps: bool = False,
        alert_conn_id: str | None = None,
        scheduling: str = "ordered_sequential",
        max_concurrency: int | None = None,
        job_instance_id: str | None = None,
        task_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(name, job_instance_id, task_options or {})
        settings = _settings() if max_failed_records is None or block_size is None else None
        if max_failed_records is None:  # a ratio alone is what the author wants, and no default stands beside it
            alone = max_failed_ratio is not None
            max_failed_records = settings.max_failed_records if settings and not alone else 0
        if block_size is None:
            block_size = (settings.block_size if settings else None) or AUTO
        with placing(f" in job {name!r}"):
            self._base = JobSpec(
                name,
                source=source,
                limit=FailureLimit(max_failed_records, max_failed_ratio, minimum_sample),
                block_size=block_size,
                shards=shards,
                sla=sla,
                on_sla=on_sla,
                max_records=max_records,
                min_records=min_records,
                max_redrives=max_redrives,
                max_process_deaths=max_process_deaths,
                variables=variables or {},
                alert_conn_id=alert_conn_id,
                scheduling=scheduling,
                max_concurrency=max_concurrency,
                fuse_steps=fuse_steps,
            )
        self._steps: list[StepSpec] = []
        self._on_complete: Callable[..., Any] | None = None

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
        writes: Iterable[str] | None = None,
        drop: Iterable[str] = (),
        output: str = "patch",
        on_code_change: str = "keep",
        retries: int = 0,
        retry_on: type[Exception] | tuple[type[Exception], ...] = Exception,
        retry_delay: float | timedelta = 0.1,
        max_retry_delay: float | timedelta = 30.0,
        timeout: float | timedelta | None = None,
        concurrency: int = 1,
        transaction: str | None = None,
        **task_options: Any,
    ) -> Callable[[F], F]: ...

    def step(self, function: Any = None, /, **options: Any) -> Any:  # type: ignore[misc]  # mypy: a / hides "function"
        """Declare a step whose function is called for each record; the function stays what it was.

        Args:
            function: takes the payload (a dict) and, if its signature names them, ``variables``, ``failures``,
                ``record_id``, ``instance`` and names of Airflow's context. It returns a patch or None.
            **options: ``name`` (default: the function's), those of :class:`StepSpec` and :class:`CallPolicy`
                (``retries`` are of a record), and Airflow options of the step's tasks: by keyword (``pool``,
                ``queue``, …), or in ``task_options={"retries": 2}`` where a name means both.
        """
        declare = self._declaring(options.pop("name", None), None, options)
        return declare(function) if function is not None else declare

    def aggregator(
        self,
        name: str | None = None,
        *,
        size: int | None = None,
        streaming: bool = False,
        on_error: str = "fail_group",
        on_redrive: str = "new",
        transaction: str | None = None,
        **options: Any,
    ) -> Callable[[F], F]:
        """Declare an aggregator: a step whose function is called for groups of records.

        Args:
            name: of the step; default: the function's.
            size: records in a group (sized); the last group of a shard may be smaller.
            streaming: one call with every record of the step.
            on_error: ``fail_group`` or ``isolate``.
            on_redrive: what a streaming aggregator gets in a redrive: ``new`` records only, or ``all``.
            transaction: Airflow connection that the function gets as ``connection``; what it does there is
                committed with the group, or rolled back when the function raises.
            **options: of :class:`StepSpec`; others are Airflow options of the step's tasks.
        """
        spec = AggregatorSpec(size, streaming, on_error, on_redrive, transaction)
        return self._declaring(name, spec, options)

    def write(self, name: str, writer: Any, *, size: int = 10_000, **options: Any) -> None:
        """Declare a step that writes the accepted records through a built-in writer, each exactly once.

        Args:
            name: of the step.
            writer: such as ``SqlTable``; a record that the target refuses fails alone.
            size: records in a group, and so in a transaction.
            **options: of :class:`StepSpec`; others are Airflow options of the step's tasks.
        """
        with placing(f" in step {name!r} of job {self.name!r}"):
            spec, target = AggregatorSpec(size, on_error="isolate"), WriterSpec(writer)
        self._add(name, target, spec, options)

    def sql_step(
        self,
        name: str,
        *,
        checks: Mapping[str, str] | None = None,
        assign: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        """Declare a step of SQL expressions, vectorised in DuckDB, row by row by construction.

        Args:
            name: of the step.
            checks: message → boolean expression; a record for which it is not true fails with the message.
            assign: column → expression, for the records that passed.
            **options: of :class:`StepSpec`; others are Airflow options of the step's tasks.
        """
        with placing(f" in step {name!r} of job {self.name!r}"):
            sql = SqlSpec(checks or {}, assign or {})
        self._add(name, sql, None, options)

    def arrow_step(self, function: Any = None, /, **options: Any) -> Any:
        """Declare a step whose function takes a RecordBatch and returns one with as many rows, or ``failed(…)``.

        Args:
            function: takes a block's accepted records and, if its signature names it, ``record_ids``. Columns of
                the returned batch are added or replaced; None: nothing changes. If it raises, the block is halved
                until the bad records stand alone.
            **options: ``name`` (default: the function's), those of :class:`StepSpec`, and Airflow options.
        """
        declare = self._declaring(options.pop("name", None), None, {**options, "vectorised": True})
        return declare(function) if function is not None else declare

    def on_complete(self, function: F) -> F:
        """Declare the function that gets the result, after the report is written."""
        if self._on_complete is not None:
            raise JobDefinitionError(f"Job {self.name!r} has two on_complete functions; keep one.")
        self._on_complete = function
        return function

    def _declaring(
        self, name: str | None, aggregator: AggregatorSpec | None, options: dict[str, Any]
    ) -> Callable[[F], F]:
        """A decorator that adds a step and gives the function back as it was."""

        def declare(function: F) -> F:
            self._add(name or name_of(function), function, aggregator, options)
            return function

        return declare

    def _add(
        self,
        name: str,
        function: Callable[..., Any] | SqlSpec | WriterSpec,
        aggregator: AggregatorSpec | None,
        options: dict[str, Any],
    ) -> None:
        if any(step.name == name for step in self._steps):
            raise DuplicateStepError(self.name, name)
        with placing(f" in step {name!r} of job {self.name!r}"):
            step = step_of_options(name, function, aggregator, options)
            if step.expressions:
                from batch_provider.engine.expressions.evaluate import check_expression

                for expression in step.expressions:
                    check_expression(expression)
            self._steps.append(step)
        self._check_names()

    def _check_names(self) -> None:
        """Refuse a name that no record can have, where contract and steps say what there can be."""
        from batch_provider.engine.expressions.names import check_names, declared_columns

        job = self.spec
        if (columns := declared_columns(job)) is not None:
            check_names(job, columns)

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

        if records is None and self._base.source is None:
            raise InvalidOptionError("records", None, f"some input: job {self.name!r} has no source of its own")
        return run_job(self.spec, records, **options)

    # --- wiring -----------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Begin to declare."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wire the operators, if a DAG is being defined."""
        if kind is None and (dag := current_dag()) is not None:
            from batch_provider.operators.wire import wire_job

            self.group = wire_job(dag, self.spec, self.job_instance_id, self.task_options)


def _settings() -> Any:
    """The installation's defaults, when a DAG is being defined."""
    if current_dag() is None:
        return None
    from batch_provider.config import load_settings

    return load_settings()

"""What an author declares: a job, its steps and their options. Frozen, checked when made, with a stable repr."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from inspect import iscoroutinefunction
from types import MappingProxyType
from typing import Any

from batch_provider.domain.accept import AcceptPolicy
from batch_provider.domain.errors import DuplicateStepError, InvalidExpressionError, InvalidOptionError
from batch_provider.domain.limits import FailureLimit
from batch_provider.domain.names import check_name
from batch_provider.domain.options import check_choice, check_columns, check_count, set_frozen
from batch_provider.domain.work import AggregatorSpec, CallPolicy, SqlSpec, WriterSpec

__all__ = ["AUTO", "AcceptExpression", "AggregatorSpec", "CallPolicy", "JobSpec", "SqlSpec", "StepSpec", "WriterSpec"]

AUTO = "auto"
ON_SLA = ("alert", "stop")
ORDERED = "ordered_sequential"
SCHEDULING = (ORDERED, "round_robin")
OUTPUTS = ("patch", "replace")
ON_CODE_CHANGE = ("keep", "reprocess")

AcceptExpression = str | Callable[..., object]


@dataclass(frozen=True, repr=False)
class StepSpec:
    """A step: the function, the rule by which it takes records, and how it works.

    Attributes:
        name: unique in the job; the Airflow task id inside the job's group.
        function: called with each record's payload (a dict), with a group's when ``aggregator`` is given, or with
            a RecordBatch when ``vectorised``; or the expressions of a SQL step.
        accept_policy: which records it takes by their failures; asked first.
        accept_expression: a SQL boolean over the record's columns, or a callable; asked second.
        reads: only these columns are converted for the function; None: all.
        writes: the columns that its function may add or change; None: any. What names a column that no step adds is
            then refused before the job runs.
        drop: columns removed from the payload of the records it processed.
        output: ``patch``: the returned keys are added or replaced; ``replace``: the returned dict is the payload.
        calls: retries, time limit and concurrency of the calls.
        aggregator: makes the step an aggregator.
        transaction: Airflow connection that the function of a record step gets as ``connection``: what it does there
            is committed when the call returns, and rolled back when it raises, for each record. It returns nothing.
        vectorised: the function takes and returns Arrow RecordBatches.
        on_code_change: what becomes of the records that an older version of the step's code or options has done, at
            the next attempt: ``keep`` them, or ``reprocess`` them all.
        task_options: Airflow options of the step's tasks (``pool``, ``retries``, ``queue``, …).
    """

    name: str
    function: Callable[..., Any] | SqlSpec | WriterSpec
    accept_policy: AcceptPolicy = AcceptPolicy.NO_FAILURES
    accept_expression: AcceptExpression | None = None
    reads: tuple[str, ...] | None = None
    drop: tuple[str, ...] = ()
    output: str = "patch"
    calls: CallPolicy = field(default_factory=CallPolicy)
    aggregator: AggregatorSpec | None = None
    vectorised: bool = False
    on_code_change: str = "keep"
    transaction: str | None = None
    writes: tuple[str, ...] | None = None
    task_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what could not run."""
        check_name("step", self.name)
        if not callable(self.function) and not isinstance(self.function, (SqlSpec, WriterSpec)):
            raise InvalidOptionError(f"function of step {self.name!r}", self.function, "a callable")
        set_frozen(self, "accept_policy", AcceptPolicy.of(self.accept_policy))
        set_frozen(self, "reads", check_columns("reads", self.reads))
        self._check_writes()
        set_frozen(self, "drop", check_columns("drop", self.drop) or ())
        set_frozen(self, "task_options", MappingProxyType(dict(self.task_options)))
        check_choice("output", self.output, OUTPUTS)
        check_choice("on_code_change", self.on_code_change, ON_CODE_CHANGE)
        if isinstance(self.function, WriterSpec) and self.on_code_change != "keep":
            raise InvalidOptionError("on_code_change", self.on_code_change, "'keep': a writer writes each record once")
        if self.is_record_step:
            pass
        elif self.output != "patch" or (self.drop and self.aggregator is not None):
            raise InvalidOptionError("drop or output", self.drop or self.output, "them on record steps only")
        elif not self.calls.is_plain:
            raise InvalidOptionError("calls", self.calls, "retries, timeout and concurrency on record steps only")
        if self.transaction is not None:
            self._check_transaction()
        if self.aggregator is not None and (self.vectorised or isinstance(self.function, SqlSpec)):
            raise InvalidOptionError(
                f"aggregator of step {self.name!r}",
                self.function,
                "a function that takes a list of records: what is vectorised takes blocks",
            )
        expression = self.accept_expression
        if isinstance(expression, str) and not expression.strip():
            raise InvalidExpressionError(expression, "it is empty")
        if expression is not None and not isinstance(expression, str) and not callable(expression):
            raise InvalidOptionError("accept_expression", expression, "a SQL expression or a callable")

    def _check_writes(self) -> None:
        set_frozen(self, "writes", check_columns("writes", self.writes))
        if self.writes is not None and (not callable(self.function) or self.is_streaming or self.transaction):
            raise InvalidOptionError("writes", self.writes, "it on a step whose function returns columns")

    def _check_transaction(self) -> None:
        """One connection, one record at a time, and no output that a crash after the commit could lose."""
        if not (isinstance(self.transaction, str) and self.transaction and self.is_record_step):
            raise InvalidOptionError("transaction", self.transaction, "the id of a connection, and it on a record step")
        is_async = iscoroutinefunction(self.function) or iscoroutinefunction(getattr(self.function, "__call__", None))  # noqa: B004
        if is_async or self.calls.timeout is not None or self.calls.concurrency > 1 or self.output != "patch":
            one = "a plain function without timeout, concurrency and output beside it: records share one connection"
            raise InvalidOptionError("transaction", self.transaction, one)
        if self.on_code_change != "keep":
            never = "'keep' with transaction=: a record whose transaction is committed is never called again"
            raise InvalidOptionError("on_code_change", self.on_code_change, never)

    @property
    def call(self) -> Callable[..., Any]:
        """The author's function.

        Raises:
            TypeError: a SQL step and a writer have none.
        """
        if isinstance(self.function, (SqlSpec, WriterSpec)):
            raise TypeError(f"step {self.name!r} is made of {self.function}: it calls no function")
        return self.function

    @property
    def writer(self) -> Any:
        """The built-in writer.

        Raises:
            TypeError: the step has none.
        """
        if not isinstance(self.function, WriterSpec):
            raise TypeError(f"step {self.name!r} has no writer")
        return self.function.writer

    @property
    def place(self) -> str | None:
        """What the writer of this step must not share with another step's; None: it shares."""
        return getattr(self.function.writer, "place", None) if isinstance(self.function, WriterSpec) else None

    @property
    def expressions(self) -> tuple[str, ...]:
        """Every SQL expression of the step, to be checked when the DAG is parsed."""
        accept = (self.accept_expression,) if isinstance(self.accept_expression, str) else ()
        sql = self.function if isinstance(self.function, SqlSpec) else None
        return accept if sql is None else (*accept, *sql.checks.values(), *sql.assign.values())

    @property
    def is_vector_step(self) -> bool:
        """Whether it works on blocks: a SQL or an Arrow step."""
        return self.vectorised or isinstance(self.function, SqlSpec)

    @property
    def is_record_step(self) -> bool:
        """Whether its function is called for each record."""
        return self.aggregator is None and not self.is_vector_step

    @property
    def is_streaming(self) -> bool:
        """Whether this is a streaming aggregator, which ends a stage."""
        return self.aggregator is not None and self.aggregator.streaming

    def __repr__(self) -> str:
        """Names and numbers only: a function's address would change the DAG's hash in every process."""
        kind = f", {self.aggregator}" if self.aggregator else ""
        return f"StepSpec({self.name!r}, {self.accept_policy}{kind})"


@dataclass(frozen=True, repr=False)
class JobSpec:
    """A declared job.

    Attributes:
        name: of the job, unique in its DAG.
        steps: in the order in which a record passes them.
        source: where the records come from.
        limit: how many records may fail.
        block_size: records in a block, or ``auto``: as many as take about a second, at most 16 MiB.
        shards: mapped tasks per step; None: from the input's size and the worker slots.
        sla: how long an instance may take, from the start of its load or of the rerun; None: as long as it takes.
        on_sla: ``alert``: say so and go on; ``stop``: stop at the next block boundary (STOPPED, a rerun carries on).
        max_records, min_records: more, or fewer, in the input fail the load before any processing; None: no check.
        max_redrives: a record that failed in so many redrives of a step is not tried again; None: any number.
        max_process_deaths: so many attempts may die at the same place of a shard; the next one works in a child
            process, finds what kills it and fails that alone. 0: every attempt does.
        variables: what every record's variables start with (JSON values).
        alert_conn_id: Airflow connection for the alerts the job sends by itself: the SLA has passed and
            ``on_sla`` is ``alert``; records failed under ``max_failed_records=-1``. None: it only logs them.
        on_complete: called with the result after the report is written.
        scheduling: ``ordered_sequential``: an instance whose input is loaded waits until those that were loaded
            before it are done; ``round_robin``: they run side by side (Mule's ``schedulingStrategy``).
        max_concurrency: running tasks of one instance, and so its shards; None: no bound (Mule's ``maxConcurrency``).
        fuse_steps: a shard passes the steps of a stage in one mapped task, with a checkpoint for each run of steps
            that can share one (see :func:`batch_provider.domain.fused.fuse`).
    """

    name: str
    steps: tuple[StepSpec, ...] = ()
    source: Any = None
    limit: FailureLimit = field(default_factory=FailureLimit)
    block_size: int | str = AUTO
    shards: int | None = None
    sla: timedelta | None = None
    on_sla: str = "alert"
    max_records: int | None = None
    min_records: int | None = None
    max_redrives: int | None = None
    max_process_deaths: int = 2
    variables: Mapping[str, Any] = field(default_factory=dict)
    alert_conn_id: str | None = None
    on_complete: Callable[..., Any] | None = None
    scheduling: str = ORDERED
    max_concurrency: int | None = None
    fuse_steps: bool = False

    def __post_init__(self) -> None:
        """Refuse what could not run."""
        check_name("job name", self.name)
        if self.block_size != AUTO:
            check_count("block_size", self.block_size, minimum=1, also=f"or {AUTO!r}")
        self._check_scheduling()
        self._check_amounts()
        if self.max_redrives is not None:
            check_count("max_redrives", self.max_redrives, minimum=0)
        check_count("max_process_deaths", self.max_process_deaths, minimum=0)
        sla: object = self.sla
        if sla is not None and not (isinstance(sla, timedelta) and sla > timedelta(0)):
            raise InvalidOptionError("sla", sla, "a timedelta above 0")
        check_choice("on_sla", self.on_sla, ON_SLA)
        self._check_steps()
        try:
            json.dumps(dict(self.variables))
        except (TypeError, ValueError) as error:
            raise InvalidOptionError("variables", self.variables, f"JSON values only ({error})") from None
        set_frozen(self, "variables", MappingProxyType(dict(self.variables)))

    def _check_amounts(self) -> None:
        if self.max_records is not None:
            check_count("max_records", self.max_records, minimum=1)
        if self.min_records is not None:
            check_count("min_records", self.min_records, minimum=0)
            if self.max_records is not None and self.min_records > self.max_records:
                raise InvalidOptionError("min_records", self.min_records, f"max_records={self.max_records} or fewer")

    def _check_scheduling(self) -> None:
        check_choice("scheduling", self.scheduling, SCHEDULING)
        if self.shards is not None:
            check_count("shards", self.shards, minimum=1, maximum=1_000)
        if self.max_concurrency is not None:
            check_count("max_concurrency", self.max_concurrency, minimum=1, maximum=1_000)
            if self.shards is not None and self.shards > self.max_concurrency:
                allowed = f"max_concurrency={self.max_concurrency} or fewer: a shard has one running task at a time"
                raise InvalidOptionError("shards", self.shards, allowed)

    def _check_steps(self) -> None:
        """Refuse steps that cannot stand side by side."""
        seen: set[str] = set()
        for step in self.steps:
            if step.name in seen:
                raise DuplicateStepError(self.name, step.name)
            seen.add(step.name)
            if self.fuse_steps and step.task_options:
                options = ", ".join(step.task_options)
                raise InvalidOptionError(
                    f"{options} of step {step.name!r}",
                    dict(step.task_options),
                    "task_options of the job: with fuse_steps=True the steps of a stage share one task",
                )
        places = [place for step in self.steps if (place := step.place) is not None]
        if twice := [place for place in places if places.count(place) > 1]:
            raise InvalidOptionError("url", twice[0], "a directory of its own for each writer of a job")

    def step(self, name: str) -> StepSpec:
        """The step of that name.

        Raises:
            InvalidOptionError: the job has none of that name.
        """
        for step in self.steps:
            if step.name == name:
                return step
        raise InvalidOptionError("step", name, "one of " + ", ".join(s.name for s in self.steps))

    def upstream_of(self, name: str) -> tuple[StepSpec, ...]:
        """The steps before ``name``, in order."""
        return self.steps[: self.steps.index(self.step(name))]

    def stages(self) -> tuple[tuple[StepSpec, ...], ...]:
        """The runs of steps between barriers; a streaming aggregator ends a stage."""
        found: list[tuple[StepSpec, ...]] = []
        current: list[StepSpec] = []
        for step in self.steps:
            current.append(step)
            if step.is_streaming:
                found.append(tuple(current))
                current = []
        if current:
            found.append(tuple(current))
        return tuple(found)

    def __repr__(self) -> str:
        """Names and numbers only, so that a serialised DAG is the same in every process."""
        return f"JobSpec({self.name!r}, steps=[{', '.join(s.name for s in self.steps)}], {self.limit})"

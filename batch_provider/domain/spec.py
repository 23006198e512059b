"""What an author declares: a job, its steps and their options. Frozen, checked when made, with a stable repr."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import Any

from batch_provider.domain.accept import AcceptPolicy
from batch_provider.domain.errors import DuplicateStepError, InvalidExpressionError, InvalidOptionError
from batch_provider.domain.limits import FailureLimit
from batch_provider.domain.names import RESERVED_COLUMNS, check_name

AUTO = "auto"
ON_ERROR = ("fail_group", "isolate")
ON_REDRIVE = ("new", "all")
ON_SLA = ("alert", "stop")
OUTPUTS = ("patch", "replace")

AcceptExpression = str | Callable[..., object]


@dataclass(frozen=True)
class AggregatorSpec:
    """A bulk action over a step's records: sized or streaming, never both.

    Attributes:
        size: records in a group; the last group of a shard may be smaller.
        streaming: one call with a forward-only iterator over every record of the step.
        on_error: ``fail_group`` fails every record of a group whose call raises; ``isolate`` halves the group
            until the bad records stand alone.
        on_redrive: what a streaming aggregator gets in a redrive: only the records that are new to it, or all.
    """

    size: int | None = None
    streaming: bool = False
    on_error: str = "fail_group"
    on_redrive: str = "new"

    def __post_init__(self) -> None:
        """Refuse a size beside streaming, or neither."""
        if self.streaming is (self.size is not None):
            raise InvalidOptionError("aggregator", repr(self), "either size=N or streaming=True, not both")
        if self.size is not None:
            check_count("size", self.size, minimum=1)
        check_choice("on_error", self.on_error, ON_ERROR)
        check_choice("on_redrive", self.on_redrive, ON_REDRIVE)
        if self.streaming and self.on_error == "isolate":
            raise InvalidOptionError("on_error", self.on_error, "'fail_group' with streaming=True")


@dataclass(frozen=True)
class CallPolicy:
    """How the function of a step is called for one record.

    Attributes:
        retries: further tries after the first that raised.
        retry_on: exceptions that are worth another try.
        retry_delay: seconds before the second try; doubled for each further one, with jitter.
        max_retry_delay: seconds; the longest wait.
        timeout: seconds that one try may take; None: any. A coroutine is cancelled; a plain function cannot be
            interrupted: its record fails, and the call is left behind in its thread.
        concurrency: calls at a time: coroutines on one event loop, plain functions in threads. The output keeps
            the order of the records.
    """

    retries: int = 0
    retry_on: tuple[type[Exception], ...] = (Exception,)
    retry_delay: float = 0.1
    max_retry_delay: float = 30.0
    timeout: float | None = None
    concurrency: int = 1

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        check_count("retries", self.retries, minimum=0, maximum=100)
        check_count("concurrency", self.concurrency, minimum=1, maximum=1_000)
        set_frozen(self, "retry_on", _exceptions(self.retry_on))
        set_frozen(self, "timeout", seconds_of("timeout", self.timeout) if self.timeout is not None else None)
        set_frozen(self, "retry_delay", seconds_of("retry_delay", self.retry_delay))
        set_frozen(self, "max_retry_delay", seconds_of("max_retry_delay", self.max_retry_delay))

    @property
    def is_plain(self) -> bool:
        """One try, in turn: the fast way."""
        return self.retries == 0 and self.timeout is None and self.concurrency == 1


@dataclass(frozen=True, repr=False)
class StepSpec:
    """A step: the function, the rule by which it takes records, and how it works.

    Attributes:
        name: unique in the job; the Airflow task id inside the job's group.
        function: called with each record's payload (a dict), or with a group's when ``aggregator`` is given.
        accept_policy: which records it takes by their failures; asked first.
        accept_expression: a SQL boolean over the record's columns, or a callable; asked second.
        reads: only these columns are converted for the function; None: all.
        drop: columns removed from the payload of the records it processed.
        output: ``patch``: the returned keys are added or replaced; ``replace``: the returned dict is the payload.
        calls: retries, time limit and concurrency of the calls.
        aggregator: makes the step an aggregator.
        task_options: Airflow options of the step's tasks (``pool``, ``retries``, ``queue``, …).
    """

    name: str
    function: Callable[..., Any]
    accept_policy: AcceptPolicy = AcceptPolicy.NO_FAILURES
    accept_expression: AcceptExpression | None = None
    reads: tuple[str, ...] | None = None
    drop: tuple[str, ...] = ()
    output: str = "patch"
    calls: CallPolicy = field(default_factory=CallPolicy)
    aggregator: AggregatorSpec | None = None
    task_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what could not run."""
        check_name("step", self.name)
        if not callable(self.function):
            raise InvalidOptionError(f"function of step {self.name!r}", self.function, "a callable")
        set_frozen(self, "accept_policy", AcceptPolicy.of(self.accept_policy))
        set_frozen(self, "reads", check_columns("reads", self.reads))
        set_frozen(self, "drop", check_columns("drop", self.drop) or ())
        set_frozen(self, "task_options", MappingProxyType(dict(self.task_options)))
        check_choice("output", self.output, OUTPUTS)
        if self.aggregator is not None and (self.drop or self.output != "patch"):
            raise InvalidOptionError("drop or output", self.drop or self.output, "them on record steps only")
        if self.aggregator is not None and not self.calls.is_plain:
            raise InvalidOptionError("calls", self.calls, "retries, timeout and concurrency on record steps only")
        expression = self.accept_expression
        if isinstance(expression, str) and not expression.strip():
            raise InvalidExpressionError(expression, "it is empty")
        if expression is not None and not isinstance(expression, str) and not callable(expression):
            raise InvalidOptionError("accept_expression", expression, "a SQL expression or a callable")

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
        block_size: records in a block, or ``auto``: as many as take about a second, at most 64 MiB.
        shards: mapped tasks per step; None: from the input's size and the worker slots.
        sla: how long an instance may take, from the start of its load or of the rerun; None: as long as it takes.
        on_sla: ``alert``: say so and go on; ``stop``: stop at the next block boundary (STOPPED, a rerun carries on).
        max_records: more than these in the input fail the load before any processing; None: no check.
        variables: what every record's variables start with (JSON values).
        alert_conn_id: Airflow connection for the alerts the job sends by itself: the SLA has passed and
            ``on_sla`` is ``alert``; records failed under ``max_failed_records=-1``. None: it only logs them.
        on_complete: called with the result after the report is written.
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
    variables: Mapping[str, Any] = field(default_factory=dict)
    alert_conn_id: str | None = None
    on_complete: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        """Refuse what could not run."""
        check_name("job name", self.name)
        if self.block_size != AUTO:
            check_count("block_size", self.block_size, minimum=1, also=f"or {AUTO!r}")
        if self.shards is not None:
            check_count("shards", self.shards, minimum=1, maximum=1_000)
        if self.max_records is not None:
            check_count("max_records", self.max_records, minimum=1)
        sla: object = self.sla
        if sla is not None and not (isinstance(sla, timedelta) and sla > timedelta(0)):
            raise InvalidOptionError("sla", sla, "a timedelta above 0")
        check_choice("on_sla", self.on_sla, ON_SLA)
        seen: set[str] = set()
        for step in self.steps:
            if step.name in seen:
                raise DuplicateStepError(self.name, step.name)
            seen.add(step.name)
        try:
            json.dumps(dict(self.variables))
        except (TypeError, ValueError) as error:
            raise InvalidOptionError("variables", self.variables, f"JSON values only ({error})") from None
        set_frozen(self, "variables", MappingProxyType(dict(self.variables)))

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


def set_frozen(target: object, attribute: str, value: object) -> None:
    """Set a normalised value while a frozen dataclass is being made."""
    object.__setattr__(target, attribute, value)


def check_count(option: str, value: object, *, minimum: int, maximum: int | None = None, also: str = "") -> None:
    """Refuse anything but a whole number within the bounds.

    Raises:
        InvalidOptionError: it is another thing, too small or too large.
    """
    good = isinstance(value, int) and not isinstance(value, bool) and value >= minimum
    if not good or (maximum is not None and isinstance(value, int) and value > maximum):
        upper = f" to {maximum:,}" if maximum is not None else " or more"
        raise InvalidOptionError(option, value, f"a whole number, {minimum}{upper} {also}".rstrip())


def check_choice(option: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse anything but one of ``choices``.

    Raises:
        InvalidOptionError: it is none of them.
    """
    if value not in choices:
        raise InvalidOptionError(option, value, " or ".join(map(repr, choices)))


def seconds_of(option: str, value: object) -> float:
    """A duration in seconds, from a timedelta or a number.

    Raises:
        InvalidOptionError: it is neither, or not above 0.
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf:
        raise InvalidOptionError(option, value, "seconds above 0, or a timedelta")
    return float(seconds)


def _exceptions(value: object) -> tuple[type[Exception], ...]:
    kinds = value if isinstance(value, (tuple, list)) else (value,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise InvalidOptionError("retry_on", kind, "exception classes")
    return tuple(kinds)


def check_columns(option: str, columns: object) -> tuple[str, ...] | None:
    """Return column names as a tuple; None stays None.

    Raises:
        InvalidOptionError: it is a bare string, holds something else than strings, or a reserved name.
    """
    if columns is None:
        return None
    if isinstance(columns, str) or not isinstance(columns, (list, tuple, set, frozenset)):
        raise InvalidOptionError(option, columns, "a list of column names")
    names = tuple(sorted(columns, key=str) if isinstance(columns, (set, frozenset)) else columns)
    if bad := [name for name in names if not isinstance(name, str) or name in RESERVED_COLUMNS]:
        raise InvalidOptionError(option, bad[0], "column names of the payload")
    return names

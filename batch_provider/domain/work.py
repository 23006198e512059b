"""How a step does its work: in groups, with retries, or as SQL expressions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from batch_provider.domain.errors import InvalidOptionError
from batch_provider.domain.options import (
    check_choice,
    check_columns,
    check_count,
    check_exceptions,
    seconds_of,
    set_frozen,
)

ON_ERROR = ("fail_group", "isolate")
ON_REDRIVE = ("new", "all")


@dataclass(frozen=True)
class AggregatorSpec:
    """A bulk action over a step's records: sized or streaming, never both.

    Attributes:
        size: records in a group; the last group of a shard may be smaller.
        streaming: one call with a forward-only iterator over every record of the step.
        on_error: ``fail_group`` fails every record of a group whose call raises; ``isolate`` halves the group
            until the bad records stand alone.
        on_redrive: what a streaming aggregator gets in a redrive: only the records that are new to it, or all.
        transaction: Airflow connection that a sized aggregator gets as ``connection``: what it does there is
            committed when the call returns, and rolled back when it raises.
    """

    size: int | None = None
    streaming: bool = False
    on_error: str = "fail_group"
    on_redrive: str = "new"
    transaction: str | None = None

    def __post_init__(self) -> None:
        """Refuse a size beside streaming, or neither."""
        if self.streaming is (self.size is not None):
            raise InvalidOptionError("size", self.size, "either size=N or streaming=True, not both")
        if self.size is not None:
            check_count("size", self.size, minimum=1)
        check_choice("on_error", self.on_error, ON_ERROR)
        check_choice("on_redrive", self.on_redrive, ON_REDRIVE)
        if self.streaming and self.on_error == "isolate":
            raise InvalidOptionError("on_error", self.on_error, "'fail_group' with streaming=True")
        if self.streaming and self.transaction is not None:
            raise InvalidOptionError("transaction", self.transaction, "it with size= only")


@dataclass(frozen=True)
class CallPolicy:
    """How the function of a step is called for one record.

    Attributes:
        retries: further tries after the first that raised.
        retry_on: exceptions that are worth another try.
        retry_delay: seconds before the second try; doubled for each further one, with jitter; 0: at once.
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
        set_frozen(self, "retry_on", check_exceptions(self.retry_on))
        set_frozen(self, "timeout", seconds_of("timeout", self.timeout) if self.timeout is not None else None)
        set_frozen(self, "retry_delay", seconds_of("retry_delay", self.retry_delay, or_none=True))
        set_frozen(self, "max_retry_delay", seconds_of("max_retry_delay", self.max_retry_delay, or_none=True))

    @property
    def is_plain(self) -> bool:
        """One try, in turn: the fast way."""
        return self.retries == 0 and self.timeout is None and self.concurrency == 1


@dataclass(frozen=True)
class WriterSpec:
    """A built-in writer in the place of a function.

    Attributes:
        writer: such as ``SqlTable``.
    """

    writer: Any

    def __post_init__(self) -> None:
        """Refuse what cannot write."""
        if not (hasattr(self.writer, "open") and hasattr(self.writer, "describe")):
            raise InvalidOptionError("writer", self.writer, "a writer such as SqlTable(…)")

    def __repr__(self) -> str:
        """What it says of itself."""
        return f"WriterSpec({self.writer!r})"


@dataclass(frozen=True)
class SqlSpec:
    """What a SQL step does with each record: single scalar DuckDB expressions, so no row can be lost or made.

    Attributes:
        checks: message → boolean expression; a record for which it is not true (NULL is not) fails with the
            message. They are asked in order, the first that fails counts.
        assign: column → expression over the record as it came; evaluated for the records that passed the checks.
    """

    checks: Mapping[str, str] = field(default_factory=dict)
    assign: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a step that does nothing, and columns that cannot be."""
        if not self.checks and not self.assign:
            raise InvalidOptionError("sql_step", "", "checks= or assign=, or both")
        for option, expressions in (("checks", self.checks), ("assign", self.assign)):
            for key, expression in dict(expressions).items():
                if not (key and all(isinstance(text, str) for text in (key, expression))):
                    raise InvalidOptionError(option, {key: expression}, "texts: a name or message, and an expression")
        check_columns("assign", tuple(self.assign))
        set_frozen(self, "checks", MappingProxyType(dict(self.checks)))
        set_frozen(self, "assign", MappingProxyType(dict(self.assign)))

    def __repr__(self) -> str:
        """The expressions."""
        return f"SqlSpec(checks={dict(self.checks)}, assign={dict(self.assign)})"

"""The one place that calls the author's functions."""

from __future__ import annotations

import gc
import inspect
import json
import logging
import marshal
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from time import perf_counter
from typing import Any

import numpy as np

from batch_provider.domain.errors import BatchError, InvalidOptionError
from batch_provider.domain.spec import CallPolicy
from batch_provider.engine.calls.retrying import Job, Waiting, calling, is_async, wait_for

log = logging.getLogger(__name__)

PER_RECORD = ("variables", "failures", "record_id")
PER_GROUP = ("failures", "record_ids", "idempotency_key")
LONGEST_MESSAGE = 2_000


_PLAIN = CallPolicy()
_NOTHING: dict[str, Any] = {}


@dataclass(frozen=True)
class RecordError:
    """What a call raised."""

    type: str
    message: str

    @classmethod
    def of(cls, error: BaseException) -> RecordError:
        """From an exception; the message is bounded, so that a payload in it cannot fill the ledger."""
        try:
            message = _storable(str(error))
        except Exception as second:  # noqa: BLE001  # an author's __str__ may raise as well
            message = f"(its message cannot be read: {type(second).__name__})"
        if len(message) > LONGEST_MESSAGE:
            message = f"{message[:LONGEST_MESSAGE]}… ({len(message):,} characters)"
        return cls(type(error).__qualname__, message)


@dataclass
class Calls:
    """What calling a function for each of several records gave.

    Attributes:
        returned: one value for each record; None where it raised.
        errors: position → what it raised.
        variables: position → the record's variables as JSON, where they are not as they were.
        seconds: how long each call took.
    """

    returned: list[Any] = field(default_factory=list)
    errors: dict[int, RecordError] = field(default_factory=dict)
    variables: dict[int, str] = field(default_factory=dict)
    seconds: np.ndarray = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True)
class Run:
    """Consecutive records and what their calls are given.

    Attributes:
        jobs: payload and keywords of each; ``variables`` among them is a copy for its call.
        variables: of each record as JSON, if the function names them: every call gets a copy, records stay isolated.
    """

    jobs: Sequence[Job]
    variables: Sequence[str] | None = None


class UserFunction:
    """An author's function with its keyword arguments sorted out once.

    Args:
        step: for messages.
        function: takes the payload (a dict, or a list of them) first.
        per_call: keywords that differ from call to call, given if the signature names them.
        constant: keywords that are the same for all calls (instance, Airflow's context names).
        policy: retries, time limit and concurrency.

    Raises:
        InvalidOptionError: the signature demands a keyword that nobody can give.
    """

    def __init__(
        self,
        step: str,
        function: Callable[..., Any],
        per_call: Sequence[str],
        constant: Mapping[str, Any],
        policy: CallPolicy = _PLAIN,
    ) -> None:
        self.step, self.policy = step, policy
        names, demanded = _keywords(function, f" in step {step!r}")
        self.wants = frozenset(name for name in per_call if name in names)
        known = {name: constant[name] for name in names if name in constant and name not in self.wants}
        if unknown := demanded - self.wants - known.keys():
            raise InvalidOptionError(
                f"argument {min(unknown)!r} of step {step!r}",
                getattr(function, "__name__", function),
                f"only {', '.join([*per_call, 'instance'])} or a name of Airflow's context after the payload",
            )
        self.call = partial(function, **known) if known else function
        self.is_plain = policy.is_plain and not is_async(function)
        self.stacks: dict[str, str] = {}

    def each(self, records: Iterable[dict[str, Any]]) -> Calls:
        """Call for each record; what one raises is kept as its error and stops nobody else."""
        return self._in_turn((record, _NOTHING) for record in records)

    def _in_turn(self, jobs: Iterable[Job]) -> Calls:
        calls = Calls()
        keep, call = calls.returned.append, self.call
        stamps = [perf_counter()]
        stamp = stamps.append
        for record, keywords in jobs:
            try:
                keep(call(record, **keywords))
            except Exception as error:  # noqa: BLE001  # this is where user code ends
                calls.errors[len(calls.returned)] = self.note(error)
                keep(None)
            stamp(perf_counter())
        calls.seconds = np.diff(np.array(stamps))
        return calls

    def runs(self, runs: Iterable[Run]) -> Generator[Calls, None, None]:
        """As :meth:`each` for runs of records, one after the other, with keywords, retries and concurrency.

        While the calls of one run are waited for, those of the next are under way.
        """
        if self.is_plain:
            for run in runs:
                calls = self._in_turn(run.jobs)
                if run.variables is not None:
                    self._keep_variables(run.variables, calls, [keywords["variables"] for _, keywords in run.jobs])
                yield calls
            return
        with calling(self.call, self.policy) as begin:
            begun: deque[tuple[Run, Waiting]] = deque()
            for run in runs:
                begun.append((run, begin(run.jobs)))
                if len(begun) > 1:
                    yield self._ended(*begun.popleft())
            while begun:
                yield self._ended(*begun.popleft())

    def _ended(self, run: Run, wait: Waiting) -> Calls:
        outcomes = wait()
        calls = Calls([outcome.returned for outcome in outcomes])
        for position, outcome in enumerate(outcomes):
            if outcome.error is not None:
                calls.errors[position] = self.note(outcome.error)
        calls.seconds = np.array([outcome.seconds for outcome in outcomes])
        if run.variables is not None:
            self._keep_variables(run.variables, calls, [outcome.variables for outcome in outcomes])
        return calls

    def _keep_variables(self, came: Sequence[str], calls: Calls, variables: Sequence[Any]) -> None:
        """Note what the calls that did not raise have changed."""
        for position, (before, own) in enumerate(zip(came, variables, strict=True)):
            if position in calls.errors or _is_as_it_was(own, before):
                continue
            try:
                after = json.dumps(own, sort_keys=True)
            except (TypeError, ValueError, RecursionError) as error:
                calls.errors[position] = RecordError("VariableTypeError", f"variables must be JSON values: {error}")
                calls.returned[position] = None  # a failed record keeps the payload it came with
                continue
            if after != before:
                calls.variables[position] = after

    def once(self, payload: Any, **keywords: Any) -> Any:
        """Call for a group or a block; the caller decides what its exception means."""
        returned = self.call(payload, **{name: value for name, value in keywords.items() if name in self.wants})
        return wait_for(returned) if inspect.iscoroutine(returned) else returned

    def note(self, error: Exception) -> RecordError:
        """Turn an exception into a record's error; the stack of the first of a kind is logged and kept.

        Raises:
            BatchError, MemoryError: what is not the record's fault goes on up.
        """
        if isinstance(error, (BatchError, MemoryError)) or _is_interruption(error):
            raise error
        found = RecordError.of(error)
        if found.type not in self.stacks:
            self.stacks[found.type] = _storable("".join(traceback.format_exception(error)))
            log.warning(
                "Step %s: first %s (further ones of its kind are counted, not logged):\n%s",
                self.step,
                found.type,
                self.stacks[found.type],
            )
        return found


def _keywords(function: Callable[..., Any], place: str) -> tuple[set[str], set[str]]:
    """The names of all parameters after the payload, and of those without a default."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a builtin without a signature takes the payload alone
        return set(), set()
    if not parameters or parameters[0].kind in (parameters[0].KEYWORD_ONLY, parameters[0].VAR_KEYWORD):
        raise InvalidOptionError(
            "function", getattr(function, "__name__", function), "one whose first argument takes the payload", place
        )
    plain = [p for p in parameters[1:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return {p.name for p in plain}, {p.name for p in plain if p.default is p.empty}


def fresh_variables(text: str) -> dict[str, Any]:
    """The variables of this JSON text, for one call."""
    found: dict[str, Any] = marshal.loads(_packed(text))  # noqa: S302  # of what was packed here, in this process
    return found


@lru_cache(maxsize=1_024)
def _packed(text: str) -> bytes:
    return marshal.dumps(json.loads(text), _PLAINLY)


_PLAINLY = 2  # of marshal's formats the last without references, so that equal values have equal bytes


def _is_as_it_was(variables: Any, before: str) -> bool:
    """Whether nothing was changed, by a quick look; JSON takes ten times as long to say so (measured)."""
    try:
        return marshal.dumps(variables, _PLAINLY) == _packed(before)
    except ValueError:  # it holds what is no plain value
        return False


def _storable(text: str) -> str:
    """The text with what is no valid Unicode written as escapes: neither files nor logs take lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()


def _is_interruption(error: Exception) -> bool:
    """DuckDB turns a task's timeout into a plain RuntimeError (measured with 2.0.0): it is nobody's bad record."""
    return type(error) is RuntimeError and str(error) == "Query interrupted"


@contextmanager
def no_cyclic_gc() -> Iterator[None]:
    """Dicts that live for one record make the cyclic collector run for nothing: measured 10 % of a block."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()

"""From the keywords of a step's declaration to its spec."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from batch_provider.domain.errors import ExpressionLimitError, InvalidExpressionError, InvalidOptionError
from batch_provider.domain.spec import AggregatorSpec, CallPolicy, SqlSpec, StepSpec, WriterSpec

_STEP_OPTIONS = frozenset(
    {
        "accept_policy",
        "accept_expression",
        "reads",
        "writes",
        "drop",
        "output",
        "vectorised",
        "on_code_change",
        "transaction",
    }
)
_CALL_OPTIONS = frozenset(CallPolicy.__dataclass_fields__)


def step_of_options(
    name: str,
    function: Callable[..., Any] | SqlSpec | WriterSpec,
    aggregator: AggregatorSpec | None,
    options: dict[str, Any],
) -> StepSpec:
    """Sort the options of a step: its own, those of its calls, and Airflow's.

    Raises:
        InvalidOptionError: a value is outside what its option allows, or the name of one is misspelt.
    """
    own = {key: options.pop(key) for key in list(options) if key in _STEP_OPTIONS}
    calls = CallPolicy(**{key: options.pop(key) for key in list(options) if key in _CALL_OPTIONS})
    tasks = {**options.pop("task_options", {}), **options}
    for option, value in options.items():
        if near := get_close_matches(option, _STEP_OPTIONS | _CALL_OPTIONS, n=1, cutoff=0.8):
            raise InvalidOptionError(option, value, f"{near[0]}=, if that is what was meant")
    return StepSpec(name, function, calls=calls, aggregator=aggregator, task_options=tasks, **own)


def name_of(function: Callable[..., Any]) -> str:
    """The function's name, for a step that is given none.

    Raises:
        InvalidOptionError: it has none (a partial, an object).
    """
    name = getattr(function, "__name__", None)
    if not isinstance(name, str):
        raise InvalidOptionError("name", None, f"a name: {type(function).__name__} objects have none of their own")
    return name


@contextmanager
def placing(place: str) -> Iterator[None]:
    """Say in the message of a wrong definition which step or job it is of.

    Raises:
        InvalidOptionError: with the place in its message.
        InvalidExpressionError, ExpressionLimitError: likewise.
    """
    try:
        yield
    except InvalidOptionError as error:
        raise InvalidOptionError(error.option, error.value, error.allowed, place) from None
    except InvalidExpressionError as error:
        raise InvalidExpressionError(error.expression, error.reason, place, error.advice) from None
    except ExpressionLimitError as error:
        raise ExpressionLimitError(error.expression, error.limit, place) from None

"""Whether a step's code has changed since its records were processed."""

from __future__ import annotations

import hashlib
from types import CodeType
from typing import Any

from batch_provider.domain.fused import CheckpointStep, FusedStep
from batch_provider.domain.spec import SqlSpec, WriterSpec


def fingerprint(step: CheckpointStep) -> str:
    """A digest of the function's own code and the step's declared options; of all, if several steps are fused.

    Functions that it calls are not seen: a change in a helper does not change the fingerprint (documented).
    """
    if isinstance(step, FusedStep):
        joined = " ".join(map(fingerprint, step.steps))
        return hashlib.blake2b(joined.encode(), digest_size=8).hexdigest()
    digest = hashlib.blake2b(digest_size=8)
    digest.update(_text_of(step.function).encode())
    digest.update(_text_of(step.accept_expression).encode())
    options = (
        step.name,
        str(step.accept_policy),
        step.reads,
        step.drop,
        step.output,
        repr(step.aggregator),
        step.transaction,
        repr(step.calls),
    )
    digest.update(repr(options).encode())
    return digest.hexdigest()


def _text_of(function: Any) -> str:
    """A function's own code; a SQL step's or an expression's text."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    code = getattr(function, "__code__", None)
    if code is not None:
        return _code_text(code)
    return repr(function) if isinstance(function, (SqlSpec, WriterSpec, str)) else repr(type(function))


def _constant_text(value: Any) -> str:
    if isinstance(value, CodeType):
        return _code_text(value)
    if isinstance(value, frozenset):  # its order is another one in every process
        return repr(sorted(map(_constant_text, value)))
    return repr(value)


def _code_text(code: CodeType) -> str:
    """Instructions, names and constants; neither line numbers nor addresses."""
    constants = [_constant_text(value) for value in code.co_consts]
    return f"{code.co_code.hex()}|{code.co_names}|{code.co_varnames}|{constants}"

"""The fingerprint: the same code gives the same digest in every process, other code another."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial, wraps

import pytest

from batch_provider import AggregatorSpec, StepSpec
from batch_provider.engine.process.fingerprint import fingerprint

SCRIPT = """
from batch_provider import StepSpec
from batch_provider.engine.process.fingerprint import fingerprint

def step(record):
    if record["kind"] in {"a", "b", "c", "d", "e", "f"}:
        return {"x": (1, frozenset({"q", "w", "e", "r"}))}
    return [key for key in record if key not in {"u", "i", "o", "p"}]

print(fingerprint(StepSpec("s", step, reads={"n", "m", "k", "j", "h"})))
"""


def digest_in_a_process(seed):
    environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_fingerprint_is_the_same_in_every_process():
    assert len({digest_in_a_process(seed) for seed in (1, 2, 3)}) == 1


def one(record):
    return {"a": 1}


def same_as_one(record):
    return {"a": 1}


def two(record):
    return {"a": 2}


def nested(record):
    return [value + 1 for value in record]


def other_nested(record):
    return [value + 2 for value in record]


def of(function, **options):
    return fingerprint(StepSpec("s", function, **options))


def test_same_code_has_the_same_fingerprint():
    assert of(one) == of(same_as_one)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(of(one), of(two), id="a constant"),
        pytest.param(of(nested), of(other_nested), id="a nested function"),
        pytest.param(of(one), fingerprint(StepSpec("t", one)), id="the name"),
        pytest.param(of(one), of(one, reads=["a"]), id="reads"),
        pytest.param(of(one), of(one, drop=["a"]), id="drop"),
        pytest.param(of(one), of(one, output="replace"), id="output"),
        pytest.param(of(one), of(one, accept_policy="ALL"), id="policy"),
        pytest.param(of(one, accept_expression="a > 1"), of(one, accept_expression="a > 2"), id="expression"),
        pytest.param(of(one), of(one, aggregator=AggregatorSpec(size=2)), id="aggregator"),
    ],
)
def test_changed_step_has_another_fingerprint(first, second):
    assert first != second


def test_decorated_function_is_looked_through():
    @wraps(one)
    def wrapper(record):
        return one(record)

    assert of(wrapper) == of(one)


def test_sets_among_the_constants_are_compared_by_what_they_hold():
    def first(record):
        return record in {"a", "b"}

    def second(record):
        return record in {"a", "c"}

    assert of(first) != of(second)


@pytest.mark.parametrize("function", [print, partial(one), dict], ids=["builtin", "partial", "class"])
def test_callable_without_code_has_a_fingerprint(function):
    assert len(of(function)) == 16

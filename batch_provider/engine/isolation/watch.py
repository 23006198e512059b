"""What a child adds to a runner: it notes where it is, and fails what is condemned without a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from batch_provider.domain.layout import Span
from batch_provider.engine.calls.invoke import RecordError, UserFunction
from batch_provider.engine.calls.retrying import is_async
from batch_provider.engine.columns.block import Block, BlockResult
from batch_provider.engine.isolation.index import CallIndex
from batch_provider.engine.isolation.messages import Blame, Condemned
from batch_provider.engine.ports.store import GenerationReader
from batch_provider.engine.steps.accept import Acceptance
from batch_provider.engine.steps.aggregate import AggregatorStep, AskedOnce
from batch_provider.engine.steps.fused import FusedRunner, Runner
from batch_provider.engine.steps.record import RecordStep


def watch(runner: Runner | FusedRunner, index: CallIndex) -> dict[str, Spared]:
    """Have a runner note in ``index`` where it is; returns by step what spares its condemned records."""
    runners = parts_of(runner)
    return {each.step.name: _watched(number, each, index) for number, each in enumerate(runners)}


def parts_of(runner: Runner | FusedRunner) -> list[Runner]:
    """The runners of fused steps, or the one there is."""
    return runner._runners if isinstance(runner, FusedRunner) else [runner]


class Spared:
    """An acceptance rule whose condemned records fail as they are asked about: nothing is called for them."""

    def __init__(self, rule: Acceptance) -> None:
        self._rule = rule
        self.condemned: Mapping[int, Blame] = {}

    def of(self, block: Block, candidates: np.ndarray) -> tuple[np.ndarray, dict[int, RecordError]]:
        """As :meth:`Acceptance.of`."""
        first = block.span.first
        blamed = {position: self.condemned.get(first + position) for position in candidates.tolist()}
        unasked = np.array([at for at, blame in blamed.items() if blame and not blame.is_asked], dtype=np.int64)
        taken, errors = self._rule.of(block, np.setdiff1d(candidates, unasked))
        failing = [at for at in taken.tolist() if blamed[at]] + unasked[
            self._rule._admits(block.failed_before[unasked])
        ].tolist()
        errors.update({at: blame.error for at in failing if (blame := blamed[at])})
        return np.setdiff1d(taken, np.array(failing, dtype=np.int64)), errors


def spare(spared: Mapping[str, Spared], condemned: Condemned) -> None:
    """From now on these records fail."""
    for step, rule in spared.items():
        rule.condemned = condemned.get(step, {})


def _watched(number: int, runner: Runner, index: CallIndex) -> Spared:
    rule = runner._accept._rule if isinstance(runner._accept, AskedOnce) else runner._accept
    spared = Spared(rule)
    if rule._call is not None:
        _note_calls(number, rule._call, index)
    _note_run(number, runner, index)
    if isinstance(runner, AggregatorStep):
        runner._accept._rule = spared  # type: ignore[assignment]  # it is asked in the same way
        _note_groups(number, runner, index)
        return spared
    runner._accept = spared  # type: ignore[assignment]
    if isinstance(runner, RecordStep):
        _note_calls(number, runner.function, index)
    return spared


def _note_run(number: int, runner: Runner, index: CallIndex) -> None:
    run = runner.run

    def noted(block: Block, candidates: np.ndarray) -> BlockResult:
        index.at_step(number)
        result = run(block, candidates)
        index.outside()  # not in a finally: what raised for lack of memory was raised there
        return result

    runner.run = noted  # type: ignore[method-assign]


def _note_calls(number: int, function: UserFunction, index: CallIndex) -> None:
    """Note the record of each call: its function asks for the id, and the author's gets it if it wants it."""
    author, is_wanted = function.call, "record_id" in function.wants
    function.wants = function.wants | {"record_id"}

    def given(record_id: int, keywords: dict[str, Any]) -> dict[str, Any]:
        index.at_step(number)
        index.at_call(record_id, record_id)
        return {**keywords, "record_id": record_id} if is_wanted else keywords

    def noted(record: dict[str, Any], *, record_id: int, **keywords: Any) -> Any:
        returned = author(record, **given(record_id, keywords))
        index.outside()
        return returned

    async def noted_async(record: dict[str, Any], *, record_id: int, **keywords: Any) -> Any:
        returned = await author(record, **given(record_id, keywords))
        index.outside()
        return returned

    function.call = noted_async if is_async(author) else noted


def _note_groups(number: int, runner: AggregatorStep, index: CallIndex) -> None:
    """Note the ids of each group whose records are made: they are called, or written, next."""
    make, call, group_end = runner.block, runner.call, runner.group_end

    def block(upstream: GenerationReader, span: Span) -> Block:
        made = make(upstream, span)
        made.records = _noting(number, made.records, span, index)  # type: ignore[method-assign, assignment]
        made.payload = _noting(number, made.payload, span, index)  # type: ignore[method-assign, assignment]
        return made

    def noted_call(*arguments: Any, **keywords: Any) -> Any:
        returned = call(*arguments, **keywords)
        index.outside()
        return returned

    def noted_end(block: Block, wanted: int) -> int:
        index.at_step(number)
        return group_end(block, wanted)

    runner.block, runner.call, runner.group_end = block, noted_call, noted_end  # type: ignore[method-assign]


def _noting(
    number: int, read: Callable[[np.ndarray], Any], span: Span, index: CallIndex
) -> Callable[[np.ndarray], Any]:
    def noted(positions: np.ndarray) -> Any:
        index.at_step(number)
        index.at_call(span.first + int(positions[0]), span.first + int(positions[-1]))
        return read(positions)

    return noted

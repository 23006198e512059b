"""A record step with a transaction for each record: its effect is committed with the record's id, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from batch_provider.domain.spec import JobSpec, StepSpec
from batch_provider.engine.calls.invoke import PER_RECORD, UserFunction
from batch_provider.engine.columns.block import Block, BlockResult
from batch_provider.engine.ports.writing import RecordSession
from batch_provider.engine.steps.record import RecordStep

PER_TRANSACTION = (*PER_RECORD, "connection")


class TransactionalRecordStep(RecordStep):
    """Calls the function of a record step in a transaction for each record, exactly once for each that succeeds.

    A record whose transaction is committed is not called again, also when the checkpoint of its block was lost; what
    its function returned would be, so it may return nothing and change no variables.

    Args:
        job, step, constant, types: as of :class:`RecordStep`; ``step.transaction`` names the connection.
        open_session: called before the first record: it raises the fence in the database.
    """

    def __init__(
        self,
        job: JobSpec,
        step: StepSpec,
        constant: dict[str, Any],
        types: Mapping[str, pa.DataType] | None,
        open_session: Callable[[], RecordSession],
    ) -> None:
        super().__init__(job, step, constant, types)
        self._open_session = open_session
        self._session: RecordSession | None = None
        self._first, self._consumed = 0, np.empty(0, dtype=np.int32)

    def make_function(self, constant: dict[str, Any]) -> UserFunction:
        """The author's in a transaction: the engine gives it the record's id, the transaction its connection."""
        function = UserFunction(self.step.name, self.step.call, PER_TRANSACTION, constant, self.step.calls)
        self._author, self._wants = function.call, function.wants
        function.call, function.wants = self._call, (function.wants - {"connection"}) | {"record_id"}
        return function

    def close(self) -> None:
        """Let the database go."""
        if self._session is not None:
            self._session.close()

    def run(self, block: Block, candidates: np.ndarray) -> BlockResult:
        """As :class:`RecordStep`; then the notes of the block's records are made short."""
        self._session = self._session or self._open_session()
        self._first, self._consumed = block.span.first, block.table["_out"].to_numpy()
        result = super().run(block, candidates)
        self._session.merge_notes(block.span)
        return result

    def _call(self, record: dict[str, Any], *, record_id: int, **keywords: Any) -> None:
        assert self._session is not None
        consumed = int(self._consumed[record_id - self._first])
        if self._session.has(record_id, consumed):
            return
        if "record_id" in self._wants:
            keywords["record_id"] = record_id
        before = _text(keywords.get("variables"))
        with self._session.record(record_id, consumed) as connection:
            if "connection" in self._wants:
                keywords["connection"] = connection
            returned = self._author(record, **keywords)
            if returned is not None or _text(keywords.get("variables")) != before:
                what = "changed its variables" if returned is None else f"returned {type(returned).__name__}"
                raise TypeError(
                    f"a step with transaction= {what}, which a crash after the commit would lose; change the record "
                    "in a step of its own"
                )


def _text(variables: Any) -> str:
    return json.dumps(variables, sort_keys=True, default=repr)

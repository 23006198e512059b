"""The rows of the input: records with their ids, and beside them what is malformed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import numpy as np
import pyarrow as pa

from batch_provider.domain.layout import Span
from batch_provider.domain.outcome import Outcome
from batch_provider.engine.columns.joining import concat_as
from batch_provider.engine.columns.rows import ERROR_TYPE
from batch_provider.engine.ports.store import MalformedRecord


def malformed_rows(records: Sequence[MalformedRecord], claim: str, at: datetime) -> pa.Table:
    """Malformed records as rows of the input: why they failed, in the load ``claim``, where they stand, their text."""
    errors = [{"type": r.error_type, "message": r.message, "c": claim, "at": at} for r in records]
    return pa.table(
        {
            "_error": pa.array(errors, ERROR_TYPE),
            "_line": pa.array([r.line for r in records], pa.int64()),
            "_raw": pa.array([r.raw for r in records], pa.string()),
        }
    )


def input_rows(tables: Sequence[pa.Table], columns: Mapping[str, pa.DataType], span: Span) -> pa.Table:
    """Pieces of the input as one table, with their ids, and their status if some are malformed.

    Args:
        tables: records in order, and :func:`malformed_rows`.
        columns: every payload column that there is, and its type; null where a record has none of it.
        span: the ids.
    """
    kinds = dict(columns)
    for table in tables:
        kinds |= {field.name: columns.get(field.name, field.type) for field in table.schema}
    joined = concat_as(tables, kinds)
    ids = pa.array(np.arange(span.first, span.last + 1, dtype=np.int64))
    joined = joined.append_column("_id", ids) if kinds else pa.table({"_id": ids})  # records may have no columns
    if "_error" not in kinds:
        return joined
    bad = joined["_error"].is_valid().to_numpy(zero_copy_only=False)
    status = np.where(bad, int(Outcome.FAILED), int(Outcome.SUCCEEDED)).astype(np.uint8)
    return joined.append_column("_status", pa.array(status))

"""The ledger: every record's outcome, every attempt and error, as tables in DuckDB.

While a job runs, :func:`live_ledger` builds it in memory from the checkpoints that count at that moment;
on-complete materialises the same tables as a file. Outcomes are kept as runs of equal ids, so that a million
successes are one row; the views ``outcomes`` and ``records`` show them one by one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from batch_provider.domain.instance import Close
from batch_provider.domain.layout import WINDOW_ROWS, FileRef, ShardRef, Span
from batch_provider.domain.names import INPUT_PHASE
from batch_provider.domain.outcome import Outcome
from batch_provider.domain.result import TOLD_APART, BatchJobResult
from batch_provider.engine.steps.fused_outcomes import failed_in, unpack
from batch_provider.storage.claims.stored import StoredGeneration
from batch_provider.storage.reading.chain import Layer
from batch_provider.storage.reading.status import StatusReader, StepStatus, runs

if TYPE_CHECKING:
    import duckdb

_TABLES = f"""
CREATE TABLE steps (position INTEGER, step VARCHAR);
CREATE TABLE attempts (step VARCHAR, shard VARCHAR, attempt VARCHAR, outcome VARCHAR, reason VARCHAR,
    started_at TIMESTAMP, ended_at TIMESTAMP, host VARCHAR, pid BIGINT, try_number INTEGER, processed BIGINT,
    blocks BIGINT, seconds DOUBLE, fingerprint VARCHAR);
CREATE TABLE outcome_runs (step VARCHAR, shard VARCHAR, first_id BIGINT, last_id BIGINT, outcome VARCHAR);
CREATE TABLE failures (record_id BIGINT, step VARCHAR, error_type VARCHAR, message VARCHAR, attempt VARCHAR,
    failed_at TIMESTAMP);
CREATE TABLE result (field VARCHAR, value VARCHAR);
CREATE VIEW outcomes AS
    SELECT step, shard, unnest(range(first_id, last_id + 1)) AS record_id, outcome FROM outcome_runs;
CREATE VIEW records AS
    SELECT record_id, CASE WHEN bool_or(outcome = 'FAILED') THEN 'FAILED'
        WHEN bool_or(outcome = 'NOT_RUN') THEN 'NOT_RUN' ELSE 'SUCCEEDED' END AS outcome,
        count(*) FILTER (outcome = 'SKIPPED') AS skipped_by
    FROM outcomes GROUP BY record_id;
CREATE VIEW errors AS
    SELECT step, error_type, count(*) AS records, min(message) AS sample FROM failures
    GROUP BY step, error_type,
        CASE WHEN regexp_full_match(error_type, '{TOLD_APART}') THEN split_part(message, chr(10), 1) END;
"""


_NAMES = np.array([outcome.name for outcome in sorted(Outcome)], dtype=object)


def live_ledger(generation: StoredGeneration, window_rows: int = WINDOW_ROWS) -> duckdb.DuckDBPyConnection:
    """The ledger as it stands now, in memory; works while the job runs. The caller closes the connection.

    Args:
        generation: what to look at.
        window_rows: records to look at at a time; no run of equal outcomes is longer.
    """
    import duckdb

    connection = duckdb.connect(":memory:")
    attempts = [
        close
        for step in _steps(generation)
        for shard in generation.manifest.shards
        for close in generation.tries(step, shard.id)
    ]
    files = {
        (step, shard.id): generation.current_files(step, shard.id)
        for step in _steps(generation)
        for shard in generation.manifest.shards
    }
    _fill(connection, generation, files, attempts, None, window_rows)
    return connection


def ledger_bytes(generation: StoredGeneration, result: BatchJobResult, closes: Sequence[Close]) -> bytes:
    """The ledger of a finished instance, as the bytes of a DuckDB file."""
    import duckdb

    attempts = [
        close
        for step, shard in dict.fromkeys((close.step, close.shard) for close in closes)
        for close in generation.tries(step, shard)
    ]
    files = {(close.step, close.shard): close.files for close in closes}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "ledger.duckdb"
        with duckdb.connect(str(path)) as connection:
            _fill(connection, generation, files, attempts, result)
        return path.read_bytes()


def _steps(generation: StoredGeneration) -> list[str]:
    return [str(step["name"]) for step in generation.manifest.steps]


def _fill(
    connection: duckdb.DuckDBPyConnection,
    generation: StoredGeneration,
    files: dict[tuple[str, str], tuple[FileRef, ...]],
    attempts: Iterable[Close],
    result: BatchJobResult | None,
    window_rows: int = WINDOW_ROWS,
) -> None:
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(_TABLES)
    names = [INPUT_PHASE, *generation.manifest.step_names]
    _insert(connection, "steps", pa.table({"position": list(range(len(names))), "step": names}))
    rows = [_attempt_row(close, step) for close in attempts for step in generation.manifest.fused(close.step)]
    _insert(connection, "attempts", pa.Table.from_pylist(rows))
    for shard in generation.manifest.shards:
        layers = [generation.layer(step, shard.id, files[step, shard.id]) for step in _steps(generation)]
        for window in shard.span.windows(window_rows):
            before: StepStatus | None = None
            for layer in [generation.input_layer(), *layers]:
                before = _insert_step(connection, shard, window, layer, before)
    if result is not None:
        fields = {name: value for name, value in result.to_json().items() if not isinstance(value, (tuple, list))}
        texts = [None if value is None else str(value) for value in fields.values()]
        _insert(connection, "result", pa.table({"field": list(fields), "value": texts}))


def _insert_step(
    connection: duckdb.DuckDBPyConnection,
    shard: ShardRef,
    window: Span,
    layer: Layer[Any],
    before: StepStatus | None,
) -> StepStatus:
    reader = StatusReader(layer.step, window)
    for file in layer.over(window):
        reader.take(file.span, layer.open(file))
    status = reader.finish(before)
    for rows in status.failures:
        _insert_failures(connection, layer.fused, rows)
    for number, step in enumerate(layer.fused):
        outcome = unpack(status.outcomes, number) if len(layer.fused) > 1 else status.outcome
        _insert(connection, "outcome_runs", _runs(step, shard.id, window.first, outcome))
    return status


def _insert_failures(connection: duckdb.DuckDBPyConnection, steps: Sequence[str], failed: pa.Table) -> None:
    error = failed["_error"].combine_chunks()
    table = pa.table(
        {
            "record_id": failed["_id"],
            "step": pa.array(failed_in(steps, failed), pa.string()),
            "error_type": error.field("type"),
            "message": error.field("message"),
            "attempt": error.field("c"),
            "failed_at": error.field("at"),
        }
    )
    _insert(connection, "failures", table)


def _runs(step: str, shard_id: str, first: int, outcome: np.ndarray) -> pa.Table:
    starts, ends = np.array(runs(outcome), dtype=np.int64).reshape(-1, 2).T
    return pa.table(
        {
            "step": pa.repeat(step, len(starts)),
            "shard": pa.repeat(shard_id, len(starts)),
            "first_id": pa.array(first + starts),
            "last_id": pa.array(first + ends),
            "outcome": pa.array(_NAMES[outcome[starts]], pa.string()),
        }
    )


def _attempt_row(close: Close, step: str) -> dict[str, Any]:
    """An attempt at a step, which may be one of several that were claimed and committed together."""
    work = close.work_in(step)
    return {
        "step": step,
        "shard": close.shard,
        "attempt": str(close.claim),
        "outcome": str(close.outcome),
        "reason": close.reason,
        "started_at": close.started_at,
        "ended_at": close.ended_at or None,
        "host": close.info.host,
        "pid": close.info.pid,
        "try_number": close.info.try_number,
        "processed": work.processed,
        "blocks": work.blocks,
        "seconds": work.seconds,
        "fingerprint": close.fingerprint,
    }


def _insert(connection: duckdb.DuckDBPyConnection, table: str, rows: pa.Table) -> None:
    if rows.num_rows == 0:
        return
    connection.register("incoming", rows)
    connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming")  # names are ours
    connection.unregister("incoming")

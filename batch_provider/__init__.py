"""Record-level batch jobs for Apache Airflow.

The public names are imported when they are first used: a DAG file pays for what it uses, and ``import
batch_provider`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batch_provider.deadlines import batch_deadline
    from batch_provider.domain.accept import AcceptPolicy
    from batch_provider.domain.errors import BatchError, InvalidOptionError, JobDefinitionError, JobFailedError
    from batch_provider.domain.instance import JobInstance
    from batch_provider.domain.outcome import JobState, Outcome
    from batch_provider.domain.result import BatchJobResult
    from batch_provider.domain.spec import AggregatorSpec, CallPolicy, JobSpec, SqlSpec, StepSpec
    from batch_provider.engine.steps.vector import failed
    from batch_provider.hooks.batch import BatchHook
    from batch_provider.notifications.notifier import BatchNotifier
    from batch_provider.operators.aggregate import BatchAggregatorOperator, BatchStreamOperator
    from batch_provider.operators.load import BatchJobOperator
    from batch_provider.operators.on_complete import BatchOnCompleteOperator
    from batch_provider.operators.purge import BatchPurgeOperator
    from batch_provider.operators.step import BatchStageOperator, BatchStepOperator
    from batch_provider.sources.files import Files
    from batch_provider.sources.records import Records
    from batch_provider.sources.sql import Sql
    from batch_provider.task_group import BatchJob
    from batch_provider.writers.parquet.files import ParquetFiles
    from batch_provider.writers.sql.table import SqlTable

__version__ = "0.1.0"

__all__ = [
    "AcceptPolicy",
    "AggregatorSpec",
    "BatchAggregatorOperator",
    "BatchError",
    "BatchHook",
    "BatchJob",
    "BatchJobOperator",
    "BatchJobResult",
    "BatchNotifier",
    "BatchOnCompleteOperator",
    "BatchPurgeOperator",
    "BatchStageOperator",
    "BatchStepOperator",
    "BatchStreamOperator",
    "CallPolicy",
    "Files",
    "InvalidOptionError",
    "JobDefinitionError",
    "JobFailedError",
    "JobInstance",
    "JobSpec",
    "JobState",
    "Outcome",
    "ParquetFiles",
    "Records",
    "Sql",
    "SqlSpec",
    "SqlTable",
    "StepSpec",
    "batch_deadline",
    "failed",
]

_HOMES = {
    "AcceptPolicy": "domain.accept",
    "AggregatorSpec": "domain.spec",
    "BatchAggregatorOperator": "operators.aggregate",
    "BatchError": "domain.errors",
    "BatchHook": "hooks.batch",
    "BatchJob": "task_group",
    "BatchJobOperator": "operators.load",
    "BatchJobResult": "domain.result",
    "BatchNotifier": "notifications.notifier",
    "BatchOnCompleteOperator": "operators.on_complete",
    "BatchPurgeOperator": "operators.purge",
    "BatchStageOperator": "operators.step",
    "BatchStepOperator": "operators.step",
    "BatchStreamOperator": "operators.aggregate",
    "CallPolicy": "domain.spec",
    "Files": "sources.files",
    "InvalidOptionError": "domain.errors",
    "JobDefinitionError": "domain.errors",
    "JobFailedError": "domain.errors",
    "JobInstance": "domain.instance",
    "JobSpec": "domain.spec",
    "JobState": "domain.outcome",
    "Outcome": "domain.outcome",
    "ParquetFiles": "writers.parquet.files",
    "Records": "sources.records",
    "Sql": "sources.sql",
    "SqlSpec": "domain.spec",
    "SqlTable": "writers.sql.table",
    "StepSpec": "domain.spec",
    "batch_deadline": "deadlines",
    "failed": "engine.steps.vector",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

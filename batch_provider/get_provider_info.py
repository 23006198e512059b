"""What Airflow is told about this provider."""

from __future__ import annotations

from typing import Any

_INTEGRATION = "Batch"


def get_provider_info() -> dict[str, Any]:
    """Describe the provider: its operators and its options, by the names Airflow knows them by."""
    return {
        "package-name": "airflow-provider-batch",
        "name": "Batch",
        "description": "Record-level batch jobs: durable load, block checkpoints, redrive of failed records.",
        "integrations": [{"integration-name": _INTEGRATION, "tags": ["software"]}],
        "operators": [
            {
                "integration-name": _INTEGRATION,
                "python-modules": [
                    "batch_provider.operators.load",
                    "batch_provider.operators.step",
                    "batch_provider.operators.aggregate",
                    "batch_provider.operators.on_complete",
                    "batch_provider.operators.purge",
                ],
            }
        ],
        "hooks": [{"integration-name": _INTEGRATION, "python-modules": ["batch_provider.hooks.batch"]}],
        "triggers": [{"integration-name": _INTEGRATION, "python-modules": ["batch_provider.operators.triggers"]}],
        "cli": ["batch_provider.cli.definition.get_cli_commands"],
        "task-decorators": [{"name": "batch_step", "class-name": "batch_provider.decorators.batch_step_task"}],
        "notifications": ["batch_provider.notifications.notifier.BatchNotifier"],
        "config": {
            "batch_provider": {
                "description": "Record-level batch jobs.",
                "options": _options(),
            }
        },
    }


def _options() -> dict[str, dict[str, Any]]:
    """What can be set in the section ``[batch_provider]``."""
    return {
        "storage_path": {
            "description": (
                "Where job instances are kept: a directory that every worker and the API server "
                "share. Empty: the folder batch inside AIRFLOW_HOME, "
                "which is enough for one machine only."
            ),
            "version_added": "0.1.0",
            "type": "string",
            "example": "/mnt/shared/batch",
            "default": "",
        },
        "block_size": {
            "description": (
                "Records in a block, the unit of work and checkpoint, for jobs that do not say. "
                "A whole number, or auto: chosen from the input's size."
            ),
            "version_added": "0.1.0",
            "type": "string",
            "example": "1000",
            "default": "auto",
        },
        "max_failed_records": {
            "description": (
                "How many failed records a job takes before it stops, for jobs that do not say. "
                "0 stops at the first, -1 never stops."
            ),
            "version_added": "0.1.0",
            "type": "integer",
            "example": "100",
            "default": "0",
        },
        "retention_days": {
            "description": (
                "How many days an instance is kept after the last write to it. BatchPurgeOperator and "
                "airflow batch purge remove older ones; nothing is removed without them."
            ),
            "version_added": "0.1.0",
            "type": "integer",
            "example": "30",
            "default": "7",
        },
    }

"""Every import of what Airflow does not call public: what a new version may move, in one file.

Public, and imported where they are needed: ``airflow.sdk``, ``airflow.sdk.exceptions``, ``airflow.triggers.base`` and
``airflow.sdk.plugins_manager``. What is here is imported when it is first used: a task needs nothing of the metadata
database, a DAG file nothing of the command line.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from airflow.cli.cli_config import (
        ARG_OUTPUT,
        ARG_VERBOSE,
        ARG_YES,
        ActionCommand,
        Arg,
        CLICommand,
        GroupCommand,
        lazy_load_command,
        positive_int,
    )
    from airflow.cli.simple_table import AirflowConsole
    from airflow.models.dagrun import DagRun
    from airflow.sdk._shared.secrets_masker import redact
    from airflow.sdk.definitions._internal.contextmanager import TaskGroupContext
    from airflow.sdk.definitions.callback import AsyncCallback
    from airflow.sdk.definitions.deadline import BaseDeadlineReference, DeadlineAlert
    from airflow.sdk.definitions.taskgroup import MappedTaskGroup
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
    from airflow.utils.cli import action_cli, suppress_logs_and_warning
    from airflow.utils.helpers import ask_yesno
    from airflow.utils.platform import getuser
    from airflow.utils.providers_configuration_loader import providers_configuration_loaded
    from airflow.utils.session import create_session
    from airflow.utils.types import DagRunType


class Private(NamedTuple):
    """Where Airflow keeps something, and what of ours breaks without it."""

    module: str
    breaks: str


_COMMANDS = "the commands below `airflow batch`"
_DATABASE = "whether a DAG run is still running: `airflow batch list`, `stop`, `redrive` and `purge`"

PRIVATE = {
    "ARG_OUTPUT": Private("airflow.cli.cli_config", _COMMANDS),
    "ARG_VERBOSE": Private("airflow.cli.cli_config", _COMMANDS),
    "ARG_YES": Private("airflow.cli.cli_config", _COMMANDS),
    "ActionCommand": Private("airflow.cli.cli_config", _COMMANDS),
    "Arg": Private("airflow.cli.cli_config", _COMMANDS),
    "CLICommand": Private("airflow.cli.cli_config", _COMMANDS),
    "GroupCommand": Private("airflow.cli.cli_config", _COMMANDS),
    "lazy_load_command": Private("airflow.cli.cli_config", _COMMANDS),
    "positive_int": Private("airflow.cli.cli_config", _COMMANDS),
    "AirflowConsole": Private("airflow.cli.simple_table", "the tables that `airflow batch` prints"),
    "DagRun": Private("airflow.models.dagrun", f"{_DATABASE}; the deadline of a run"),
    "redact": Private("airflow.sdk._shared.secrets_masker", "the masking of secrets in alerts"),
    "AsyncCallback": Private("airflow.sdk.definitions.callback", "batch_deadline()"),
    "BaseDeadlineReference": Private("airflow.sdk.definitions.deadline", "batch_deadline()"),
    "DeadlineAlert": Private("airflow.sdk.definitions.deadline", "batch_deadline()"),
    "TaskGroupContext": Private(
        "airflow.sdk.definitions._internal.contextmanager", "the refusal of a job inside a mapped task group"
    ),
    "MappedTaskGroup": Private("airflow.sdk.definitions.taskgroup", "the refusal of a job inside a mapped task group"),
    "RuntimeTaskInstance": Private(
        "airflow.sdk.execution_time.task_runner", "the turns of instances, and a purge that spares running ones"
    ),
    "action_cli": Private("airflow.utils.cli", "the log of who called which command"),
    "suppress_logs_and_warning": Private("airflow.utils.cli", "output of commands that a program can read"),
    "ask_yesno": Private("airflow.utils.helpers", "the question before a command changes something"),
    "getuser": Private("airflow.utils.platform", "who asked for a stop"),
    "providers_configuration_loaded": Private(
        "airflow.utils.providers_configuration_loader", "the defaults of [batch_provider] in commands"
    ),
    "create_session": Private("airflow.utils.session", _DATABASE),
    "DagRunType": Private("airflow.utils.types", "deadlines that leave backfills out"),
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used (PEP 562).

    Raises:
        ImportError: this Airflow does not have it.
    """
    if name not in PRIVATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, breaks = PRIVATE[name]
    try:
        value = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        from importlib.metadata import version

        raise ImportError(
            f"Airflow {version('apache-airflow-core')} has no {module}.{name}, and airflow-provider-batch needs it for "
            f"{breaks}. Use a version of Airflow that the provider's README names, or a newer provider."
        ) from error
    globals()[name] = value
    return value

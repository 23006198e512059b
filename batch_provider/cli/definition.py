"""What Airflow's command line is told: names, arguments and help, and nothing that is slow to import."""

from __future__ import annotations

from batch_provider.airflow_compat import (
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

_INSTANCE = Arg(
    ("instance",),
    help="The job instance: its id, the run id of its DAG run, or a part of the id that only one has",
)
_DAG_ID = Arg(("-d", "--dag-id"), help="Only instances of this DAG")
_JOB = Arg(("-j", "--job"), help="Only instances of jobs of this name")
_PLACE = (_DAG_ID, _JOB)
_STATE = Arg(("-s", "--state"), help="Only instances in this state, such as EXECUTING or FAILED_PROCESS_RECORDS")
_GENERATION = Arg(
    ("-g", "--generation"), help="An older load of the input, by its name (g1-…): for reading; default: the latest"
)
_STEP = Arg(("--step",), help="Only failures of this step; input: malformed records of the input")
_RECORDS = Arg(("-r", "--records"), help="Show the failed records one by one, not their kinds", action="store_true")
_LIMIT = Arg(
    ("-l", "--limit"), help="Show at most so many (default: 100)", type=positive_int(allow_zero=False), default=100
)
_REASON = Arg(("--reason",), help="Why: for the log, the report, and whoever carries on", required=True)
_OLDER_THAN = Arg(
    ("--older-than",),
    help="Remove what was last written to so long ago: 7d, 12h, 30m (default: [batch_provider] retention_days)",
)
_DRY_RUN = Arg(("--dry-run",), help="Only show what would happen", action="store_true")
_API_URL = Arg(("--api-url",), help="Airflow's API server (default: [api] base_url, else http://localhost:8080)")
_API_TOKEN = Arg(
    ("--api-token",), help="Token of the user who redrives (default: the environment variable AIRFLOW_CLI_TOKEN)"
)


def _command(name: str, text: str, *args: Arg, description: str | None = None) -> ActionCommand:
    function = lazy_load_command(f"batch_provider.cli.commands.{name}_command")
    return ActionCommand(name=name, help=text, description=description, func=function, args=(*args, ARG_VERBOSE))


_COMMANDS = (
    _command("list", "List job instances, the latest first", *_PLACE, _STATE, ARG_OUTPUT),
    _command("show", "Show the report of an instance, or how far it is", _INSTANCE, *_PLACE, _GENERATION, ARG_OUTPUT),
    _command(
        "errors",
        "Show what went wrong in an instance",
        _INSTANCE,
        *_PLACE,
        _GENERATION,
        _STEP,
        _RECORDS,
        _LIMIT,
        ARG_OUTPUT,
        description="The kinds of failures with their counts and an example; with --records the failed "
        "records one by one.",
    ),
    _command(
        "stop",
        "Ask a running instance to stop at the next block boundary",
        _INSTANCE,
        *_PLACE,
        _REASON,
        description="Everything done is kept: a later redrive, or a clear of the failed tasks, carries on.",
    ),
    _command(
        "redrive",
        "Process again what failed or never ran in an instance",
        _INSTANCE,
        *_PLACE,
        _GENERATION,
        _DRY_RUN,
        ARG_YES,
        _API_URL,
        _API_TOKEN,
        ARG_OUTPUT,
        description="Clears the earliest step with failed or not-run records of just the shards that have "
        "some, and what comes after it, through Airflow's REST API with the rights of the token's user.",
    ),
    _command(
        "purge",
        "Remove old instances and what killed tasks have left",
        *_PLACE,
        _OLDER_THAN,
        _DRY_RUN,
        ARG_YES,
        ARG_OUTPUT,
        description="Dead letters are copied to the archive first. An instance whose DAG run is queued or "
        "running is never touched.",
    ),
)


def get_cli_commands() -> list[CLICommand]:
    """The commands below ``airflow batch``."""
    return [GroupCommand(name="batch", help="Look after the instances of batch jobs", subcommands=_COMMANDS)]

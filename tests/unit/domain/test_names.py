"""Names and ids: nothing that reaches a path can leave its directory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_provider.domain.errors import InvalidOptionError
from batch_provider.domain.names import check_name, check_path_part, default_instance_id

EVIL = [
    pytest.param("../x", id="parent"),
    pytest.param("a/b", id="slash"),
    pytest.param("a\\b", id="backslash"),
    pytest.param("/etc/passwd", id="absolute"),
    pytest.param("a\0b", id="NUL"),
    pytest.param("%2e%2e%2fx", id="percent encoded"),
    pytest.param("x" * 5_000, id="5,000 characters"),
    pytest.param(".hidden", id="leading dot"),
    pytest.param("..", id="dots"),
    pytest.param("", id="empty"),
    pytest.param("a b", id="space"),
    pytest.param("a\n", id="newline at the end"),
    pytest.param("a\u202eb", id="right-to-left override"),
    pytest.param("*", id="glob"),
    pytest.param(None, id="None"),
    pytest.param(5, id="number"),
    pytest.param(b"a", id="bytes"),
]


@pytest.mark.parametrize("value", EVIL)
def test_evil_name_is_refused(value):
    with pytest.raises(InvalidOptionError, match="beginning with a letter"):
        check_name("job name", value)


@pytest.mark.parametrize("value", EVIL)
def test_evil_path_part_is_refused(value):
    with pytest.raises(InvalidOptionError, match="not beginning with a dot") as caught:
        check_path_part("job_instance_id", value)

    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", ["flights", "F", "a-b_c9", "x" * 100])
def test_plain_name_is_accepted(value):
    assert check_name("step", value) == value


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("9lives", id="leading digit"),
        pytest.param("_a", id="leading underscore"),
        pytest.param("zürich", id="unicode"),
        pytest.param("x" * 101, id="101 characters"),
    ],
)
def test_name_is_ascii_beginning_with_a_letter(value):
    with pytest.raises(InvalidOptionError, match="ASCII letters"):
        check_name("step", value)


@pytest.mark.parametrize("value", ["input", "load", "process", "on_complete"])
def test_names_of_our_own_tasks_are_taken_for_steps_only(value):
    with pytest.raises(InvalidOptionError, match="a name other than input, load, on_complete, process"):
        check_name("step", value)
    assert check_name("job name", value) == value


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("manual__2030-01-01T00:00:00.000001+00:00", id="run id"),
        pytest.param("zürich-東京", id="unicode letters"),
        pytest.param("a" * 200, id="200 bytes"),
    ],
)
def test_usual_path_part_is_accepted(value):
    assert check_path_part("job_instance_id", value) == value


def test_path_part_is_measured_in_bytes():
    with pytest.raises(InvalidOptionError):
        check_path_part("job_instance_id", "東" * 67)


def test_default_instance_id_reads_as_dag_run_and_job():
    assert default_instance_id("etl", "manual__1", "flights") == "etl~manual__1~flights"


def test_default_instance_id_is_the_same_every_time():
    assert default_instance_id("etl", "run 1/2", "flights") == default_instance_id("etl", "run 1/2", "flights")


def test_ids_that_were_cleaned_stay_apart():
    assert default_instance_id("etl", "run 1", "flights") != default_instance_id("etl", "run/1", "flights")


def test_ids_that_were_shortened_stay_apart():
    assert default_instance_id("etl", "x" * 300, "flights") != default_instance_id("etl", "x" * 301, "flights")


@given(
    dag=st.text(min_size=1), run=st.text(min_size=1), job=st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,99}", fullmatch=True)
)
def test_default_instance_id_is_always_a_path_part(dag, run, job):
    found = default_instance_id(dag, run, job)

    assert check_path_part("job_instance_id", found) == found

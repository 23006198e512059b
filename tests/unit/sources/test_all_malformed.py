"""Input of which no record is in order: the columns that its header or the schema names are there all the same."""

from __future__ import annotations

import pytest

from batch_provider import BatchJob, Files, Records
from batch_provider.domain.accept import AcceptPolicy
from batch_provider.domain.errors import SourceError
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.testing import LocalRun

COPY = pytest.mark.parametrize("copy", [True, False], ids=["copied", "referred to"])


def run_over(source, **options):
    """A job whose expression needs the columns a and b, and what its one step has seen."""
    job, seen = BatchJob("job", max_failed_records=-1, **options), []

    @job.step(accept_policy=AcceptPolicy.ALL, accept_expression="a is null and b is null or a = 1")
    def look(record):
        seen.append(dict(record))

    run = LocalRun(job.spec, store=MemoryBlobs())
    run.load(source)
    run.process_all()
    return run.complete(), seen


@COPY
def test_columns_of_a_csv_header_exist_although_every_line_is_malformed(tmp_path, copy):
    path = tmp_path / "in.csv"
    path.write_text("a,b\n1,2,3\n4\n")

    result, seen = run_over(Files(path, copy=copy))

    assert (result.total_records, result.failed_records) == (2, 2)
    assert seen == [{"a": None, "b": None}] * 2


@COPY
def test_columns_of_a_csv_file_exist_although_every_value_is_unfit(tmp_path, copy):
    path = tmp_path / "in.csv"
    path.write_text("a,b\nx,2\ny,3\n")

    result, seen = run_over(Files(path, copy=copy, schema={"a": "int64", "b": "int64"}))

    assert result.failed_records == 2
    assert seen == [{"a": None, "b": None}] * 2


@COPY
def test_columns_that_are_named_beside_a_csv_file_exist_although_every_line_is_malformed(tmp_path, copy):
    path = tmp_path / "in.csv"
    path.write_text("1,2,3\n4\n")

    assert run_over(Files(path, copy=copy, header=["a", "b"]))[1] == [{"a": None, "b": None}] * 2


@COPY
@pytest.mark.parametrize("order", [("good", "bad"), ("bad", "good")], ids=["good first", "malformed first"])
def test_a_file_that_is_all_malformed_among_others_has_the_same_columns(tmp_path, copy, order):
    texts = {"good": "a,b\n1,2\n", "bad": "a,b\n1,2,3\n"}
    for number, kind in enumerate(order):
        (tmp_path / f"{number}.csv").write_text(texts[kind])

    _, seen = run_over(Files(f"{tmp_path}/*.csv", copy=copy))

    records = {"good": {"a": 1, "b": 2}, "bad": {"a": None, "b": None}}
    assert seen == [records[kind] for kind in order]


@COPY
def test_records_that_are_malformed_far_from_good_ones_have_the_same_columns(tmp_path, copy):
    """The pieces that the input is cut into are no matter of the records."""
    path = tmp_path / "in.csv"
    path.write_text("a,b\n1,2\n" + f"{'x' * 70_000}\n" * 300 + "1,3\n")

    result, seen = run_over(Files(path, copy=copy))

    assert result.failed_records == 300
    assert [record for record in seen if record["a"]] == [{"a": 1, "b": 2}, {"a": 1, "b": 3}]
    assert seen.count({"a": None, "b": None}) == 300


@pytest.mark.parametrize(
    ("name", "text", "options"),
    [
        pytest.param("in.json", "[1, 2]", {}, id="json"),
        pytest.param("in.json", '{"items": [1, 2]}', {"record_path": "items"}, id="json at a path"),
        pytest.param("in.ndjson", "1\nnonsense\n", {}, id="ndjson"),
        pytest.param("in.ndjson", '{"a": "x", "b": 1}\n{"a": "y", "b": 1}\n', {}, id="ndjson with unfit values"),
        pytest.param(
            "in.xml", "<r><i><a>x</a><b>1</b></i><i><a>y</a><b>1</b></i></r>", {"record_path": "r/i"}, id="xml"
        ),
    ],
)
def test_columns_of_the_schema_exist_although_every_record_is_malformed(tmp_path, name, text, options):
    path = tmp_path / name
    path.write_text(text)

    result, seen = run_over(Files(path, schema={"a": "int64", "b": "int64"}, **options))

    assert (result.total_records, result.failed_records) == (2, 2)
    assert seen == [{"a": None, "b": None}] * 2


def test_columns_of_the_schema_exist_although_every_element_is_no_record():
    result, seen = run_over(Records([1, 2], schema={"a": "int64", "b": "int64"}))

    assert result.failed_records == 2
    assert seen == [{"a": None, "b": None}] * 2


def test_objects_without_a_demanded_field_still_fail_the_load(tmp_path):
    path = tmp_path / "in.ndjson"
    path.write_text("nonsense\n{}\n")

    with pytest.raises(SourceError, match="the columns 'a' are demanded but missing"):
        run_over(Files(path, schema={"a": "int64"}))

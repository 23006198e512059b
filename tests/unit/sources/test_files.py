import bz2
import datetime as dt
import gzip
import json
import math
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_provider.domain.errors import InvalidOptionError, SourceError, UnsupportedPayloadError
from batch_provider.engine.ports.store import Source
from batch_provider.sources import Files, LocalAccess
from batch_provider.sources import ndjson_reader as ndjson_module
from batch_provider.sources.files import _reader
from tests.unit.sources.source_reading import batches, read, types


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


# --- which files ------------------------------------------------------------------------------------------


def test_files_are_read_in_the_order_of_their_paths_and_once(tmp_path):
    for name in "cab":
        write(tmp_path / f"{name}.csv", f"x\n{name}\n")

    rows, _ = read(Files([f"{tmp_path}/*.csv", f"{tmp_path}/b.csv", str(tmp_path / "a.csv")]))

    assert [row["x"] for row in rows] == ["a", "b", "c"]


def test_columns_of_several_files_are_put_together_by_name(tmp_path):
    write(tmp_path / "1.csv", "a,b\n1,x\n")
    write(tmp_path / "2.csv", "c,a\n2.5,2\n")
    write(tmp_path / "3.ndjson", '{"b": "y"}\n')

    rows, malformed = read(Files(f"{tmp_path}/*"))

    assert malformed == []
    assert [{name: value for name, value in row.items() if value is not None} for row in rows] == [
        {"a": 1, "b": "x"},
        {"a": 2, "c": 2.5},
        {"b": "y"},
    ]


def test_a_malformed_line_of_several_files_names_its_file(tmp_path):
    for name in "ab":
        write(tmp_path / f"{name}.csv", "x,y\n1\n")

    _, malformed = read(Files(f"{tmp_path}/*.csv"))

    assert [f"{name}.csv" in bad.message for name, bad in zip("ab", malformed, strict=True)] == [True, True]


def test_a_chained_url_reaches_into_an_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr("a.csv", "x\n1\n")
        archive.writestr("b.csv", "x\n2\n")

    assert read(Files(f"zip://b.csv::{tmp_path}/in.zip"))[0] == [{"x": 2}]
    assert read(Files(f"zip://*.csv::{tmp_path}/in.zip"))[0] == [{"x": 1}, {"x": 2}]


def test_a_name_that_looks_like_a_pattern_is_a_name_if_there_is_such_a_file(tmp_path):
    write(tmp_path / "in[1].csv", "x\n1\n")

    assert read(Files(str(tmp_path / "in[1].csv")))[0] == [{"x": 1}]


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        pytest.param("in.csv.gz", gzip.compress, id="gzip"),
        pytest.param("in.csv.zst", lambda data: pa.compress(data, "zstd", asbytes=True), id="zstd"),
        pytest.param("in.csv.bz2", bz2.compress, id="bz2"),
        pytest.param("IN.CSV.GZ", lambda data: gzip.compress(data[:5]) + gzip.compress(data[5:]), id="two-members"),
    ],
)
def test_compressed_files_are_read_by_their_name(tmp_path, name, pack):
    assert read(Files(write(tmp_path / name, pack(b"x,y\n1,a\n2,b\n"))))[0] == [{"x": 1, "y": "a"}, {"x": 2, "y": "b"}]


def test_options_win_over_the_name(tmp_path):
    url = write(tmp_path / "export.dat", gzip.compress(b"x\n1\n"))

    assert read(Files(url, format="csv", compression="gzip"))[0] == [{"x": 1}]


@pytest.mark.parametrize(
    ("name", "content", "told", "retryable"),
    [
        pytest.param("*.csv", None, "none that matches", True, id="pattern-without-match"),
        pytest.param("gone.csv", None, "no such file", True, id="missing"),
        pytest.param("", None, "is a directory", False, id="directory"),
        pytest.param("in.dat", b"x", "Pass format=", False, id="unknown-format"),
        pytest.param("in.csv.zip", b"x", "zip://", False, id="archive"),
        pytest.param("in.csv.gz", b"hello world", "compression=", False, id="no-gzip"),
        pytest.param("in.parquet", b"hello world", "damaged", False, id="no-parquet"),
        pytest.param("in.parquet.gz", b"hello world", "Decompress", False, id="packed-parquet"),
    ],
)
def test_what_cannot_be_read_is_told_with_the_way_out(tmp_path, name, content, told, retryable):
    if content is not None:
        (tmp_path / name).write_bytes(content)

    with pytest.raises(SourceError, match=told) as raised:
        read(Files(str(tmp_path / name)))

    assert raised.value.retryable is retryable
    assert str(tmp_path) in str(raised.value)


class Unreliable(LocalFileSystem):  # type: ignore[misc]  # fsspec ships no types
    """A local file system that fails to open a file so many times."""

    cachable = False
    error: Exception = ConnectionResetError("reset by peer")
    failures = 0
    opened = 0

    def _open(self, path, *args, **kwargs):
        self.opened += 1
        if self.opened <= self.failures:
            raise self.error
        return super()._open(path, *args, **kwargs)


class UnreliableAccess(LocalAccess):
    def __init__(self, failures, error):
        super().__init__()
        self.filesystems = Unreliable()
        self.filesystems.failures, self.filesystems.error = failures, error

    def filesystem(self, url):
        return self.filesystems, url


def test_opening_is_tried_again_after_a_transient_error(tmp_path):
    access = UnreliableAccess(2, ConnectionResetError("reset by peer"))

    assert read(Files(write(tmp_path / "in.csv", "x\n1\n")), access)[0] == [{"x": 1}]
    assert access.filesystems.opened == 3


@pytest.mark.parametrize(
    ("error", "attempts", "told"),
    [
        pytest.param(TimeoutError("timed out"), 3, "timed out", id="transient-gives-up"),
        pytest.param(PermissionError(13, "denied"), 1, "permission denied", id="permission"),
    ],
)
def test_opening_gives_up(tmp_path, error, attempts, told):
    access = UnreliableAccess(9, error)

    with pytest.raises(SourceError, match=told):
        read(Files(write(tmp_path / "in.csv", "x\n1\n")), access)

    assert access.filesystems.opened == attempts


# --- NDJSON -----------------------------------------------------------------------------------------------


def test_ndjson_lines_that_are_no_object_are_malformed_records(tmp_path):
    url = write(
        tmp_path / "in.ndjson", '{"a": 1}\n\nnull\n5\n{"a": }\n[{"a": 2}]\n{"a": 3}{"a": 4}\n{"b": "x"}\n{"": 1}'
    )

    rows, malformed = read(Files(url))

    assert rows == [{"a": 1, "b": None}, {"a": None, "b": "x"}]
    assert [bad.line for bad in malformed] == [3, 4, 5, 6, 7, 9]
    assert malformed[2].raw == '{"a": }'


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("null", id="null-kills-pyarrow"),
        pytest.param('{"a":' * 100_000 + "1" + "}" * 100_000, id="depth-kills-pyarrow"),
        pytest.param("[" * 100_000, id="deep-and-open"),
    ],
)
def test_a_line_that_would_end_the_process_is_one_malformed_record(tmp_path, line):
    url = write(tmp_path / "in.ndjson", f'{line}\n{{"a": 1}}\n')

    rows, malformed = read(Files(url))

    assert (rows, [bad.line for bad in malformed]) == ([{"a": 1}], [1])
    assert len(malformed[0].raw) <= 65_536


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("2024-02-29", id="date-stays-text"),
        pytest.param(9_007_199_254_740_993, id="beyond-2-to-53"),
        pytest.param([{"at": "2024-02-29T10:00:00"}], id="nested-date-stays-text"),
        pytest.param({"n": [1.5, 2]}, id="nested"),
        pytest.param("\u2028\u0000é", id="odd-characters"),
    ],
)
def test_ndjson_values_stay_what_they_are(tmp_path, value):
    url = write(tmp_path / "in.ndjson", json.dumps({"a": value}) + "\n" + json.dumps({"a": None}) + "\n")

    assert read(Files(url)) == ([{"a": value}, {"a": None}], [])


def test_a_whole_number_that_no_column_can_hold_fails_its_record_unless_text_is_demanded(tmp_path):
    url = write(tmp_path / "in.ndjson", '{"a": 1}\n{"a": 12345678901234567890123}\n')

    rows, malformed = read(Files(url))

    assert (rows, [bad.line for bad in malformed]) == ([{"a": 1}], [2])
    assert read(Files(url, schema={"a": "string"}))[0] == [{"a": "1"}, {"a": "12345678901234567890123"}]


def test_ndjson_types_that_conflict_fail_the_records_that_cause_it(tmp_path, monkeypatch):
    monkeypatch.setattr(ndjson_module, "_BLOCK", 100)
    lines = [{"a": n} for n in range(100)] + [{"a": 0.5}, {"a": "x"}, {"a": {"b": 1}}, {"a": 7}]
    url = write(tmp_path / "in.ndjson", "".join(json.dumps(line) + "\n" for line in lines))

    rows, malformed = read(Files(url))

    assert [row["a"] for row in rows] == [*range(100), 0.5, 7]
    assert [bad.line for bad in malformed] == [102, 103]
    assert "column 'a'" in malformed[0].message


def test_ndjson_in_another_encoding_and_with_byte_order_mark(tmp_path):
    assert read(Files(write(tmp_path / "in.jsonl", '\ufeff{"a": 1}\n')))[0] == [{"a": 1}]
    url = write(tmp_path / "in16.jsonl", '{"a": "é"}\n'.encode("utf-16"))
    assert read(Files(url, encoding="utf-16"))[0] == [{"a": "é"}]


def test_a_contract_makes_dates_of_ndjson_text(tmp_path):
    url = write(tmp_path / "in.ndjson", '{"d": "2024-02-29"}\n{"d": null}\n{"d": "soon"}\n')

    rows, malformed = read(Files(url, schema={"d": "date32"}))

    assert (rows, [bad.line for bad in malformed]) == ([{"d": dt.date(2024, 2, 29)}, {"d": None}], [3])


def test_an_object_without_keys_is_a_record(tmp_path):
    (batch,) = batches(Files(write(tmp_path / "in.ndjson", "{}\n{}\n")))

    assert batch.num_rows == 2


def test_a_key_that_is_reserved_is_named(tmp_path):
    url = write(tmp_path / "in.ndjson", '{"_id": "5f1", "a": 1}\n')

    with pytest.raises(SourceError, match=r"rename=\{'_id'"):
        read(Files(url))
    assert read(Files(url, rename={"_id": "mongo_id"}))[0] == [{"mongo_id": "5f1", "a": 1}]


def test_a_key_that_is_demanded_may_be_absent_from_some_records_but_not_from_all(tmp_path):
    url = write(tmp_path / "in.ndjson", '{"a": 1}\n{"b": 2}\n')

    assert read(Files(url, schema={"a": "int64", "b": "int64"}))[0] == [{"a": 1, "b": None}, {"a": None, "b": 2}]
    with pytest.raises(SourceError, match="'c'"):
        read(Files(url, schema={"c": "int64"}))


SCALAR = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8"), max_size=8),
)


@settings(deadline=None, max_examples=150)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "i": st.integers(-(2**63), 2**63 - 1),
                "f": st.floats(allow_nan=False, allow_infinity=False),
                "s": st.text(st.characters(codec="utf-8"), max_size=8),
                "l": st.lists(st.integers(0, 9), max_size=3),
                "d": st.fixed_dictionaries({"x": st.booleans(), "y": st.text("ab-0", max_size=3)}),
            },
        ),
        min_size=1,
        max_size=30,
    ),
    size=st.integers(20, 500),
)
def test_what_python_writes_as_ndjson_is_read_back(tmp_path_factory, rows, size):
    url = write(tmp_path_factory.mktemp("ndjson") / "in.ndjson", "".join(json.dumps(row) + "\n" for row in rows))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ndjson_module, "_BLOCK", size)
        found, malformed = read(Files(url))

    assert malformed == []
    present = [{name: value for name, value in row.items() if value is not None} for row in found]
    assert present == rows


@settings(deadline=None, max_examples=100)
@given(rows=st.lists(st.dictionaries(st.sampled_from("ab"), SCALAR, max_size=2), min_size=1, max_size=20))
def test_every_line_becomes_one_record_or_one_malformed_record(tmp_path_factory, rows):
    url = write(tmp_path_factory.mktemp("ndjson") / "in.ndjson", "".join(json.dumps(row) + "\n" for row in rows))

    found, malformed = read(Files(url))

    assert len(found) + len(malformed) == len(rows)


# --- JSON -------------------------------------------------------------------------------------------------


def test_json_is_an_array_of_objects(tmp_path):
    url = write(tmp_path / "in.json", '\ufeff[{"a": 1, "b": 1.5}, 5, {"a": 2}, null, {"": 1}]')

    rows, malformed = read(Files(url))

    assert rows == [{"a": 1, "b": 1.5}, {"a": 2, "b": None}]
    assert [(bad.line, bad.raw) for bad in malformed] == [(2, "5"), (4, "null"), (5, '{"": 1}')]


@pytest.mark.parametrize(
    ("text", "path", "rows"),
    [
        pytest.param("[]", None, [], id="empty-array"),
        pytest.param('{"data": {"items": [{"a": 1}]}, "next": null}', "data.items", [{"a": 1}], id="inside"),
        pytest.param('{"data": {"items": []}}', "data.items", [], id="inside-and-empty"),
        pytest.param('[{"p": [{"a": 1}]}, {"p": [{"a": 2}]}]', "item.p", [{"a": 1}, {"a": 2}], id="arrays-in-an-array"),
    ],
)
def test_json_records_are_found_by_their_path(tmp_path, text, path, rows):
    assert read(Files(write(tmp_path / "in.json", text), record_path=path)) == (rows, [])


@pytest.mark.parametrize(
    ("text", "path", "error", "told"),
    [
        pytest.param('{"data": []}', None, UnsupportedPayloadError, "record_path", id="object"),
        pytest.param('"x"', None, UnsupportedPayloadError, "array of objects", id="scalar"),
        pytest.param('{"data": {}}', "data", UnsupportedPayloadError, "record_path='data'", id="object-at-the-path"),
        pytest.param('{"data": []}', "dat", SourceError, "nothing at record_path='dat'", id="wrong-path"),
        pytest.param('[{"a": 1}, {"a" 2}]', None, SourceError, "after element", id="syntax"),
        pytest.param('[{"a": 1}, {"a":', None, SourceError, "after element", id="cut-off"),
        pytest.param('[{"a": 1}] x', None, SourceError, "trailing", id="something-after-it"),
        pytest.param("", None, SourceError, "JSON is wrong", id="empty-file"),
    ],
)
def test_json_that_is_wrong_loads_nothing(tmp_path, text, path, error, told):
    with pytest.raises(error, match=told) as raised:
        read(Files(write(tmp_path / "in.json", text), record_path=path))

    assert raised.value.retryable is False


def test_a_json_number_beyond_int64_fails_its_record_and_not_the_file(tmp_path):
    url = write(tmp_path / "in.json", '[{"a": 1, "b": 0.5}, {"a": 12345678901234567890123}, {"a": 2, "b": 1.5}]')

    rows, malformed = read(Files(url))

    assert rows == [{"a": 1, "b": 0.5}, {"a": 2, "b": 1.5}]
    assert [bad.line for bad in malformed] == [2]


# --- XML --------------------------------------------------------------------------------------------------

ORDERS = """<?xml version="1.0" encoding="ISO-8859-1"?>
<orders xmlns="urn:shop"><!-- c --><sent>x</sent>
  <order id="1"><who>Zo\xeb</who><line sku="a">2</line><note/></order>
  <order id="2"><who>Max</who><line sku="b">1</line><line sku="c">9</line></order>
  <other><order id="9"/></other>
</orders>"""


def test_xml_elements_become_records(tmp_path):
    url = write(tmp_path / "in.xml", ORDERS.encode("latin-1"))

    rows, malformed = read(Files(url, record_path="orders/order"))

    assert malformed == []
    assert rows == [
        {"@id": "1", "who": "Zoë", "line": [{"@sku": "a", "#text": "2"}], "note": None},
        {"@id": "2", "who": "Max", "line": [{"@sku": "b", "#text": "1"}, {"@sku": "c", "#text": "9"}], "note": None},
    ]


def test_xml_values_are_text_unless_the_contract_says_otherwise(tmp_path):
    url = write(tmp_path / "in.xml", "<r><o><n>1</n><d>2024-02-29</d></o><o><n>x</n></o></r>")

    rows, malformed = read(Files(url, record_path="r/o", schema={"n": "int64", "d": "date32"}))

    assert rows == [{"n": 1, "d": dt.date(2024, 2, 29)}]
    assert [bad.line for bad in malformed] == [2]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param('<!DOCTYPE r [<!ENTITY e "x">]><r><o>&e;</o></r>', "DOCTYPE", id="doctype"),
        pytest.param("<!DOCTYPE r><r/>", "DOCTYPE", id="doctype-without-records"),
        pytest.param("<r><o>1</o><o>", "XML is wrong after record 1", id="cut-off"),
        pytest.param("<x><o>1</o></x>", "the root is <x>", id="wrong-path"),
        pytest.param("", "XML is wrong", id="empty-file"),
        pytest.param("<r>" + "<o>" * 300 + "</o>" * 300 + "</r>", "XML is wrong", id="too-deep"),
    ],
)
def test_xml_that_is_wrong_or_dangerous_is_refused(tmp_path, text, told):
    with pytest.raises(SourceError, match=told):
        read(Files(write(tmp_path / "in.xml", text), record_path="r/o"))


def test_a_format_nobody_knows_is_read_as_none_of_the_others():
    with pytest.raises(InvalidOptionError, match="format='xlsx' is not allowed; use 'csv' or"):
        _reader("xlsx")


def test_xml_without_records_is_no_error(tmp_path):
    assert read(Files(write(tmp_path / "in.xml", "<r></r>"), record_path="r/o")) == ([], [])


def test_xml_needs_the_path_to_its_records():
    with pytest.raises(InvalidOptionError, match="record_path"):
        Files("in.xml")


# --- Parquet ----------------------------------------------------------------------------------------------


def test_parquet_keeps_its_types_and_streams(tmp_path):
    table = pa.table(
        {"a": pa.array(range(200_000), pa.int32()), "c": pa.array(["x", "y"] * 100_000).dictionary_encode()}
    )
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=150_000)
    source = Files(str(tmp_path / "in.parquet"))

    sizes = [batch.num_rows for batch in batches(source)]

    assert sum(sizes) == 200_000
    assert max(sizes) <= 65_536
    assert types(source) == {"a": "int32", "c": "string"}


def test_parquet_without_rows_tells_its_columns(tmp_path):
    pq.write_table(pa.table({"a": pa.array([], pa.int32())}), tmp_path / "in.parquet")

    assert types(Files(str(tmp_path / "in.parquet"))) == {"a": "int32"}


def test_parquet_files_whose_types_conflict_fail_the_records_that_cause_it(tmp_path):
    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"a": [0.5]}), tmp_path / "2.parquet")
    pq.write_table(pa.table({"a": ["x", None]}), tmp_path / "3.parquet")

    rows, malformed = read(Files(f"{tmp_path}/*.parquet"))

    assert [row["a"] for row in rows] == [1, 2, 0.5, None]
    assert [(bad.line, json.loads(bad.raw)) for bad in malformed] == [(1, {"a": "x"})]
    assert read(Files(f"{tmp_path}/*.parquet", schema={"a": "string"}))[1] == []


def test_a_contract_for_parquet_loses_nothing_in_silence(tmp_path):
    pq.write_table(pa.table({"a": [1.0, 2.5, math.nan]}), tmp_path / "in.parquet")

    rows, malformed = read(Files(str(tmp_path / "in.parquet"), schema={"a": "int64"}))

    assert (rows, [bad.line for bad in malformed]) == ([{"a": 1}], [2, 3])


# --- the declared value -----------------------------------------------------------------------------------


def test_a_password_is_never_shown(tmp_path):
    source = Files(["s3://key:s3cret@bucket/a.csv", "https://host/a.csv?sig=s3cret"])

    assert "s3cret" not in repr(source) + source.describe()
    with pytest.raises(SourceError) as raised:
        read(Files("nowhere://key:s3cret@bucket/a.csv"))
    assert "s3cret" not in str(raised.value)


def test_a_source_is_a_value(tmp_path):
    source = Files("a.csv", schema={"a": "int64"}, null_values=["NA"], rename={"x": "a"})

    assert isinstance(source, Source)
    assert source == Files(["a.csv"], schema=pa.schema([("a", pa.int64())]), null_values=["NA"], rename={"x": "a"})
    assert pickle.loads(pickle.dumps(source)) == source
    assert hash(source) == hash(pickle.loads(pickle.dumps(source)))
    assert repr(source) == "Files(['a.csv'], null_values=('NA',), schema={'a': 'int64'}, rename=(('x', 'a'),))"


def test_urls_are_templated():
    source = Files("{{ var.value.landing }}/a.csv", delimiter=";")

    rendered = source.with_template_values({"urls": ["/in/a.csv"]})

    assert source.template_values() == {"urls": ["{{ var.value.landing }}/a.csv"]}
    assert rendered == Files("/in/a.csv", delimiter=";")


@pytest.mark.parametrize(
    "urls", [pytest.param([], id="none"), pytest.param("", id="empty"), pytest.param(5, id="number")]
)
def test_urls_that_are_none_are_refused(urls):
    with pytest.raises(InvalidOptionError, match="urls"):
        Files(urls)


def test_only_formats_that_can_be_sharded_may_stay_where_they_are():
    assert Files("in.parquet", copy=False).copy is False
    with pytest.raises(InvalidOptionError, match="copy"):
        Files("in.json", copy=False)


def test_declaring_a_source_imports_no_heavy_library():
    code = (
        "import sys; from batch_provider.sources import Files, Records, Sql;"
        "Files('a.csv'); Records([]); Sql('db', 'SELECT a FROM t');"
        "print(sorted({'pyarrow', 'lxml', 'ijson', 'fsspec', 'numpy', 'tenacity', 'airflow'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert done.stdout.strip() == "[]"

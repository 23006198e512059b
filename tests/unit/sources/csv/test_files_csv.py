import csv
import datetime as dt
import gzip
import io

import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from batch_provider.domain.errors import InvalidOptionError, LoadError, SourceError
from batch_provider.sources import Files
from batch_provider.sources.csv import reader as csv_module
from tests.unit.sources.source_reading import batches, read, types


def write(tmp_path, text, name="in.csv", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return str(path)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few lines, so that a short file has many."""
    monkeypatch.setattr(csv_module, "_FIRST", 64)
    monkeypatch.setattr(csv_module, "_BLOCK", 16)
    monkeypatch.setattr(csv_module, "_SMALL", 4)


def test_types_are_inferred_as_pyarrow_does(tmp_path):
    url = write(tmp_path, "i,f,b,d,t,z,s\n1,1.5,true,2024-02-29,2024-02-29 10:00:00,2024-02-29T10:00:00Z,x\n")

    assert types(Files(url)) == {
        "i": "int64",
        "f": "double",
        "b": "bool",
        "d": "date32[day]",
        "t": "timestamp[s]",
        "z": "timestamp[s, tz=UTC]",
        "s": "string",
    }
    assert read(Files(url))[0][0]["d"] == dt.date(2024, 2, 29)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        pytest.param("", [], id="empty-file"),
        pytest.param("a,b\n", [], id="header-only"),
        pytest.param("a,b", [], id="header-without-line-end"),
        pytest.param("a,b\n1,x", [{"a": 1, "b": "x"}], id="no-last-line-end"),
        pytest.param("a,b\r\n1,x\r\n\r\n2,y\r\n", [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}], id="crlf-and-blank-line"),
        pytest.param("\ufeffa,b\n1,x\n", [{"a": 1, "b": "x"}], id="byte-order-mark"),
        pytest.param('a,b\n1,"x\ny"\n2,z\n', [{"a": 1, "b": "x\ny"}, {"a": 2, "b": "z"}], id="quoted-newline"),
        pytest.param('"a\nb",c\n1,2\n', [{"a\nb": 1, "c": 2}], id="header-over-two-lines"),
        pytest.param('a,b\n1,"say ""hi"", x"\n', [{"a": 1, "b": 'say "hi", x'}], id="doubled-quotes"),
        pytest.param('a,b\n1,5" pipe\n2,6" pipe\n', [{"a": 1, "b": '5" pipe'}, {"a": 2, "b": '6" pipe'}], id="inches"),
        pytest.param("a\n1\n\n2\n", [{"a": 1}, {"a": 2}], id="one-column-with-blank-line"),
        pytest.param("a,b\n1,\n,x\n", [{"a": 1, "b": None}, {"a": None, "b": "x"}], id="empty-is-null-in-every-type"),
    ],
)
def test_what_a_file_holds(tmp_path, text, rows):
    assert read(Files(write(tmp_path, text))) == (rows, [])


def test_a_file_with_a_header_only_tells_its_columns(tmp_path):
    (batch,) = batches(Files(write(tmp_path, "a,b\n")))

    assert (batch.num_rows, batch.schema.names) == (0, ["a", "b"])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        pytest.param("a,b,a\n1,2,3\n", "'a'", id="twice"),
        pytest.param("a,,c\n1,2,3\n", "column 2", id="without-name"),
        pytest.param("_id,b\n1,2\n", "'_id'", id="reserved"),
        pytest.param("a,b\r1,2\r", "LF", id="carriage-returns-only"),
        pytest.param(b"caf\xe9,b\n1,2\n", "encoding", id="not-utf-8"),
        pytest.param('"a,b\n1,2\n', "header", id="open-quote"),
        pytest.param("\n\n", "header", id="blank-lines-only"),
    ],
)
def test_a_header_that_cannot_be_used_is_an_error_that_names_it(tmp_path, text, named):
    with pytest.raises(LoadError, match=named) as raised:
        read(Files(write(tmp_path, text)))

    assert raised.value.retryable is False


def test_a_reserved_header_can_be_renamed(tmp_path):
    url = write(tmp_path, "_id,b\n1,2\n")

    assert read(Files(url, rename={"_id": "id"}, schema={"id": "string", "b": "int64"}))[0] == [{"id": "1", "b": 2}]


def test_a_malformed_line_is_a_record_with_line_number_and_raw_text(tmp_path):
    url = write(tmp_path, 'a,b\n1,"x\ny"\n\n2\n3,z,q\n4,w\n')

    rows, malformed = read(Files(url))

    assert rows == [{"a": 1, "b": "x\ny"}, {"a": 4, "b": "w"}]
    assert [(bad.line, bad.raw, bad.error_type) for bad in malformed] == [
        (5, "2", "MalformedRecord"),
        (6, "3,z,q", "MalformedRecord"),
    ]
    assert "1 field where the header has 2" in malformed[0].message


@pytest.mark.parametrize(
    ("text", "lines", "good"),
    [
        pytest.param('1,"x\n2,y\n3,z\n', [2], [2, 3], id="never-closed"),
        pytest.param('1,"x\n2,y\n3,"z"\n', [2], [2, 3], id="closed-by-the-next-opening"),
        pytest.param('1,"x"y\n2,z\n', [2], [2], id="text-after-the-closing-quote"),
        pytest.param('1,"x\n' + "".join(f"{n},y\n" for n in range(2, 3000)), [2], list(range(2, 3000)), id="far"),
        pytest.param('1,"x\ny",z\n2,w\n', [2], [2], id="too-many-fields-over-two-lines"),
    ],
)
def test_a_stray_quote_costs_its_own_record_only(tmp_path, text, lines, good):
    rows, malformed = read(Files(write(tmp_path, "a,b\n" + text)))

    assert [bad.line for bad in malformed] == lines
    assert [row["a"] for row in rows] == good


def test_a_later_value_that_does_not_fit_fails_its_record_only(tmp_path, small_blocks):
    lines = [f"{n},{n}" for n in range(100)]
    lines[70] = "abc,70"

    rows, malformed = read(Files(write(tmp_path, "\n".join(["a,b", *lines]))))

    assert [row["b"] for row in rows] == [n for n in range(100) if n != 70]
    (bad,) = malformed
    assert (bad.line, bad.raw, bad.error_type) == (72, "abc,70", "UnfitValue")
    assert "column 'a': 'abc' is not int64" in bad.message
    assert "schema={'a': 'string'}" in bad.message


def test_a_column_of_whole_numbers_is_widened_by_a_fraction(tmp_path, small_blocks):
    lines = [str(n) for n in range(100)]
    lines[70] = "1.5"
    source = Files(write(tmp_path, "\n".join(["a", *lines])))

    rows, malformed = read(source)

    assert (len(rows), malformed) == (100, [])
    assert types(source) == {"a": "double"}


def test_whole_numbers_too_long_for_int64_stay_text(tmp_path):
    url = write(tmp_path, "a\n1\n92001902551559000101352584\n")

    assert read(Files(url))[0] == [{"a": "1"}, {"a": "92001902551559000101352584"}]


def test_a_column_that_is_empty_at_first_takes_the_type_of_its_first_values(tmp_path, small_blocks):
    source = Files(write(tmp_path, "a,b\n" + "1,\n" * 50 + "1,7\n" * 50))

    assert read(source)[0][-1] == {"a": 1, "b": 7}


def test_bytes_that_are_not_utf8_fail_their_record_only(tmp_path):
    rows, malformed = read(Files(write(tmp_path, b"a,b\n1,caf\xe9\n2,tea\n")))

    assert rows == [{"a": 2, "b": "tea"}]
    assert malformed[0].line == 2


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-8-sig", "latin-1"])
def test_encodings_are_read(tmp_path, encoding):
    url = write(tmp_path, "a,ü\n1,café\n", encoding=encoding)

    assert read(Files(url, encoding=encoding)) == ([{"a": 1, "ü": "café"}], [])


def test_what_an_encoding_does_not_have_fails_its_record_only(tmp_path):
    rows, malformed = read(Files(write(tmp_path, b"a,b\n1,\x81\n2,\x80\n"), encoding="cp1252"))

    assert (rows, [bad.line for bad in malformed]) == ([{"a": 2, "b": "€"}], [2])


def test_null_values_hold_in_text_columns_too(tmp_path):
    url = write(tmp_path, 'a,b\n1,NA\nNA,"NA"\n3,\n')

    assert read(Files(url, null_values=["NA"]))[0] == [
        {"a": 1, "b": None},
        {"a": None, "b": None},
        {"a": 3, "b": ""},
    ]


def test_tabs_and_other_delimiters(tmp_path):
    assert read(Files(write(tmp_path, "a\tb\n1\tx,y\n", "in.tsv")))[0] == [{"a": 1, "b": "x,y"}]
    assert read(Files(write(tmp_path, "a;b\n1;'x;y'\n"), delimiter=";", quote="'"))[0] == [{"a": 1, "b": "x;y"}]
    assert read(Files(write(tmp_path, 'a,b\n1,"x\n2,y"\n'), quote=None))[0] == [
        {"a": 1, "b": '"x'},
        {"a": 2, "b": 'y"'},
    ]


def test_names_are_given_to_a_file_without_header(tmp_path):
    assert read(Files(write(tmp_path, "1,x\n2,y\n"), header=["a", "b"]))[0] == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


def test_a_contract_demands_and_coerces(tmp_path):
    url = write(tmp_path, "id,price,note\n007,1.10,x\nabc,2.25,y\n9,much,z\n")

    rows, malformed = read(Files(url, schema={"id": "int64", "price": "decimal128(10, 2)"}))

    assert [(row["id"], str(row["price"]), row["note"]) for row in rows] == [(7, "1.10", "x")]
    assert [bad.line for bad in malformed] == [3, 4]
    assert "column 'price': 'much' is not decimal128(10, 2), which the schema demands" in malformed[1].message


def test_a_contract_names_what_is_missing_and_what_is_there(tmp_path):
    with pytest.raises(SourceError, match="'c' are demanded but missing; found: 'a', 'b'"):
        read(Files(write(tmp_path, "a,b\n1,2\n"), schema={"a": "int64", "c": "int64"}))


@pytest.mark.parametrize(
    ("extra", "rows"),
    [
        pytest.param("keep", [{"a": 1, "b": 2}], id="keep"),
        pytest.param("drop", [{"a": 1}], id="drop"),
    ],
)
def test_extra_columns_are_kept_or_dropped(tmp_path, extra, rows):
    assert read(Files(write(tmp_path, "b,a\n2,1\n"), schema={"a": "int64"}, extra_columns=extra))[0] == rows


def test_extra_columns_are_refused_by_name(tmp_path):
    with pytest.raises(SourceError, match="'b' is not in the schema"):
        read(Files(write(tmp_path, "b,a\n2,1\n"), schema={"a": "int64"}, extra_columns="refuse"))


def test_a_null_where_the_contract_forbids_it_fails_its_record(tmp_path):
    schema = pa.schema([pa.field("a", pa.int64(), nullable=False), ("b", pa.string())])

    rows, malformed = read(Files(write(tmp_path, "a,b\n1,x\n,y\n"), schema=schema))

    assert (rows, [(bad.line, bad.raw) for bad in malformed]) == ([{"a": 1, "b": "x"}], [(3, ",y")])


def test_a_type_that_csv_cannot_hold_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="cannot hold list"):
        read(Files(write(tmp_path, "a\n1\n"), schema={"a": "list<int64>"}))


def test_a_line_without_end_is_an_error_and_not_a_full_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_module, "_FIRST", 64)
    monkeypatch.setattr(csv_module, "_BLOCK", 64)
    monkeypatch.setattr(csv_module, "_LONGEST", 1_000)

    with pytest.raises(SourceError, match="line 2 is longer"):
        read(Files(write(tmp_path, "a,b\n" + "x" * 10_000)))


def test_batches_are_bounded(tmp_path):
    url = write(tmp_path, "a\n" + "1\n" * 1_000_000)

    sizes = [batch.num_rows for batch in batches(Files(url))]

    assert sum(sizes) == 1_000_000
    assert max(sizes) <= 65_536


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@settings(deadline=None, max_examples=150)
@given(
    rows=st.lists(st.tuples(CELL, CELL, CELL), max_size=30),
    style=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    end=st.sampled_from(["\n", "\r\n"]),
    size=st.integers(30, 400),
)
def test_what_python_writes_as_csv_is_read_back(tmp_path_factory, rows, style, end, size):
    text = io.StringIO()
    assume(style == csv.QUOTE_ALL or not any("\r" in cell for row in rows for cell in row))  # it leaves that bare
    writer = csv.writer(text, quoting=style, lineterminator=end)
    writer.writerow(["a", "b", "c"])
    writer.writerows(rows)
    url = write(tmp_path_factory.mktemp("csv"), text.getvalue())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_module, "_FIRST", size)
        patch.setattr(csv_module, "_BLOCK", size // 2)
        read_rows, malformed = read(Files(url, null_values=(), schema=dict.fromkeys("abc", "string")))

    assert malformed == []
    assert [tuple(row.values()) for row in read_rows] == rows


@settings(deadline=None, max_examples=150)
@given(lines=st.lists(st.text('ab1",\n\r ', max_size=10), max_size=25), size=st.integers(8, 200))
def test_no_line_is_dropped_whatever_stands_in_it(tmp_path_factory, lines, size):
    url = write(tmp_path_factory.mktemp("csv"), "x,y\n" + "\n".join(lines))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_module, "_FIRST", size)
        patch.setattr(csv_module, "_BLOCK", size // 2)
        pieces = read(Files(url, null_values=(), schema={"x": "string", "y": "string"}))
    whole = read(Files(url, null_values=(), schema={"x": "string", "y": "string"}))

    assert pieces == whole  # it does not matter where blocks end
    kept = sum(len(row["x"]) + len(row["y"]) for row in whole[0]) + sum(len(bad.raw) for bad in whole[1])
    letters = sum(character in "ab1" for line in lines for character in line)
    assert kept >= letters


def test_a_gzip_file_that_is_not_whole_may_still_be_written(tmp_path):
    packed = gzip.compress(b"a,b\n" + b"1,2\n" * 100_000)
    url = write(tmp_path, packed[:-100], "in.csv.gz")

    with pytest.raises(SourceError, match="ends too early") as raised:
        read(Files(url))

    assert raised.value.retryable


def test_options_that_cannot_work_are_refused_when_declared():
    for options in (
        {"delimiter": ";;"},
        {"quote": ""},
        {"encoding": "klingon"},
        {"header": False},
        {"header": ["a", "a"]},
        {"format": "xls"},
        {"compression": "rar"},
        {"extra_columns": "maybe"},
        {"schema": {"a": "number"}},
        {"schema": ["a"]},
        {"null_values": [None]},
        {"rename": {"a": "x", "b": "x"}},
    ):
        with pytest.raises(InvalidOptionError, match=next(iter(options))):
            Files("in.csv", **options)

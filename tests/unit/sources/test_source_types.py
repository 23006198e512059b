import pyarrow as pa
import pytest

from batch_provider.domain.errors import InvalidOptionError
from batch_provider.sources import Files, Records
from batch_provider.sources.coerce import as_schema, as_type
from tests.unit.sources.source_reading import batches, read, types


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("int64", pa.int64()),
        ("decimal(10, 2)", pa.decimal128(10, 2)),
        ("decimal256(50,3)", pa.decimal256(50, 3)),
        ("timestamp[us]", pa.timestamp("us")),
        ("timestamp[us, tz=Europe/Amsterdam]", pa.timestamp("us", "Europe/Amsterdam")),
        ("list<int64>", pa.list_(pa.int64())),
        ("list<item: decimal128(5, 2)>", pa.list_(pa.decimal128(5, 2))),
    ],
)
def test_types_are_named_as_arrow_shows_them(text, kind):
    assert as_type(text) == as_type(kind) == kind


@pytest.mark.parametrize(
    "option",
    [
        pytest.param({"a": "number"}, id="unknown"),
        pytest.param({"a": 5}, id="no-type"),
        pytest.param({"": "int64"}, id="no-name"),
        pytest.param({1: "int64"}, id="name-no-string"),
        pytest.param({"a": "decimal128(99, 2)"}, id="too-precise"),
        pytest.param(pa.schema([("a", pa.int64()), ("a", pa.int64())]), id="twice"),
        pytest.param("a", id="text"),
    ],
)
def test_a_schema_that_means_nothing_is_refused(option):
    with pytest.raises(InvalidOptionError, match="schema"):
        as_schema(option)


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(pa.array(["x", "x", None]).dictionary_encode(), id="dictionary"),
        pytest.param(pa.array(["x", "x", None]).cast(pa.string_view()), id="view"),
        pytest.param(pa.RunEndEncodedArray.from_arrays([2, 3], pa.array(["x", None])), id="runs"),
    ],
)
def test_encodings_of_a_column_are_undone(array):
    source = Records(pa.table({"a": array}))

    assert read(source)[0] == [{"a": "x"}, {"a": "x"}, {"a": None}]
    assert types(source) == {"a": "string"}


def test_one_value_becomes_a_list_where_a_list_is_demanded():
    rows, malformed = read(
        Records([{"a": "1"}, {"a": ["2", "3"]}, {"a": None}, {"a": 4}], schema={"a": "list<string>"})
    )

    assert rows == [{"a": ["1"]}, {"a": ["2", "3"]}, {"a": None}]
    assert [bad.line for bad in malformed] == [4]


def test_batches_of_wide_records_are_cut_by_size():
    table = pa.table({"a": ["x" * 2**20] * 40})

    sizes = [batch.nbytes for batch in batches(Records(table))]

    assert max(sizes) <= 17 * 2**20
    assert len(sizes) == 3


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        pytest.param("<r><o>x</o><o/></r>", [{"#text": "x"}, {"#text": None}], id="records-of-text"),
        pytest.param(
            '<r xmlns:i="http://www.w3.org/2001/XMLSchema-instance"><o><a i:nil="true"/><b>1</b></o></r>',
            [{"a": None, "b": "1"}],
            id="nil",
        ),
        pytest.param(
            "<r><o><a>x</a></o><o><a b='1'>y</a></o></r>",
            [{"a": {"#text": "x", "@b": None}}, {"a": {"@b": "1", "#text": "y"}}],
            id="text-and-attributes",
        ),
        pytest.param("<r><o>see <b>this</b> page</o></r>", [{"b": "this", "#text": "see  page"}], id="mixed"),
    ],
)
def test_odd_xml(tmp_path, text, rows):
    path = tmp_path / "in.xml"
    path.write_text(text)

    found, malformed = read(Files(str(path), record_path="r/o"))

    assert (found, malformed) == (rows, [])

"""Nothing found is not nothing to do: an input without records is in order only where records could have been."""

from __future__ import annotations

import pytest

from batch_provider import Files
from batch_provider.domain.errors import SourceError
from batch_provider.sources import LocalAccess
from tests.unit.sources.source_reading import read


def xml(tmp_path, text, record_path):
    path = tmp_path / "orders.xml"
    path.write_text(text)
    return Files(path, record_path=record_path)


@pytest.mark.parametrize(
    ("text", "record_path", "complaint"),
    [
        pytest.param(
            "<orders><order/><order/></orders>", "orders/ordr", "<orders> has only <order>", id="other children"
        ),
        pytest.param(
            "<orders><head/><order/></orders>", "orders/item", "<orders> has only <head>, <order>", id="two other names"
        ),
        pytest.param("<shop><orders/></shop>", "shop/invoices/invoice", "there is no shop/invoices", id="no parent"),
        pytest.param("<shop/>", "orders/order", "the root is <shop>", id="another root"),
        pytest.param("<shop/>", "order", "the root is <shop>", id="the record is the root"),
        pytest.param("<a><b><c/></b><b/></a>", "a/b/d", "<b> has only <c>", id="one of several parents"),
        pytest.param("<n:a xmlns:n='x'><n:b/></n:a>", "a/c", "<a> has only <b>", id="with a namespace"),
    ],
)
def test_a_record_path_that_matches_nothing_fails_the_load(tmp_path, text, record_path, complaint):
    with pytest.raises(SourceError, match=complaint) as caught:
        read(xml(tmp_path, text, record_path))

    assert record_path in str(caught.value)
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("text", "record_path"),
    [
        pytest.param("<orders/>", "orders/order", id="empty root"),
        pytest.param("<orders>\n <!-- none today -->\n</orders>", "orders/order", id="comment only"),
        pytest.param("<shop><head/><orders></orders></shop>", "shop/orders/order", id="empty parent"),
        pytest.param("<shop><orders/><orders/></shop>", "shop/orders/order", id="several empty parents"),
    ],
)
def test_an_empty_parent_holds_no_records(tmp_path, text, record_path):
    assert read(xml(tmp_path, text, record_path)) == ([], [])


def test_the_names_beside_a_wrong_record_path_are_told_as_far_as_they_help(tmp_path):
    text = f"<orders>{''.join(f'<x{n}/>' for n in range(50))}</orders>"

    with pytest.raises(SourceError, match=r"has only <x0>, <x1>, <x10>, <x11>, <x12> and 45 more\. Correct the path"):
        read(xml(tmp_path, text, "orders/order"))


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf"], ids=["0 bytes", "byte order mark"])
@pytest.mark.parametrize("options", [{}, {"copy": False}], ids=["copied", "referred to"])
def test_an_empty_csv_file_fails_where_columns_are_demanded(tmp_path, data, options):
    path = tmp_path / "in.csv"
    path.write_bytes(data)

    with pytest.raises(SourceError, match="the columns 'a' are demanded but missing; found: none") as caught:
        for _ in _pieces(Files(path, schema={"a": "int64"}, **options)):
            pass

    assert not caught.value.retryable


@pytest.mark.parametrize("options", [{}, {"copy": False}], ids=["copied", "referred to"])
def test_an_empty_csv_file_holds_no_records_where_nothing_is_demanded(tmp_path, options):
    path = tmp_path / "in.csv"
    path.write_bytes(b"")

    assert all(not getattr(piece, "records", 0) for piece in _pieces(Files(path, **options)))
    assert read(Files(path, header=["a"], schema={"a": "int64"})) == ([], [])


def test_one_empty_csv_file_among_others_fails_by_its_name(tmp_path):
    (tmp_path / "1.csv").write_text("a\n1\n")
    (tmp_path / "2.csv").write_bytes(b"")

    with pytest.raises(SourceError, match=r"2\.csv"):
        read(Files(f"{tmp_path}/*.csv", schema={"a": "int64"}))


def _pieces(files):
    access = LocalAccess()
    return files.refer(access) if files.by_reference else files.read(access)

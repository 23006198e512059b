"""The checkpoint file: whole, verified before it is decoded, readable with nothing but Parquet."""

from __future__ import annotations

from itertools import pairwise

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_provider.domain.errors import CorruptCheckpointError, LayoutVersionError
from batch_provider.domain.layout import ClaimId, FileRef, Span
from batch_provider.domain.tally import Tally
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.storage.reading.checkpoint_file import Footer, digest_of, encode, open_checkpoint

TABLE = pa.table(
    {
        "_id": pa.array([5, 6, 7], pa.int64()),
        "_status": pa.array([1, 2, 9], pa.uint8()),
        "_out": pa.array([1, 1, 1], pa.int32()),
        "_in": pa.array([0, 0, 0], pa.int32()),
        "price": [1.5, None, 2.5],
        "price.net": ["a", "b", "c"],
    }
)
FOOTER = Footer("s1", {"price": "s1", "n": "input"}, Tally(succeeded=2, failed=1))
CLAIM = ClaimId(1, "0a0b0c0d")


def stored(table=TABLE, footer=FOOTER):
    blobs = MemoryBlobs()
    buffer, digest = encode(table, footer)
    file = FileRef(Span(5, 7), CLAIM, digest)
    blobs.put(file.name, buffer)
    return blobs, file


def test_checkpoint_reads_back_as_it_was():
    blobs, file = stored()

    opened = open_checkpoint(blobs, file.name, file)

    assert opened.footer == FOOTER
    assert opened.columns == tuple(TABLE.column_names)
    assert opened.read(TABLE.column_names).equals(TABLE)
    assert opened.schema.field("price").type == pa.float64()


def test_only_the_columns_that_are_asked_for_are_read():
    blobs, file = stored()
    opened = open_checkpoint(blobs, file.name, file)

    assert opened.read(["price", "zzz"]).column_names == ["price"]
    assert opened.read(["_id", "price.net"]).to_pydict() == {"_id": [5, 6, 7], "price.net": ["a", "b", "c"]}
    assert opened.read(["price"]).to_pydict() == {"price": [1.5, None, 2.5]}


def test_checkpoint_can_be_read_with_duckdb_alone(tmp_path):
    buffer, _ = encode(TABLE, FOOTER)
    path = tmp_path / "x.parquet"
    path.write_bytes(buffer)

    with duckdb.connect() as connection:
        rows = connection.execute(f"SELECT _id, _status, price FROM '{path}' ORDER BY 1").fetchall()

    assert rows == [(5, 1, 1.5), (6, 2, None), (7, 9, 2.5)]


@given(position=st.integers(0), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(position, bit):
    blobs, file = stored()
    data = bytearray(blobs.get(file.name))
    data[position % len(data)] ^= 1 << bit
    blobs.put(file.name, bytes(data))

    with pytest.raises(CorruptCheckpointError, match="its digest is"):
        open_checkpoint(blobs, file.name, file)


@given(length=st.integers(0))
def test_any_truncation_is_found(length):
    blobs, file = stored()
    data = bytes(blobs.get(file.name))
    blobs.put(file.name, data[: length % len(data)])

    with pytest.raises(CorruptCheckpointError, match="its digest is"):
        open_checkpoint(blobs, file.name, file)


def test_absent_file_is_a_damaged_checkpoint():
    blobs, file = stored()
    blobs.delete(file.name)

    with pytest.raises(CorruptCheckpointError, match=r"memory:0000.* is damaged: it is not there. Clear the task"):
        open_checkpoint(blobs, file.name, file)


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param({}, id="no footer"),
        pytest.param({b"batch_provider": b'{"version": 2}'}, id="another version"),
    ],
)
def test_file_of_another_layout_is_refused(metadata):
    sink = pa.BufferOutputStream()
    pq.write_table(TABLE.replace_schema_metadata(metadata), sink)
    data = sink.getvalue()
    blobs = MemoryBlobs()
    file = FileRef(Span(5, 7), CLAIM, digest_of(data))
    blobs.put(file.name, data)

    with pytest.raises(LayoutVersionError, match="this version reads layout 1"):
        open_checkpoint(blobs, file.name, file)


def test_digest_depends_on_every_byte():
    digests = [digest_of(bytes([n])) for n in range(4)]

    assert all(first != second for first, second in pairwise(digests))
    assert len(digests[0]) == 32
    assert digest_of(b"x") == digest_of(pa.py_buffer(b"x"))


def test_status_columns_cost_next_to_nothing():
    count = 100_000
    table = pa.table(
        {
            "_id": pa.array(range(count), pa.int64()),
            "_status": pa.array([1] * count, pa.uint8()),
            "_out": pa.array([1] * count, pa.int32()),
            "_in": pa.array([0] * count, pa.int32()),
        }
    )

    assert encode(table, FOOTER)[0].size < 6_000

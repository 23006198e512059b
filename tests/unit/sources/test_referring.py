"""``copy=False``: files are counted and read again where they are, and give exactly what a copy gives."""

from __future__ import annotations

import gzip
import os
import tracemalloc
import zipfile
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from batch_provider.domain.errors import InvalidOptionError, SourceError, TooManyRecordsError
from batch_provider.domain.references import InputReference
from batch_provider.engine.ports.store import Counted
from batch_provider.sources import Files, LocalAccess
from batch_provider.sources import parquet_reader as parquet_module
from batch_provider.sources.csv import reader as csv_module
from batch_provider.sources.parquet_reader import ColumnReader
from batch_provider.sources.referring import ReferencedFile
from batch_provider.storage.blobs.local import LocalBlobs
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.storage.blobs.protocol import get_json
from batch_provider.storage.views.instance_view import InstanceView
from batch_provider.testing import LocalRun
from tests.builders import Killed, Step, job_of


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of a few records, so that a short file has many parts."""
    monkeypatch.setattr(csv_module, "_FIRST", 64)
    monkeypatch.setattr(csv_module, "_BLOCK", 32)
    monkeypatch.setattr(csv_module, "_SMALL", 4)
    monkeypatch.setattr(parquet_module, "ROWS", 4)


def csv(folder, text, name="in.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def parquet(folder, columns, name="in.parquet", **options):
    path = folder / name
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    pq.write_table(table, path, **{"row_group_size": 6} | options)
    return str(path)


def rows_of(piece):
    if isinstance(piece, pa.RecordBatch):
        return piece.to_pylist()
    return [(record.line, record.raw, record.error_type, record.message) for record in piece]


def read_whole(files):
    return [row for piece in files.read(LocalAccess()) for row in rows_of(piece)]


def read_parts(files):
    """What all parts give when they are read again, the last one first."""
    references = references_of(files)
    opened = [ReferencedFile(reference, is_named=len(references) > 1) for reference in references]
    parts = [(file, part) for file in opened for part in file.reference.parts]
    found = {part.span: [row for piece in file.read(part) for row in rows_of(piece)] for file, part in parts[::-1]}
    for span, rows in found.items():
        assert len(rows) == len(span)
    return [row for span in sorted(found) for row in found[span]]


def references_of(files):
    return [item for item in files.refer(LocalAccess()) if isinstance(item, InputReference)]


def without_nulls(rows):
    return [{k: v for k, v in row.items() if v is not None} if isinstance(row, dict) else row for row in rows]


TEXTS = {
    "plain": "a,b\n" + "".join(f"{n},text {n}\n" for n in range(40)),
    "quoted newlines": "a,b\n" + "".join(f'{n},"two\nlines ""{n}"""\n' for n in range(20)),
    "no line end at the end": "a,b\n1,x\n2,y",
    "crlf": "a,b\r\n" + "".join(f"{n},x\r\n" for n in range(30)),
    "byte order mark": "\ufeffa,b\n" + "1,x\n" * 30,
    "ragged": "a,b\n" + "".join(f"{n},x\n" if n % 7 else f"{n}\n" for n in range(40)),
    "stray quotes": "a,b\n" + "".join(f"{n},x\n" if n % 5 else f'{n},"open\n' for n in range(40)),
    "inches": "a,b\n" + "".join(f'{n},5" pipe\n' for n in range(30)),
    "blank lines": "a,b\n" + "1,x\n\n" * 20,
    "widened to float": "a,b\n" + "".join(f"{n},x\n" for n in range(30)) + "0.5,y\n" * 9,
    "whole numbers too large for a float": "a,b\n9007199254740993,x\n" + "1,y\n" * 30 + "0.5,z\n" * 9,
    "misfits": "a,b\n" + "".join(f"{n},x\n" if n % 6 else "none,y\n" for n in range(1, 40)),
    "first empty": "a,b\n" + ",\n" * 20 + "2026-01-02,1.5\n" * 5,
    "not utf-8": b"a,b\n" + b"1,x\n" * 20 + b"2,\xff\n" + b"3,y\n" * 9,
    "header only": "a,b\n",
    "nothing": "",
    "beyond ascii": "é,b\n" + "".join(f"{n},größer {n}\n" for n in range(30)),
}


@pytest.mark.parametrize("name", TEXTS)
def test_parts_of_a_csv_file_give_what_the_whole_gives(name, tmp_path):
    files = Files(csv(tmp_path, TEXTS[name]), copy=False)

    assert read_parts(files) == read_whole(files)


line = st.lists(
    st.sampled_from(["1", "2.5", "x", "", '"', '"a"', '"a\nb"', '""', "2026-01-01", "\r", "9" * 17]), max_size=3
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example([['"', "x"], ["1"], ['"a\nb"', "1"], [], ["1", "2"]])
@given(st.lists(line, max_size=30))
def test_parts_of_any_csv_file_give_what_the_whole_gives(tmp_path, lines):
    text = "a,b\n" + "\n".join(",".join(cells) for cells in lines)
    files = Files(csv(tmp_path, text), copy=False)
    assert read_parts(files) == read_whole(files)


TABLES = {
    "numbers": {"a": list(range(20)), "b": [str(n) for n in range(20)]},
    "nulls": {"a": pa.nulls(9), "b": [None, 1] * 4 + [None]},
    "dictionary": {"a": pa.array(["x", "y"] * 8).dictionary_encode()},
    "nested": {"a": [{"b": [n, None]} for n in range(9)], "a.b": list(range(9))},
    "no rows": {"a": pa.array([], pa.int64())},
}


@pytest.mark.parametrize("name", TABLES)
def test_parts_of_a_parquet_file_give_what_the_whole_gives(name, tmp_path):
    files = Files(parquet(tmp_path, TABLES[name]), copy=False)

    assert read_parts(files) == read_whole(files)


def test_parquet_is_not_decoded_to_count_it(tmp_path):
    path = parquet(tmp_path, {"a": list(range(100)), "b": ["x" * 50] * 100}, write_page_checksum=True)
    data = bytearray(Path(path).read_bytes())
    data[8:40] = b"\0" * 32  # the first page is damaged; the footer is not
    Path(path).write_bytes(data)
    files = Files(path, copy=False)

    [reference] = references_of(files)

    assert reference.parts[-1].span.last == 99
    with pytest.raises(SourceError):
        read_parts(files)


CONTRACTS = {
    "coerced": {"schema": {"a": "int8", "b": "string"}},
    "some do not fit": {"schema": {"a": "int64", "b": "decimal128(6, 2)"}},
    "null forbidden": {"schema": pa.schema([pa.field("b", pa.float64(), nullable=False)])},
    "others dropped": {"schema": {"b": "double"}, "extra_columns": "drop"},
    "renamed": {"rename": {"b": "amount", "a": "b"}, "schema": {"amount": "double"}},
}


@pytest.mark.parametrize("name", CONTRACTS)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_contract_means_the_same(name, kind, tmp_path):
    values = [None if n % 5 == 0 else n + (0.125 if n % 7 == 0 else 0.5) for n in range(1, 40)]
    if kind == "csv":
        url = csv(tmp_path, "a,b\n" + "".join(f"{n},{'' if v is None else v}\n" for n, v in enumerate(values)))
    else:
        url = parquet(tmp_path, {"a": list(range(39)), "b": values})
    files = Files(url, copy=False, **CONTRACTS[name])

    assert read_parts(files) == read_whole(files)


CSV_OPTIONS = {
    "header": (
        "1;'a;b';NA\n" * 20,
        {"header": ["id", "t", "n"], "delimiter": ";", "quote": "'", "null_values": ["NA"]},
    ),
    "tab": ("a\tb\n" + "1\tx,y\n" * 20, {"format": "tsv"}),
    "no quotes": ('a,b\n1,"x\n' * 10, {"quote": None}),
}


@pytest.mark.parametrize("name", CSV_OPTIONS)
def test_options_of_csv_mean_the_same(name, tmp_path):
    text, options = CSV_OPTIONS[name]
    files = Files(csv(tmp_path, text), copy=False, **options)

    assert read_parts(files) == read_whole(files)


def test_several_files_give_what_they_give_together(tmp_path):
    csv(tmp_path, "a,b\n" + "1,x\n" * 20 + "1\n", "1.csv")
    csv(tmp_path, "b,c\n" + "y,2026-01-01\n" * 20, "2.csv")
    parquet(tmp_path, {"a": [0.5] * 9, "d": [1] * 9}, "3.parquet")
    csv(tmp_path, "", "4.csv")
    csv(tmp_path, "a\n" + "oops\n" * 3, "5.csv")
    files = Files(str(tmp_path / "*"), copy=False)

    found = read_parts(files)

    assert without_nulls(found) == without_nulls(read_whole(files))
    assert [row[0] for row in found if isinstance(row, tuple)] == [22, 2, 3, 4]
    assert all(row[3].startswith(str(tmp_path)) for row in found if isinstance(row, tuple))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=6), st.sampled_from([1, 6, 100]))
def test_rows_of_parquet_are_read_in_any_order(tmp_path, ranges, group):
    url = parquet(tmp_path, {"a": list(range(50)), "b": ["x"] * 50}, row_group_size=group)
    reader = ColumnReader(pq.ParquetFile(url), "a")

    for start, count in ranges:
        assert reader.read(start, start + count).to_pylist() == list(range(50))[start : start + count]


# --- whole jobs -----------------------------------------------------------------------------------------------


def mixed_csv(folder):
    lines = [f"{n},{n / 2},note {n}" if n % 9 else f"{n}" for n in range(60)]
    return csv(folder, "id,amount,note\n" + "\n".join(lines) + "\n")


def mixed_parquet(folder):
    values = {"id": list(range(60)), "amount": [n / 2 for n in range(60)], "note": [f"note {n}" for n in range(60)]}
    return parquet(folder, values)


INPUTS = {
    "csv": (mixed_csv, {}),
    "csv with a contract": (mixed_csv, {"schema": {"amount": "decimal128(5, 1)"}, "rename": {"note": "text"}}),
    "parquet": (mixed_parquet, {}),
    "parquet with a contract": (mixed_parquet, {"schema": {"amount": "int64"}}),
}


def price(record):
    if record["id"] % 10 == 3:
        raise ValueError("three")
    return {"double": record["amount"] * 2, "id": record["id"] + 1000}


def last_resort(record, failures):
    return {"seen": len(failures)}


def run_of(source, *, store=None, shards=1, block_size=100, steps=None, **options):
    steps = steps or (price, (last_resort, {"accept_policy": "ALL"}))
    run = LocalRun(job_of(*steps, block_size=block_size, **options), store=store or MemoryBlobs(), shards=shards)
    run.load(source)
    return run


def dead_letters(run, result):
    tables = [
        pq.read_table(pa.BufferReader(run.store.blobs.get(f"{run.generation.base}/{n}"))) for n in result.dead_letters
    ]
    rows = [row for table in tables for row in table.to_pylist()]
    return sorted(
        (
            row["_id"],
            row["_step"],
            row["_error_type"],
            row["_error_message"],
            row.get("_line"),
            row.get("_raw"),
            row.get("id"),
        )
        for row in rows
    )


def everything(run):
    """All that can be said of a finished instance, times and claims apart."""
    result = run.complete()
    with closing(InstanceView(run.store).connect()) as connection:
        tables = [
            connection.sql(f"SELECT * FROM {name} ORDER BY _id").to_arrow_table() for name in ("input", "s1", "s2")
        ]
    return {
        "counts": (result.state, result.successful_records, result.failed_records, result.not_run_records),
        "errors": [(error.step, error.exception, error.count) for error in result.errors],
        "failures": run.query("SELECT record_id, step, error_type, message FROM failures ORDER BY ALL"),
        "dead letters": dead_letters(run, result),
        "output": without_nulls(run.output()),
        "views": [table.to_pylist() for table in tables],
        "columns": dict(run.generation.manifest.columns),
    }


@pytest.mark.parametrize("block_size", [3, 100])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("name", INPUTS)
def test_a_job_gives_the_same_with_and_without_a_copy(name, shards, block_size, tmp_path):
    make, options = INPUTS[name]
    url = make(tmp_path)
    copied = run_of(Files(url, **options), shards=shards, block_size=block_size)
    referred = run_of(Files(url, copy=False, **options), shards=shards, block_size=block_size)
    copied.process_all()
    referred.process_all()

    assert everything(referred) == everything(copied)
    assert referred.store.blobs.files(f"{referred.generation.base}/input") == []
    assert referred.generation.manifest.input_errors == copied.generation.manifest.input_errors


def test_several_files_give_the_same_job_with_and_without_a_copy(tmp_path):
    csv(tmp_path, "id,amount\n" + "".join(f"{n},{n}.5\n" for n in range(20)) + "x\n", "1.csv")
    parquet(tmp_path, {"id": list(range(20, 40)), "amount": [1.5] * 20}, "2.parquet")
    parquet(tmp_path, {"amount": [2.5] * 9, "id": list(range(40, 49)), "more": ["m"] * 9}, "3.parquet")
    runs = [run_of(Files(str(tmp_path / "*"), copy=copy), shards=2, block_size=7) for copy in (True, False)]
    for run in runs:
        run.process_all()

    copied, referred = map(everything, runs)
    assert referred == copied


def test_records_of_the_input_are_there_for_a_step_that_reads_some_columns(tmp_path):
    seen = []
    steps = (
        (seen.append, {"reads": ["amount"]}),
        (last_resort, {"accept_expression": "id > 57"}),
    )
    run = run_of(Files(mixed_parquet(tmp_path), copy=False), steps=steps, block_size=8)
    run.process_all()

    assert seen == [{"amount": n / 2} for n in range(60)]
    assert [row.get("seen") for row in run.output()] == [None] * 58 + [0, 0]


def test_a_crashed_attempt_is_resumed_and_failures_are_redriven(tmp_path):
    step = Step(fails={5, 41}, dies_at=30, returns=lambda record: {"double": record["amount"] * 2})
    run = run_of(Files(mixed_parquet(tmp_path), copy=False), steps=(step,), block_size=8)
    with suppress(Killed):
        run.process_all()
    assert step.forget() == list(range(30))
    run.process_all()
    assert step.forget() == list(range(24, 60))
    run.complete()
    step.fails.clear()
    run.next_round()
    run.process_all()

    assert step.forget() == [5, 41]
    assert run.complete().successful_records == 60
    assert [row["double"] for row in run.output()] == [float(n) for n in range(60)]


def test_errors_of_malformed_records_are_of_the_load(tmp_path):
    run = run_of(Files(mixed_csv(tmp_path), copy=False))
    manifest = run.generation.manifest

    rows = run.generation.input_layer().rows(manifest.shards[0].span, ["_error"])["_error"].drop_null().to_pylist()

    assert len(rows) == manifest.failed_on_input == 7
    assert {row["c"] for row in rows} == {str(manifest.load)}
    began = datetime.fromisoformat(manifest.created_at) - timedelta(seconds=manifest.seconds)
    assert {row["at"] for row in rows} == {began.astimezone(UTC)}


def test_too_many_records_are_refused_and_leave_nothing(tmp_path):
    run = LocalRun(job_of(Step(), max_records=10))

    with pytest.raises(TooManyRecordsError):
        run.load(Files(mixed_csv(tmp_path), copy=False))
    assert run.store.latest() is None


def test_no_records_are_a_success(tmp_path):
    run = run_of(Files(csv(tmp_path, "id,amount\n"), copy=False))
    run.process_all()

    assert run.complete().is_successful
    assert run.generation.manifest.columns == {"id": "null", "amount": "null"}


def test_the_manifest_is_read_from_disk_as_it_was_written(tmp_path):
    run = run_of(Files(mixed_csv(tmp_path), copy=False), store=LocalBlobs(tmp_path / "store"))
    document = get_json(run.store.blobs, f"{run.generation.base}/manifest.json")
    [reference] = run.generation.manifest.references

    assert document["files"] == []
    assert (document["references"][0]["path"], document["references"][0]["size"]) == (
        str(tmp_path / "in.csv"),
        (tmp_path / "in.csv").stat().st_size,
    )
    assert len(document["references"][0]["parts"]) == len(reference.parts) > 10
    later = {**document, "references": [{**document["references"][0], "invented_later": 1}]}
    assert type(run.generation.manifest).from_json(later) == run.generation.manifest
    older = {name: value for name, value in document.items() if name != "references"}
    assert type(run.generation.manifest).from_json(older).references == ()


# --- an input that does not stay as it was --------------------------------------------------------------------


def touch(path):
    found = path.stat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))


def keep_time(change):
    def changed(path):
        found = path.stat()
        change(path)
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))

    return changed


CHANGES = {
    "touched": (touch, "it was written again since it was loaded"),
    "longer": (keep_time(lambda path: path.write_bytes(path.read_bytes() + b"1,2\n")), "bytes and had"),
    "truncated": (keep_time(lambda path: path.write_bytes(path.read_bytes()[:-40])), "bytes and had"),
    "gone": (Path.unlink, "it cannot be found any more"),
}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("name", CHANGES)
def test_an_input_that_changed_is_an_error_at_every_door(name, kind, tmp_path):
    change, message = CHANGES[name]
    url = mixed_csv(tmp_path) if kind == "csv" else mixed_parquet(tmp_path)
    run = run_of(Files(url, copy=False))
    run.process(run.job.step("s1"), "01")
    change(Path(url))

    for door in (
        lambda: run.process(run.job.step("s2"), "01"),
        run.complete,
        InstanceView(run.store).connect,
    ):
        with pytest.raises(SourceError, match=message) as raised:
            door()
        assert url in str(raised.value)
        assert raised.value.retryable is False
    assert run.generation.claim_ids("s2", "01") == []


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_an_input_that_changes_while_it_is_processed_is_an_error(kind, tmp_path):
    url = mixed_csv(tmp_path) if kind == "csv" else mixed_parquet(tmp_path)

    def step(record):
        if record["id"] == 31:
            touch(Path(url))

    run = run_of(Files(url, copy=False), steps=(step,), block_size=3)

    with pytest.raises(SourceError, match="it was written again"):
        run.process_all()


def test_other_records_in_a_file_of_the_same_size_and_time_are_noticed_where_they_do_not_count_the_same(tmp_path):
    url = csv(tmp_path, "a,b\n" + "1,x\n" * 20)
    run = run_of(Files(url, copy=False), steps=(Step(),))
    keep_time(lambda path: path.write_bytes(b"a,b\n" + b"1,x\n" * 18 + b"111x\n1,\n"))(Path(url))

    with pytest.raises(SourceError, match="other records are in it"):
        run.process_all()


def test_a_file_that_grows_while_it_is_counted_is_not_loaded(tmp_path):
    url = csv(tmp_path, "a,b\n" + "1,x\n" * 40)
    counting = Files(url, copy=False).refer(LocalAccess())
    assert isinstance(next(counting), Counted)
    with Path(url).open("a") as file:
        file.write("2,y\n")

    with pytest.raises(SourceError, match="it changed while it was read") as raised:
        list(counting)
    assert raised.value.retryable


# --- what cannot be referred to -------------------------------------------------------------------------------


def zipped(folder):
    with zipfile.ZipFile(folder / "in.zip", "w") as archive:
        archive.writestr("in.csv", "a\n1\n")
    return f"zip://in.csv::{folder}/in.zip", {}


def in_memory(folder):
    import fsspec

    fsspec.filesystem("memory").pipe("/referring/in.csv", b"a\n1\n")
    return "memory://referring/in.csv", {}


UNSUITABLE = {
    "zip": (zipped, "not a file of a local or mounted file system"),
    "memory": (in_memory, "not a file of a local or mounted file system"),
    "gzip": (lambda folder: (csv(folder, gzip.compress(b"a\n1\n"), "in.csv.gz"), {}), "it is compressed"),
    "latin-1": (lambda folder: (csv(folder, "a\n1\n"), {"encoding": "latin-1"}), "its encoding is latin-1"),
    "json": (lambda folder: (csv(folder, '[{"a": 1}]', "in.json")[:-5] + ".*", {}), "it is json"),
    "gzip option": (lambda folder: (csv(folder, "a\n1\n"), {"compression": "gzip"}), "it is compressed"),
}


@pytest.mark.parametrize("name", UNSUITABLE)
def test_what_cannot_be_referred_to_says_so_at_the_load(name, tmp_path):
    make, message = UNSUITABLE[name]
    url, options = make(tmp_path)

    with pytest.raises(SourceError, match=message) as raised:
        run_of(Files(url, copy=False, **options))
    assert "Use copy=True" in str(raised.value)
    assert raised.value.retryable is False


def test_what_the_name_gives_away_is_refused_at_parse():
    with pytest.raises(InvalidOptionError, match="only CSV and Parquet"):
        Files("in.ndjson", copy=False)


# --- memory ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_is_never_read_whole(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(csv_module, "_FIRST", 2**18)
    monkeypatch.setattr(csv_module, "_BLOCK", 2**17)
    monkeypatch.setattr(parquet_module, "ROWS", 2**12)
    rows, width = 60_000, 500
    if kind == "csv":
        url = csv(tmp_path, "id,text\n" + "".join(f"{n},{'x' * width}\n" for n in range(rows)))
    else:
        texts = [f"{n:06d}" + "x" * width for n in range(rows)]
        url = parquet(
            tmp_path, {"id": range(rows), "text": texts}, row_group_size=5_000, compression="none", use_dictionary=False
        )
    size = Path(url).stat().st_size
    assert size > 30_000_000
    pool = pa.proxy_memory_pool(pa.default_memory_pool())
    before = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        run = run_of(
            Files(url, copy=False), steps=((lambda record: None, {"reads": ["id"]}),), shards=2, block_size=2_000
        )
        run.process_all()
        run.complete()
        peak = tracemalloc.get_traced_memory()[1] + pool.max_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)

    assert peak < size / 4
    assert run.complete().successful_records == rows


def test_decimals_stay_decimals(tmp_path):
    run = run_of(
        Files(csv(tmp_path, "id,amount\n1,2.50\n"), copy=False, schema={"amount": "decimal128(10, 2)"}),
        steps=(lambda record: {"double": record["amount"] * 2},),
    )
    run.process_all()

    assert run.output() == [{"amount": Decimal("2.50"), "id": 1, "double": Decimal("5.00")}]

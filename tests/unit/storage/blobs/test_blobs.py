"""Stores of named bytes: what the contract suite does not ask (tests/contracts)."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from batch_provider.domain.errors import StorageError
from batch_provider.storage.blobs.local import TEMPORARY, LocalBlobs
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.storage.blobs.protocol import get_json, put_json
from batch_provider.testing import Fault, Faults, FaultyDisk

AT = ("before", "after")


@pytest.fixture(params=["memory", "disk"])
def blobs(request, tmp_path):
    return MemoryBlobs() if request.param == "memory" else LocalBlobs(tmp_path / "store")


def test_documents_survive(blobs):
    document = {"text": "ü\n", "list": [1, None, 0.5], "nested": {"a": True}}
    put_json(blobs, "a/b.json", document)

    assert get_json(blobs, "a/b.json") == document
    assert "ü" in bytes(blobs.get("a/b.json")).decode()


def test_text_that_is_no_unicode_survives_in_a_document(blobs):
    put_json(blobs, "a.json", {"text": "bad \ud800"})

    assert get_json(blobs, "a.json") == {"text": "bad \ud800"}


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b'{"a": 1'], ids=["empty", "cut", "no text", "cut later"])
def test_document_that_is_none_is_a_storage_error_that_names_it(blobs, data):
    blobs.put("a/b.json", data)

    with pytest.raises(StorageError, match=r"a/b\.json.*not valid JSON"):
        get_json(blobs, "a/b.json")


def test_later_content_replaces_earlier(blobs):
    blobs.put("a", b"1")
    blobs.put("a", b"2")

    assert bytes(blobs.get("a")) == b"2"


def test_address_is_for_people(tmp_path):
    assert LocalBlobs(tmp_path).address("a/b") == str(tmp_path / "a" / "b")
    assert MemoryBlobs().address("a/b") == "memory:a/b"


def test_memory_store_keeps_a_copy():
    data = bytearray(b"1")
    blobs = MemoryBlobs()
    blobs.put("a", pa.py_buffer(data))
    data[0] = 0

    assert bytes(blobs.get("a")) == b"1"


def test_store_can_be_used_by_many_threads(blobs):
    def put(number):
        for index in range(20):
            blobs.put(f"d/{number}-{index}", b"x")
            blobs.files("d")

    threads = [threading.Thread(target=put, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(blobs.files("d")) == 80


# --- files ----------------------------------------------------------------------------------------------------


def test_no_temporary_file_is_left(tmp_path):
    blobs = LocalBlobs(tmp_path)
    blobs.put("d/a", b"1")

    assert [path.name for path in (tmp_path / "d").iterdir()] == ["a"]


def test_readers_never_see_temporary_files(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / f"{TEMPORARY}0a0b-x.parquet").write_bytes(b"half")
    (tmp_path / "d" / f"{TEMPORARY}dir").mkdir()

    assert LocalBlobs(tmp_path).files("d") == []
    assert LocalBlobs(tmp_path).directories("d") == []


def test_long_names_fit_with_their_temporary_prefix(tmp_path):
    blobs = LocalBlobs(tmp_path)
    name = "x" * 250
    blobs.put(name, b"1")

    assert blobs.files("") == [name]


def test_listing_a_file_is_empty(tmp_path):
    blobs = LocalBlobs(tmp_path)
    blobs.put("a", b"1")

    assert blobs.files("a") == []


def test_store_below_a_file_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(StorageError, match=f"Cannot write {tmp_path}/file/a"):
        LocalBlobs(tmp_path / "file").put("a", b"1")


def test_writing_over_a_directory_is_a_storage_error_and_leaves_nothing_behind(tmp_path):
    (tmp_path / "d").mkdir()

    with pytest.raises(StorageError, match=f"Cannot write {tmp_path}/d"):
        LocalBlobs(tmp_path).put("d", b"1")

    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_reading_a_directory_is_a_storage_error(tmp_path):
    (tmp_path / "d").mkdir()

    with pytest.raises(StorageError, match=f"Cannot read {tmp_path}/d"):
        LocalBlobs(tmp_path).get("d")


# --- no permission --------------------------------------------------------------------------------------------

LOAD = """
import json, os, sys
from batch_provider.domain.errors import StorageError
from batch_provider.storage.blobs.local import LocalBlobs
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.testing import LocalRun
from batch_provider import JobSpec, StepSpec

def load(store):
    LocalRun(JobSpec("job", steps=(StepSpec("s1", print),)), store=store).load([{"n": 1}])

load(MemoryBlobs())  # whatever is imported late is imported now: nobody may not read this interpreter's home
if os.getuid() == 0:  # the superuser may write everywhere
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    load(LocalBlobs(sys.argv[1]))
except StorageError as error:
    print(json.dumps({"message": str(error), "retryable": error.retryable}))
"""


@pytest.fixture
def open_directory():
    """A directory that everybody can reach; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        yield path
        for found in [path, *path.rglob("*")]:
            found.chmod(0o755)


def load_as_nobody(store):
    """Load a job as a user without rights."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(store)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[4],
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("mode", [0o555, 0o000], ids=["read only", "closed"])
def test_store_without_permission_is_a_storage_error_with_advice_and_nothing_left(open_directory, mode):
    store = open_directory / "store"
    store.mkdir()
    store.chmod(mode)

    found = load_as_nobody(store)

    assert found["retryable"] is True
    assert str(store) in found["message"]
    assert "permission denied; give the user that runs the Airflow workers write access to it" in found["message"]
    assert "[batch_provider] storage_path" in found["message"]
    store.chmod(0o755)
    assert list(store.iterdir()) == []


def test_store_that_cannot_be_made_is_a_storage_error(open_directory):
    found = load_as_nobody(open_directory / "new" / "store")

    assert str(open_directory / "new" / "store") in found["message"]
    assert list(open_directory.iterdir()) == []


def test_files_can_be_read_by_the_group_as_the_umask_says(tmp_path):
    blobs = LocalBlobs(tmp_path)
    blobs.put("d/a", b"1")
    (tmp_path / "plain").write_bytes(b"1")

    assert stat.S_IMODE((tmp_path / "d/a").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_document_is_on_the_disk_before_its_name_is(tmp_path):
    """It has no digest: torn by a power loss, nobody could tell it from a whole one, or read it."""
    points = []
    blobs = LocalBlobs(tmp_path, FaultyDisk(Faults(tell=lambda point: points.append(str(point)))))
    blobs.put("plain", b"1")
    assert [point.partition(" ")[0] for point in points] == [f"{do}:{at}" for do in ("write", "rename") for at in AT]
    points.clear()
    put_json(blobs, "document.json", {})
    assert [point.partition(" ")[0] for point in points] == [
        f"{do}:{at}" for do in ("write", "sync", "rename") for at in AT
    ]


def test_a_sync_keeps_the_directories_that_a_process_made_which_did_not_live_to_sync_them(tmp_path):
    """Otherwise a power loss takes them, and with them files that were synced."""
    LocalBlobs(tmp_path / "root").put("d/e/killed", b"1")
    synced = []
    blobs = LocalBlobs(
        tmp_path / "root", FaultyDisk(Faults(Fault("sync:after *", lambda p: synced.append(p.name), times=None)))
    )
    blobs.put("d/e/a", b"1")
    blobs.sync()
    above = [tmp_path / "root/d/e", tmp_path / "root/d", tmp_path / "root", tmp_path]
    assert synced == [str(path) for path in [tmp_path / "root/d/e/a", *above]]

    synced.clear()
    blobs.put("d/e/b", b"1")
    blobs.sync()
    assert synced == [str(tmp_path / "root/d/e/b"), str(tmp_path / "root/d/e")], "once is enough"

"""What goes wrong outside of the job: its input, and the place where instances are kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from batch_provider.domain.outcome import JobState

pytestmark = pytest.mark.integration

GARBAGE = bytes(range(256)) * 40

AS_NOBODY = """
import os, sys
from batch_provider import BatchJob
from batch_provider.storage.blobs.local import LocalBlobs

with BatchJob("orders") as job:
    @job.step
    def check(record): ...

job.run([{"amount": 1}], store=LocalBlobs(sys.argv[1]))  # all that is imported late is imported now
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
job.run([{"amount": 1}], store=LocalBlobs(sys.argv[2]))
"""


def nothing_was_made(run):
    """No manifest and no data: what a later phase could read, or a person could take for an instance."""
    left = sorted(path.relative_to(run.folder).parts[0] for path in run.folder.rglob("*") if path.is_file())
    return set(left) <= {"load"}


def missing(folder):
    return folder / "absent.csv", "absent.csv: there is no such file", "Check the path and whether the file has arrived"


def a_directory(folder):
    (folder / "orders").mkdir()
    return folder / "orders", "orders: it is a directory", "Add a pattern, such as '/*.csv'"


def garbage(folder):
    (folder / "garbage.csv").write_bytes(GARBAGE)
    return folder / "garbage.csv", "garbage.csv: the header", "Check encoding="


def not_gzip(folder):
    (folder / "orders.csv.gz").write_bytes(b"id,amount\n1,2\n")
    return folder / "orders.csv.gz", "orders.csv.gz: it is damaged", "Check format=, compression= and encoding="


def unknown_format(folder):
    (folder / "orders.dat").write_text("id,amount\n1,2\n")
    return folder / "orders.dat", "orders.dat: its name does not tell the format", "Pass format="


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(missing, id="missing"),
        pytest.param(a_directory, id="directory"),
        pytest.param(garbage, id="binary-garbage"),
        pytest.param(not_gzip, id="not-gzip"),
        pytest.param(unknown_format, id="unknown-format"),
    ],
)
def test_an_unreadable_input_is_named_with_what_to_do_and_leaves_nothing(run, tmp_path, make):
    source, problem, advice = make(tmp_path)

    done = run.without_waiting("small", source)

    assert done.state == "failed"
    assert done.tasks["orders.load"] == "failed"
    assert done.reported.state is JobState.FAILED_INPUT
    assert problem in done.reported.reason
    assert advice in done.reported.reason
    assert done.store.latest() is None
    assert nothing_was_made(done)


def test_a_storage_path_that_is_a_file_is_named_with_what_to_do(run, orders, storage):
    storage.write_text("not a folder")

    done = run.without_waiting("small", orders(1))

    assert done.state == "failed"
    assert done.tasks["orders.on_complete"] == "failed"
    assert f"StorageError: Cannot write {storage}/v1/small/orders/" in done.log
    assert "a part of this path is a file; set [batch_provider] storage_path to a directory" in done.log


@pytest.fixture
def visible_folder():
    """A folder that other users can look into: pytest's own are for their owner alone."""
    folder = Path(tempfile.mkdtemp(prefix="batch-provider-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_storage_path_without_write_permission_is_named_with_what_to_do(visible_folder, tmp_path):
    if os.geteuid() != 0:
        visible_folder.chmod(0o555)

    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, tmp_path / "mine", visible_folder],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"batch_provider.domain.errors.StorageError: Cannot write {visible_folder}/v1/local/orders/")
    assert "permission denied; give the user that runs the Airflow workers write access to it" in last
    assert list(visible_folder.iterdir()) == []

"""Contract suites: what every store and every source must do. Subclass one in your tests.

A suite is a class of pytest tests; a subclass gives the fixture with the implementation under test::

    class TestMyBlobs(BlobsContract):
        @pytest.fixture
        def blobs(self):
            return MyBlobs(...)
"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batch_provider.domain.spec import AggregatorSpec, JobSpec, StepSpec
from batch_provider.sources.access import LocalAccess
from batch_provider.testing.local import LocalRun

if TYPE_CHECKING:
    from batch_provider.engine.ports.store import Source, SourceAccess
    from batch_provider.storage.blobs.protocol import AgingBlobs, Blobs


class Killed(BaseException):
    """Ends an attempt as a killed worker would: no handler of the engine sees it."""


class BlobsContract:
    """What a store of named bytes must do. The subclass gives the fixture ``blobs``, an empty store."""

    def test_what_was_put_is_got(self, blobs: Blobs) -> None:
        """Bytes and Arrow buffers come back as they were."""
        blobs.put("a/b/one.json", b"1")
        blobs.put("a/b/two.bin", pa.py_buffer(b"\x00\xff"))
        assert bytes(blobs.get("a/b/one.json")) == b"1"
        assert bytes(blobs.get("a/b/two.bin")) == b"\x00\xff"

    def test_what_is_absent_is_a_file_not_found_error(self, blobs: Blobs) -> None:
        """Not a StorageError: absence is an answer."""
        try:
            blobs.get("nowhere/nothing")
        except FileNotFoundError:
            return
        raise AssertionError("get() of an absent name must raise FileNotFoundError")

    def test_listing_is_sorted_and_of_one_level(self, blobs: Blobs) -> None:
        """Files and directories apart; an absent directory is empty."""
        for name in ("d/b", "d/a", "d/sub/c", "dd/x"):
            blobs.put(name, b"")
        assert blobs.files("d") == ["a", "b"]
        assert blobs.directories("d") == ["sub"]
        assert blobs.directories("") == ["d", "dd"]
        assert blobs.files("absent") == []
        assert blobs.directories("absent") == []

    def test_delete_takes_a_file_or_a_tree_and_nothing_else(self, blobs: Blobs) -> None:
        """A name that merely begins alike stays; deleting twice is harmless."""
        for name in ("d/a", "d/sub/c", "dd/x"):
            blobs.put(name, b"")
        blobs.delete("d/a")
        assert blobs.files("d") == []
        blobs.delete("d")
        blobs.delete("d")
        assert blobs.directories("") == ["dd"]

    def test_sync_can_be_called_at_any_time(self, blobs: Blobs) -> None:
        """Before anything is put, after it, and after it was deleted."""
        blobs.sync()
        blobs.put("d/a", b"1")
        blobs.sync()
        blobs.put("d/b", b"1")
        blobs.delete("d")
        blobs.sync()
        assert blobs.files("d") == []

    def test_a_job_that_is_killed_on_it_resumes(self, blobs: Blobs) -> None:
        """The whole protocol over this store: claims, checkpoints, a crash, a retry, the report."""
        seen: list[int] = []

        def work(record: dict[str, Any]) -> dict[str, Any]:
            seen.append(record["n"])
            if len(seen) == 6:
                raise Killed
            return {"double": record["n"] * 2}

        job = JobSpec(
            "contract",
            steps=(StepSpec("work", work), StepSpec("sum", lambda _: None, aggregator=AggregatorSpec(size=4))),
            block_size=2,
        )
        run = LocalRun(job, store=blobs)
        [shard] = run.load([{"n": n} for n in range(10)])
        with suppress(Killed):
            run.process(job.step("work"), shard)
        run.process_all()
        result = run.complete()
        assert (result.successful_records, result.failed_records) == (10, 0)
        assert [row["double"] for row in run.output()] == [2 * n for n in range(10)]
        assert seen == [0, 1, 2, 3, 4, 5, *range(4, 10)]


class AgingBlobsContract(BlobsContract):
    """What a store must do besides, so that purge can work on it."""

    def test_usage_counts_files_and_bytes_at_any_depth(self, blobs: AgingBlobs) -> None:
        """And says when something was last written; purge goes by that."""
        assert blobs.usage("absent").newest is None
        for name in ("d/a", "d/sub/c", "dd/x"):
            blobs.put(name, b"123")
        found = blobs.usage("d")
        assert (found.bytes, found.files) == (6, 2)
        assert blobs.usage("d/a").bytes == 3
        assert found.newest is not None
        assert found.newest.tzinfo is not None
        assert blobs.leftovers(timedelta(0)) == []


class SourceContract:
    """What a source must do. The subclass gives ``source`` and ``expected``, the records it holds."""

    def access(self) -> SourceAccess:
        """How the source reaches outside."""
        return LocalAccess()

    def test_its_records_come_in_order(self, source: Source, expected: list[dict[str, Any]]) -> None:
        """Each as the dict that steps will see."""
        found: list[dict[str, Any]] = []
        for piece in source.read(self.access()):
            assert isinstance(piece, pa.RecordBatch), f"unexpected malformed records: {piece}"
            found += piece.to_pylist()
        assert found == expected

    def test_it_describes_itself(self, source: Source) -> None:
        """For messages and the report."""
        assert source.describe()

"""Every store that ships keeps the contract that users' own stores must keep."""

from __future__ import annotations

import pytest

from batch_provider.sources.records import Records
from batch_provider.storage.blobs.local import LocalBlobs
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.testing.contracts import AgingBlobsContract, SourceContract


class TestMemoryBlobs(AgingBlobsContract):
    @pytest.fixture
    def blobs(self):
        return MemoryBlobs()


class TestLocalBlobs(AgingBlobsContract):
    @pytest.fixture
    def blobs(self, tmp_path):
        return LocalBlobs(tmp_path / "store")


class TestRecords(SourceContract):
    @pytest.fixture
    def expected(self):
        return [{"n": n, "name": str(n)} for n in range(25_000)]

    @pytest.fixture
    def source(self, expected):
        return Records(expected)

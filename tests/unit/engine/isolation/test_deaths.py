"""A record that kills its process is found, and fails alone."""

from __future__ import annotations

import pytest

from tests.unit.engine.isolation.dying import RECORDS, calls


@pytest.mark.parametrize(("way", "how"), [("segfault", "signal SIGSEGV"), ("sigkill", "signal SIGKILL")])
def test_a_record_that_kills_its_process_fails_alone_with_the_signal(server, tmp_path, way, how):
    died, found = server.until_done(tmp_path, "record_step", way=way)

    assert died == 2
    assert found["counts"] == [RECORDS - 1, 1, 0]
    ((record, step, kind, message),) = found["failures"]
    assert (record, step, kind) == (17, "work", "ProcessDiedError")
    assert how in message

"""One server for all tests of a process: it forks in milliseconds what would take a second to start."""

from __future__ import annotations

import pytest

from tests.unit.engine.isolation.dying import Server


@pytest.fixture(scope="session")
def server():
    server = Server()
    yield server
    server.close()

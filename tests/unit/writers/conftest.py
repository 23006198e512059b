"""Real databases: SQLite in a file, and a PostgreSQL server of the tests' own."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from batch_provider.sources.access import LocalAccess

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]


class Server:
    """A PostgreSQL server of the tests' own, on the loopback address."""

    def __init__(self, folder):
        self.folder = folder
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._as_user = []
        if os.geteuid() == 0:  # initdb refuses root
            shutil.chown(folder, "postgres")
            self._as_user = ["runuser", "-u", "postgres", "--"]
        self._run("initdb", "-A", "trust", "-U", "postgres", "--no-sync")

    def start(self):
        listen = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -c fsync=off"
        self._run("pg_ctl", "-w", "-o", listen, "-l", str(self.folder / "log"), "start")

    def stop(self, mode="immediate"):
        self._run("pg_ctl", "-w", "-m", mode, "stop")

    def _run(self, program, *options):
        command = [*self._as_user, str(POSTGRES[0] / program), "-D", str(self.folder / "data"), *options]
        subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="session")
def postgres_server():
    """A running server, ended with the session."""
    if not POSTGRES:
        pytest.skip("PostgreSQL's server is not installed (apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="batch-postgres-"))
    try:
        server = Server(folder)
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(postgres_server):
    """The port of a PostgreSQL server on the loopback address."""
    return postgres_server.port


class Database:
    """One database, and how a job reaches it as the connection `warehouse`."""

    def __init__(self, name, connect):
        self.name, self.connect = name, connect
        self.access = LocalAccess({"warehouse": connect})

    def run(self, *statements):
        with closing(self.connect()) as connection:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)
            found = cursor.fetchall() if cursor.description else None
            connection.commit()
        return found

    def rows(self, table="t"):
        return sorted(self.run(f"SELECT * FROM {table}"))


class PostgresDatabase(Database):
    """A database of the tests' server; its sessions are not in UTC."""

    def __init__(self, port, database, role="postgres"):
        import psycopg

        self.database, self._port = database, port
        self.options = {"host": "127.0.0.1", "port": port, "user": role, "dbname": database}
        self.options["options"] = "-c timezone=America/New_York"
        super().__init__("postgres", lambda: psycopg.connect(**self.options))

    def as_role(self, role):
        return PostgresDatabase(self._port, self.database, role)


def new_database(port):
    psycopg = pytest.importorskip("psycopg")
    name = f"t{uuid4().hex}"
    with psycopg.connect(host="127.0.0.1", port=port, user="postgres", autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
    return PostgresDatabase(port, name)


@pytest.fixture
def postgres_database(request):
    """An empty PostgreSQL database."""
    return new_database(request.getfixturevalue("postgres"))


@pytest.fixture(scope="module")
def shared_database(request):
    """One PostgreSQL database for all tests of a module."""
    return new_database(request.getfixturevalue("postgres"))


@pytest.fixture
def sqlite_database(tmp_path):
    """An empty SQLite database."""
    return Database("sqlite", lambda: sqlite3.connect(tmp_path / "warehouse.db", check_same_thread=False))


@pytest.fixture(params=["sqlite", "postgres"])
def database(request):
    """An empty database, once of each kind."""
    if request.param == "sqlite":
        return request.getfixturevalue("sqlite_database")
    return request.getfixturevalue("postgres_database")

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


@pytest.fixture(scope="session")
def postgres():
    """The port of a PostgreSQL server on the loopback address, ended with the session."""
    if not POSTGRES:
        pytest.skip("PostgreSQL's server is not installed (apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="batch-postgres-"))
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    as_user = []
    if os.geteuid() == 0:  # initdb refuses root
        shutil.chown(folder, "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    command = [*as_user, str(POSTGRES[0] / "pg_ctl"), "-D", str(folder / "data"), "-w"]
    initdb = [
        *as_user,
        str(POSTGRES[0] / "initdb"),
        "-D",
        str(folder / "data"),
        "-A",
        "trust",
        "-U",
        "postgres",
        "--no-sync",
    ]
    try:
        subprocess.run(initdb, check=True, capture_output=True)
        subprocess.run([*command, "-o", options, "-l", str(folder / "log"), "start"], check=True, capture_output=True)
        yield port
    finally:
        subprocess.run([*command, "-m", "immediate", "stop"], check=False, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


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
        super().__init__("postgres", lambda: psycopg.connect(
            host="127.0.0.1", port=port, user=role, dbname=database, options="-c timezone=America/New_York"
        ))  # fmt: skip

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

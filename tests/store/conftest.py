"""Fixtures for the store's tests: a real PostgreSQL server for the session, and a fresh database for each test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import psycopg
import pytest

from interlock.adapters.store import migrate
from tests.servers import PostgresServer

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for the whole run; tests share it, each in a database of its own."""
    server = PostgresServer(fsync=False)
    try:
        with psycopg.connect(server.url(), autocommit=True) as session:
            session.execute("CREATE DATABASE migrated")
        migrate(server.url("migrated"))
        yield server
    finally:
        server.stop()


@pytest.fixture
def empty_database(postgres_server: PostgresServer) -> Iterator[str]:
    """The address of a database with nothing in it."""
    yield from _database(postgres_server, "template0")


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The address of a migrated, empty event store."""
    yield from _database(postgres_server, "migrated")


def _database(server: PostgresServer, template: str) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    with psycopg.connect(server.url(), autocommit=True) as session:
        session.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield server.url(name)
    with psycopg.connect(server.url(), autocommit=True) as session:
        session.execute(f"DROP DATABASE {name} WITH (FORCE)")

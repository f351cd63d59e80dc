"""A real PostgreSQL for the tests that kill writers; the store's own fixtures."""

from __future__ import annotations

from tests.store.conftest import postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]

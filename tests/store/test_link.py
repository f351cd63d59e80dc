"""The session with PostgreSQL: what it must not do to the client library beside it."""

from __future__ import annotations

import os

import pytest

from interlock.adapters.store.link import Link, Timeouts
from interlock.domain.errors import InvalidField

SIZES = range(32_600, 33_200, 8)
"""Two columns of these sizes end near the 64 KiB that the client library reads at once."""


@pytest.mark.xdist_group("postgres")
def test_a_result_of_any_size_comes_at_once(postgres_url: str) -> None:
    """A socket made blocking had the library wait for more where a large result had come to its end."""
    link = Link(postgres_url, Timeouts(answer_s=5.0))
    try:
        for size in SIZES:
            rows = link.execute("SELECT repeat('x', $1::int) UNION ALL SELECT repeat('y', $1::int)", [size]).fetchall()
            assert [len(text) for (text,) in rows] == [size, size]
    finally:
        link.close()


@pytest.mark.xdist_group("postgres")
def test_the_librarys_socket_stays_as_it_wants_it(postgres_url: str) -> None:
    link = Link(postgres_url, Timeouts())
    try:
        assert not os.get_blocking(link._session.fileno())
    finally:
        link.close()


@pytest.mark.xdist_group("postgres")
def test_a_text_that_the_server_does_not_take_ends_no_session(postgres_url: str) -> None:
    link = Link(postgres_url, Timeouts())
    try:
        with pytest.raises(InvalidField, match="NUL"):
            link.execute("SELECT $1::text", ["a\0b"])
        assert link.execute("SELECT 1").fetchall() == [(1,)]
    finally:
        link.close()

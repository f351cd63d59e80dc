"""The session with PostgreSQL: what it must not do to the client library beside it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from interlock.adapters.store import migrate, open_store
from interlock.adapters.store.link import Link, Timeouts
from interlock.domain.errors import InvalidField, InvalidSetting

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


@pytest.mark.parametrize("ask", [open_store, migrate])
@pytest.mark.parametrize("url", ["postgresql://a b/x", "postgresql://u:secret%zz@h/x", "postgresql://a?foo=1"])
def test_an_address_that_does_not_parse_is_refused_with_how_to_write_it(ask: Callable[[str], Any], url: str) -> None:
    with pytest.raises(InvalidSetting, match=r"does not parse.*postgresql://USER@HOST") as refused:
        ask(url)
    assert "secret" not in str(refused.value)

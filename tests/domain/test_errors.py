"""What an error says is one sentence after the other."""

from __future__ import annotations

import pytest

from interlock.domain.errors import InterlockError, InvalidField, NotFound


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (InvalidField("at", "'x' is not a time", cure="Use ISO 8601."), "at: 'x' is not a time. Use ISO 8601."),
        (InterlockError("the disk is full.", cure="Free space."), "the disk is full. Free space."),
        (InterlockError("no cure"), "no cure"),
        (NotFound("node", "thor"), "no node named 'thor'."),
    ],
)
def test_the_cure_follows_a_full_stop(error: InterlockError, said: str) -> None:
    assert str(error) == said

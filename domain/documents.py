"""TOML, as every file of ours is read."""

from __future__ import annotations

import tomllib
from typing import Any

LONGEST_BITS = 1_000
"""What a whole number may have: all beyond has no float, and Python does not even print one of thousands of digits."""


def parse_toml(text: str) -> dict[str, Any]:
    """What a TOML text says; raises ValueError that says what is wrong with it."""
    try:
        document = tomllib.loads(text)
    except RecursionError:
        raise ValueError("its lists and tables lie too deep in each other") from None  # as tomllib does, for it
    left: list[tuple[str, object]] = [("", document)]
    while left:
        key, value = left.pop()
        if isinstance(value, dict):
            left += value.items()
        elif isinstance(value, list):
            left += ((key, item) for item in value)
        elif isinstance(value, int) and value.bit_length() > LONGEST_BITS:
            raise ValueError(f"{key}: its number is too long for any machine")  # as tomllib does, for it
    return document

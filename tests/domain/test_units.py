"""Durations: exact where they are read back, short where people read them."""

from __future__ import annotations

import random

import pytest

from interlock.domain.units import DAY, FOREVER, HOUR, MINUTE, SECOND, format_duration, parse_duration, tell_duration


@pytest.mark.parametrize(
    ("length", "told"),
    [
        (0, "0s"), (527, "527us"), (8_955, "8.96ms"), (712_527, "713ms"), (999_900, "1s"), (SECOND, "1s"),
        (5_134_000, "5.13s"), (30 * SECOND, "30s"), (59_990_000, "1m"), (90 * SECOND, "1m30s"),
        (90_712_527, "1m30s"), (2 * HOUR + 5 * MINUTE + 7 * SECOND, "2h5m"), (3 * DAY + 4 * HOUR + MINUTE, "3d4h"),
        (FOREVER, "forever"),
    ],
)  # fmt: skip
def test_people_read_three_digits_or_two_units(length: int, told: str) -> None:
    assert tell_duration(length) == told


def test_what_is_told_is_near_what_is_and_what_is_written_is_exact() -> None:
    rng = random.Random("durations")
    for _ in range(2000):
        length = int(10 ** rng.uniform(0, 13))
        assert parse_duration(format_duration(length)) == length
        assert abs(parse_duration(tell_duration(length)) - length) <= max(length * 0.05, 1), length

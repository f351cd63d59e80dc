"""Durations: exact where they are read back, short where people read them."""

from __future__ import annotations

import random

import pytest

from interlock.domain.documents import parse_toml
from interlock.domain.errors import InvalidField, InvalidSetting
from interlock.domain.settings import parse_setting
from interlock.domain.units import (
    DAY,
    FOREVER,
    HOUR,
    LARGEST_NUMBER,
    MINUTE,
    SECOND,
    format_duration,
    format_instant,
    parse_duration,
    parse_rate,
    parse_size,
    tell_duration,
    whole_number,
)

ODD_NUMBERS = ("9" * 5000, "²", "٣", "1_0", "1.0", "0x1", "-", "")
"""What Python's own reading of numbers takes too kindly, or fails on."""


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


@pytest.mark.parametrize("text", ODD_NUMBERS, ids=lambda text: text[:9])
def test_what_is_no_number_in_plain_digits_is_none(text: str) -> None:
    assert whole_number(text) is None
    with pytest.raises(InvalidField):
        parse_rate(f"{text}/s")
    with pytest.raises(InvalidSetting):
        parse_setting("queue_limit", text)
    for parse in (parse_size, parse_duration):
        with pytest.raises(InvalidField):
            parse(f"{text}x")


def test_a_number_is_read_within_its_bounds() -> None:
    assert [whole_number(text, -5, 7) for text in ("-5", "007", "7", "8", "-6")] == [-5, 7, 7, None, None]
    assert (whole_number(str(LARGEST_NUMBER)), whole_number(str(LARGEST_NUMBER + 1)), whole_number("-1")) == (
        LARGEST_NUMBER,
        None,
        None,
    )


@pytest.mark.parametrize("value", ["0x" + "f" * 9000, "9" * 5000, "[1, [0o" + "7" * 9000 + "]]", "[" * 9000])
def test_a_document_with_a_number_that_nobody_could_print_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"too long|too deep|Exceeds the limit"):
        parse_toml(f"ram = {value}")
    assert parse_toml(f"ram = {2**64}") == {"ram": 2**64}


def test_an_instant_that_no_calendar_has_is_told_as_the_last_that_one_has() -> None:
    assert format_instant(FOREVER) == format_instant(2 * FOREVER) == "9999-12-31T23:59:59.999999Z"
    assert format_instant(-FOREVER) == "0001-01-01T00:00:00.000000Z"

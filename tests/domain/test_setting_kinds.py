"""What a setting says of its kind where it is defined is all that reading and writing it needs."""

from __future__ import annotations

from typing import Annotated

import msgspec
import pytest

from interlock.domain.errors import InvalidField, InvalidSetting
from interlock.domain.setting_kinds import ByteRate, Count, Length, Size, declared
from interlock.domain.settings import KINDS, Settings, format_setting, parse_setting
from interlock.domain.units import FOREVER, KIB, LARGEST_SIZE, MINUTE, SECOND, TIB


def test_every_setting_has_a_kind_that_reads_its_default_back() -> None:
    defaults = msgspec.structs.asdict(Settings())
    assert list(KINDS) == list(defaults)
    assert {name: parse_setting(name, format_setting(name, value)) for name, value in defaults.items()} == defaults


def test_a_setting_without_a_kind_stops_the_program_when_it_is_defined() -> None:
    class Wrong(msgspec.Struct):
        good: Annotated[int, Count()] = 1
        bare: int = 2

    with pytest.raises(AttributeError):
        declared(Wrong)


@pytest.mark.parametrize(("kind", "counted"), [(Length(off=0), 0), (Length(off=FOREVER), FOREVER), (Count(off=0), 0)])
def test_off_is_what_the_setting_says_it_is(kind: Length | Count, counted: int) -> None:
    assert kind.parse("off", "n") == counted
    assert kind.format(counted) == "off"


@pytest.mark.parametrize("kind", [Length(), Count()])
def test_off_is_no_value_where_the_setting_says_nothing_of_it(kind: Length | Count) -> None:
    with pytest.raises((InvalidField, InvalidSetting), match="n: 'off' is not a"):
        kind.parse("off", "n")


def test_a_length_with_an_end_says_which_and_why() -> None:
    kind = Length(off=0, most=MINUTE, reason="somebody waits")
    assert kind.parse("60s", "n") == 60 * SECOND
    with pytest.raises(InvalidSetting, match='Give 1m or less, or "off": somebody waits'):
        kind.parse("61s", "n")


@pytest.mark.parametrize(
    ("size", "text"),
    [(64 * KIB, "64KiB"), (64 * KIB + 1, "65537B"), (10_000 * TIB, "10000TiB"), (LARGEST_SIZE, "1048576TiB")],
)
def test_a_size_is_written_so_that_nothing_of_it_is_lost(size: int, text: str) -> None:
    assert (Size().format(size), Size().parse(text, "n")) == (text, size)
    assert (ByteRate().format(size), ByteRate().parse(f"{text}/s", "n")) == (f"{text}/s", size)

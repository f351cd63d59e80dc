"""What a setting says of its kind where it is defined is all that reading and writing it needs."""

from __future__ import annotations

from typing import Annotated

import msgspec
import pytest
from msgspec.structs import replace

from interlock.domain.errors import InvalidField, InvalidSetting
from interlock.domain.setting_kinds import ByteRate, Count, Length, Size, declared
from interlock.domain.settings import KINDS, Settings, doubts, format_setting, parse_setting
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


@pytest.mark.parametrize(
    "name", ["reconcile_interval", "heartbeat_interval", "unreachable_after", "holder_lease", "writer_lease"]
)
def test_what_happens_again_and_again_has_a_shortest_length(name: str) -> None:
    assert parse_setting(name, "100ms") == SECOND // 10
    with pytest.raises(InvalidSetting, match=f"{name}: '99ms' is too short. Give 100ms or more."):
        parse_setting(name, "99ms")


def test_a_share_is_no_more_than_all_and_a_tenants_priority_no_more_than_a_request_may_have() -> None:
    assert (parse_setting("mass_loss_share", 100), parse_setting("tenant_priority", -1000)) == (100, -1000)
    with pytest.raises(InvalidSetting, match="Give 0 to 100"):
        parse_setting("mass_loss_share", 101)
    with pytest.raises(InvalidSetting, match="Give -1000 to 1000"):
        parse_setting("tenant_priority", 1001)


def test_settings_that_hardly_go_together_are_told_of_with_a_cure_and_not_refused() -> None:
    assert doubts(Settings()) == []
    together = replace(Settings(), longest_residency=5 * MINUTE)
    assert doubts(together) == [
        "longest_residency (5m) is not less than request_deadline (5m): while models evict each other again and again, "
        "who waits may be refused before it gets a turn. Lower longest_residency, or raise request_deadline."
    ]
    assert doubts(replace(together, longest_residency=5 * MINUTE - 1)) == []
    assert doubts(replace(together, thrash_cycles=0)) == [], "then nobody stays for longer"

"""Durations, sizes and instants as people write them, and as the core counts them.

The core counts time in whole microseconds and memory in whole bytes: integers compare exactly everywhere.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from .errors import InvalidField

MILLISECOND = 1_000
SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
FOREVER = 2**62
"""An instant or a length later than any that occurs; what ``"forever"`` means."""

KIB, MIB, GIB, TIB = 2**10, 2**20, 2**30, 2**40
LARGEST_NUMBER = 2**63 - 1
"""What a snapshot keeps at most."""
LARGEST_SIZE = 2**60
"""An exbibyte: sums of sizes stay within 64 bits, as the log writes them."""

_DURATION_UNITS = {"us": 1, "ms": MILLISECOND, "s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY}
_SIZE_UNITS = {
    "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "K": KIB, "M": MIB, "G": GIB, "T": TIB, "KIB": KIB, "MIB": MIB, "GIB": GIB, "TIB": TIB,
}  # fmt: skip
_NUMBER_AND_UNIT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*")
_WHOLE = re.compile(r"-?[0-9]{1,19}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_INSTANT = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
_LAST_INSTANT = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)


def whole_number(text: str, least: int = 0, most: int = LARGEST_NUMBER) -> int | None:
    """The whole number that somebody wrote; None where it is none, or beyond these bounds.

    ``int`` alone takes digits of every script and refuses thousands of them, and ``isdigit`` takes "²", which ``int``
    refuses.
    """
    number = int(text) if _WHOLE.fullmatch(text) else None
    return number if number is not None and least <= number <= most else None


def parse_share(text: object, field: str) -> int | None:
    """The percents of ``"80%"``; None for what is no share. Raises InvalidField for one that is not 1% to 100%."""
    if not isinstance(text, str) or not text.strip().endswith("%"):
        return None
    percent = whole_number(text.strip()[:-1].strip(), 1, 100)
    if percent is None:
        raise InvalidField(field, f"{text!r} is not a share", cure='Use "1%" to "100%".')
    return percent


def parse_duration(text: str, field: str = "duration") -> int:
    """Microseconds in ``"500ms"``, ``"30s"``, ``"5m"``, ``"1h"``, ``"1h30m"`` or ``"forever"``; raises InvalidField."""
    if not isinstance(text, str):
        raise InvalidField(field, f"{text!r} is not a duration", cure='Write it as text: "30s".')
    if text.strip() == "forever":
        return FOREVER
    total, end = 0.0, 0
    for match in _NUMBER_AND_UNIT.finditer(text):
        unit = _DURATION_UNITS.get(match[2])
        if match.start() != end or unit is None:
            break
        total += min(float(match[1]) * unit, FOREVER)
        end = match.end()
    if end == 0 or end != len(text):
        raise InvalidField(field, f"{text!r} is not a duration", cure='Use a number and us, ms, s, m, h or d: "30s".')
    return min(round(total), FOREVER)


def parse_limit(text: str, field: str = "deadline") -> int:
    """The length until a deadline that somebody names. ``"0s"`` is the shortest there is: 0 would mean unsaid."""
    return max(1, parse_duration(text, field))


def format_duration(length: int) -> str:
    """The shortest exact spelling of ``length`` microseconds: ``"30s"``, ``"1h30m"``, ``"forever"``."""
    if length >= FOREVER:
        return "forever"
    if length == 0:
        return "0s"
    parts: list[str] = []
    for unit in ("d", "h", "m", "s", "ms", "us"):
        count, length = divmod(length, _DURATION_UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def tell_duration(length: int) -> str:
    """``length`` microseconds for people: two units from a minute on, three digits below: ``"1h30m"``, ``"8.96ms"``."""
    if length >= FOREVER or length == 0:
        return format_duration(length)
    units = list(_DURATION_UNITS.items())[::-1]
    for (name, unit), (_, smaller) in zip(units, [*units[1:], ("", 1)], strict=True):
        if length < unit:
            continue
        if unit >= MINUTE:
            return format_duration(length // smaller * smaller)
        told = float(f"{length / unit:.3g}")
        # What rounds up to the next unit is told in it: 999.9ms is a second.
        return tell_duration(round(told * unit)) if told * unit >= _NEXT[name] else f"{told:g}{name}"
    return format_duration(length)


def tell_clock(off: int) -> str:
    """How a clock stands that is off by so many microseconds, for people: ``"1h ahead"``, ``"30s behind"``."""
    return f"{tell_duration(abs(off))} {'ahead' if off > 0 else 'behind'}"


_NEXT = {"us": MILLISECOND, "ms": SECOND, "s": MINUTE}


def parse_rate(text: str, field: str = "rate") -> int:
    """Microseconds from one to the next in ``"5/s"``, ``"100/m"`` or ``"1/90s"``; 0 for ``"off"``; raises InvalidField.

    Rounded to whole microseconds, in favour of who is limited.
    """
    if text == "off":
        return 0
    count, _, unit = (part.strip() for part in str(text).partition("/"))
    many = whole_number(count, 1)
    if many is not None and unit:
        within = parse_duration(unit if unit[0].isdigit() else f"1{unit}", field)
        if many <= within < FOREVER:
            return within // many
    raise InvalidField(field, f"{text!r} is not a rate", cure='Write how many in how long: "5/s", "100/m", or "off".')


def format_rate(between: int) -> str:
    """A rate as :func:`parse_rate` reads it back."""
    if not between:
        return "off"
    for unit, name in ((SECOND, "s"), (MINUTE, "m"), (HOUR, "h"), (DAY, "d")):
        if between <= unit and unit // (unit // between) == between:
            return f"{unit // between}/{name}"
    return f"1/{format_duration(between)}"


def parse_size(text: str | int, field: str = "size") -> int:
    """Bytes in ``"64GiB"``, ``"900GB"``, ``"1.5TiB"`` or a whole number; raises InvalidField."""
    if isinstance(text, int) and not isinstance(text, bool) and 0 <= text <= LARGEST_SIZE:
        return text
    match = _NUMBER_AND_UNIT.fullmatch(text) if isinstance(text, str) else None
    unit = _SIZE_UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None:
        raise InvalidField(field, f"{text!r} is not a size", cure='Use a number and a unit: "64GiB".')
    size = float(match[1]) * unit
    if size > LARGEST_SIZE:
        raise InvalidField(
            field, f"{str(text)[:40]!r} is larger than any machine", cure='Use a number and a unit: "64GiB".'
        )
    return round(size)


@lru_cache(4096)
def format_size(size: int) -> str:
    """``size`` bytes for people: ``"64GiB"``, ``"9.5GiB"``, ``"512B"``."""
    for unit, name in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit:
            count = size / unit
            # The shorter spelling of ten thousand is "1e+04", which :func:`parse_size` does not read.
            return f"{count:.0f}{name}" if count >= 1000 else f"{count:.4g}{name}"
    return f"{size}B"


def format_instant(instant: int) -> str:
    """An instant (microseconds since 1970) as ISO 8601 in UTC with microseconds.

    What lies outside of the years that have a name is shown as the nearest moment of them.
    """
    # "Forever" from now on is an instant, too, and has no date; nor has what somebody writes into a log.
    instant = max(_FIRST_INSTANT, min(instant, _LAST_INSTANT))
    return (_EPOCH + timedelta(microseconds=instant)).isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_instant(text: str, field: str = "time") -> int:
    """Microseconds since 1970 of an ISO 8601 time; UTC when it names no zone; raises InvalidField."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidField(field, f"{text!r} is not a time", cure="Use ISO 8601: 2026-01-01T03:12:00Z.") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round((moment - _EPOCH) / timedelta(microseconds=1))

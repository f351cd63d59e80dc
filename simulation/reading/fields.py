"""Reading fields out of a parsed TOML file: each of its kind, and every error with the key and its line."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec

from interlock.domain.entities import Budget
from interlock.domain.errors import InvalidField, InvalidSetting, UnreadableFile
from interlock.domain.selector import Selector, parse_selector
from interlock.domain.settings import SettingValue, parse_setting
from interlock.domain.units import HOUR, MINUTE, SECOND, parse_duration, parse_share, parse_size

from .lines import line_of

_T = TypeVar("_T")
_REQUIRED: Any = object()
LARGEST = 2**53
"""Whole numbers beyond are exact neither in JSON nor in a float."""
WIDEST_SIGMA = 10.0
"""A lognormal wider than that has no length that means anything."""
_PER = {"s": SECOND, "m": MINUTE, "h": HOUR}


class Distribution(msgspec.Struct, frozen=True):
    """How long something takes. ``length`` in microseconds: the fixed value, the mean (``exp``) or the median.

    ``kind`` is ``fixed``, ``exp`` or ``lognormal``; ``sigma`` is the lognormal's.
    """

    kind: str
    length: int
    sigma: float = 0.0


class Source:
    """The text of a scenario file, and what to call it in messages."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.lines = text.splitlines()

    def line_of(self, header: str, ordinal: int, key: str) -> int:
        """The line (from 1) of ``key`` in the ``ordinal``-th table called ``header``; of the table when not found."""
        return line_of(self.lines, header, ordinal, key)


class Table:
    """One table of the file. Each getter takes its key out; :meth:`done` refuses what is left."""

    def __init__(
        self, source: Source, data: object, header: str = "", ordinal: int = 0, label: str = "", inside: str = ""
    ) -> None:
        self.source = source
        self.inside = inside
        """What the table is called within the one that has the header."""
        self.header = header
        self.ordinal = ordinal
        self.label = label or header
        self.known: list[str] = []
        if not isinstance(data, dict):
            raise self.error("", f"{data!r} is not a table", "Write it as a table of keys and values.")
        self.data: dict[str, Any] = dict(data)

    def error(self, key: str, problem: str, cure: str = "", of: str = "") -> UnreadableFile:
        """The error for one key, with its line, or that of a key within it."""
        line = self.source.line_of(self.header, self.ordinal, ".".join(filter(None, (self.inside, of or key))))
        what = f"{self.label}.{key}" if self.label and key else (key or self.label or "file")
        return UnreadableFile(f"{self.source.name}:{line}: {what}: {problem}.", cure=cure)

    @property
    def line(self) -> int:
        """Where the table begins."""
        return self.source.line_of(self.header, self.ordinal, "")

    def __contains__(self, key: str) -> bool:
        return key in self.data

    def done(self) -> None:
        """Refuse keys that nobody asked for."""
        for key in self.data:
            if key not in self.known:
                raise self.error(key, "is no key here", f"Known keys: {', '.join(sorted(set(self.known)))}.")

    def take(self, key: str, default: Any, read: Callable[[Any], _T]) -> _T:
        """The key's value as ``read`` makes it; the default as it is when the key is absent."""
        self.known.append(key)
        if key not in self.data:
            if default is _REQUIRED:
                raise self.error(key, "is missing", f"Add {key} to it.")
            return default  # type: ignore[no-any-return]  # the caller's default has the caller's type
        try:
            return read(self.data[key])
        except (InvalidField, InvalidSetting) as error:
            problem = error.message.removeprefix(f"{key}: ").rstrip(".")
            field = error.field if isinstance(error, InvalidField) and error.field.startswith(f"{key}.") else key
            raise self.error(key, problem, error.cure, of=field) from None

    def text(self, key: str, default: Any = _REQUIRED) -> str:
        """Text."""
        return self.take(key, default, lambda value: _of(str, value, key, '"text"'))

    def integer(self, key: str, default: Any = _REQUIRED, least: int | None = 0, most: int = LARGEST) -> int:
        """A whole number, neither below ``least`` nor above ``most``."""
        return self.take(key, default, lambda value: whole(value, key, least, most))

    def number(self, key: str, default: Any = _REQUIRED, most: float = math.inf) -> float:
        """A number that is not negative, nor above ``most``."""
        return self.take(key, default, lambda value: real(value, key, most))

    def boolean(self, key: str, default: Any = _REQUIRED) -> bool:
        """true or false."""
        return self.take(key, default, lambda value: _of(bool, value, key, "true or false"))

    def duration(self, key: str, default: Any = _REQUIRED) -> int:
        """A length in microseconds."""
        return self.take(key, default, lambda value: parse_duration(value, key))

    def size(self, key: str, default: Any = _REQUIRED) -> int:
        """Bytes."""
        return self.take(key, default, lambda value: written_size(value, key))

    def distribution(self, key: str, default: Any = _REQUIRED) -> Distribution:
        """A distribution of lengths."""
        return self.take(key, default, lambda value: parse_distribution(value, key))

    def selector(self, key: str) -> Selector:
        """A node selector; empty when absent."""
        return self.take(key, (), lambda value: parse_selector(_of(dict, value, key, "a table"), key))

    def mapping(self, key: str, default: Any, read: Callable[[Any, str], _T]) -> dict[str, _T]:
        """A table of names to values, each read by ``read(value, name)``."""

        def every(value: Any) -> dict[str, _T]:
            return {name: read(item, f"{key}.{name}") for name, item in _of(dict, value, key, "a table").items()}

        return self.take(key, default, every)

    def texts(self, key: str, default: Any = _REQUIRED) -> tuple[str, ...]:
        """A list of texts."""

        def every(value: Any) -> tuple[str, ...]:
            return tuple(_of(str, item, key, '["text", ...]') for item in _of(list, value, key, '["text", ...]'))

        return self.take(key, default, every)

    def choice(self, key: str, choices: Iterable[str], default: Any = _REQUIRED) -> str:
        """One of a few words."""
        words = list(choices)

        def one(value: Any) -> str:
            if value not in words:
                raise InvalidField(key, f"{value!r} is not known", cure=f"Choose one of: {', '.join(words)}.")
            return str(value)

        return self.take(key, default, one)

    def settings(self, skip: Iterable[str] = ()) -> dict[str, SettingValue]:
        """Every key that is left, as settings of the core."""
        values: dict[str, SettingValue] = {}
        for name in [key for key in self.data if key not in set(skip)]:
            values[name] = self.take(name, 0, functools.partial(parse_setting, name))
        return values

    def tables(self, key: str) -> list[Table]:
        """An array of tables."""

        def every(value: Any) -> list[Table]:
            rows = _of(list, value, key, f"[[{key}]] tables")
            return [Table(self.source, row, key, ordinal, f"{key}[{ordinal}]") for ordinal, row in enumerate(rows)]

        return self.take(key, [], every)

    def inner(self, key: str) -> Table | None:
        """A table that is written inside this one; None when absent."""
        label = f"{self.label}.{key}"
        return self.take(key, None, lambda value: Table(self.source, value, self.header, self.ordinal, label, key))

    def table(self, key: str) -> Table | None:
        """A table of its own; None when absent."""
        return self.take(key, None, lambda value: Table(self.source, value, key))


def _of(kind: type[_T], value: object, key: str, wanted: str) -> _T:
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise InvalidField(key, f"{value!r} is of the wrong kind", cure=f"Give {wanted}.")
    return value


def whole(value: object, key: str, least: int | None = 0, most: int = LARGEST) -> int:
    """A whole number, neither below ``least`` nor above ``most``; raises InvalidField."""
    number = _of(int, value, key, "a whole number")
    if least is not None and number < least:
        raise InvalidField(key, f"{number} is too small", cure=f"Give {least} or more.")
    if abs(number) > most:
        raise InvalidField(key, f"{str(number)[:20]} is too much", cure=f"Give {most} at most.")
    return number


def written_size(value: object, key: str) -> int:
    """Bytes in text with a unit; raises InvalidField. ``vram = 24`` is a mistake far more often than 24 bytes."""
    if type(value) is int and value:
        raise InvalidField(
            key, f"{value} has no unit", cure=f'Write it as text: "{value}GiB", or "{value}B" for bytes.'
        )
    return parse_size(value, key)  # type: ignore[arg-type]  # parse_size names what is neither text nor a number


def real(value: object, key: str, most: float = math.inf) -> float:
    """A number that is not negative, nor above ``most``; raises InvalidField."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise InvalidField(key, f"{value!r} is not a number that it can have", cure="Give 0 or more.")
    if value > most:
        raise InvalidField(key, f"{value!r} is too much", cure=f"Give {most:g} at most.")
    return float(value)


def parse_distribution(value: object, key: str) -> Distribution:
    """``"2s"``, ``"exp 2s"`` (mean) or ``"lognormal 2s 0.5"`` (median and sigma); raises InvalidField."""
    words = _of(str, value, key, 'text such as "exp 2s"').split()
    cure = 'Use "2s", "exp 2s" or "lognormal 2s 0.5".'
    try:
        if len(words) == 1:
            return Distribution("fixed", parse_duration(words[0], key))
        if len(words) == 2 and words[0] == "exp":
            return Distribution("exp", parse_duration(words[1], key))
        if len(words) == 3 and words[0] == "lognormal":
            sigma = real(float(words[2]), key)
            if sigma <= WIDEST_SIGMA:
                return Distribution("lognormal", parse_duration(words[1], key), sigma)
            cure = f"Give a sigma of {WIDEST_SIGMA:g} at most; 0.5 is usual."
    except (InvalidField, ValueError):
        pass
    raise InvalidField(key, f"{value!r} is not a distribution", cure=cure)


def parse_rate(value: object, key: str) -> float:
    """Events per second in ``"2/s"``, ``"90/m"`` or ``"10/h"``; raises InvalidField."""
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*/\s*([smh])\s*", value) if isinstance(value, str) else None
    if found is None or float(found[1]) <= 0:
        raise InvalidField(key, f"{value!r} is not a rate above 0", cure='Use "2/s", "90/m" or "10/h".')
    return float(found[1]) * SECOND / _PER[found[2]]


def parse_byte_rate(value: object, key: str) -> int:
    """Bytes per second in ``"1GiB/s"``; raises InvalidField."""
    text = value.removesuffix("/s") if isinstance(value, str) and value.endswith("/s") else ""
    try:
        rate = parse_size(text, key)
    except InvalidField:
        rate = 0
    if rate <= 0:
        raise InvalidField(key, f"{value!r} is not a rate above 0", cure='Use "1GiB/s".')
    return rate


def parse_budget(value: object, key: str) -> Budget:
    """``"80%"`` of each pool, or ``"100GiB"`` of each; raises InvalidField."""
    if (percent := parse_share(value, key)) is not None:
        return Budget(percent=percent)
    size = written_size(value, key)
    if size <= 0:
        raise InvalidField(key, f"{value!r} is no budget", cure='Use "80%" or "100GiB".')
    return Budget(size=size)

"""The kinds of settings there are: how each is read and written.

A setting says its kind where it is defined: ``name: Annotated[int, Count(least=1)] = 3``. Each kind reads what people
and files give, as text or as a number, and raises InvalidSetting and InvalidField, which name the setting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, get_type_hints

import msgspec

from .errors import InvalidSetting
from .units import (
    FOREVER,
    format_duration,
    format_rate,
    format_size,
    parse_duration,
    parse_rate,
    parse_size,
    whole_number,
)


class Kind(Protocol):
    """How values of one kind are read and written."""

    def parse(self, value: object, name: str) -> int | str:
        """The value as the core counts it."""

    def format(self, value: int) -> str:
        """The value as :meth:`parse` reads it back."""


class Length(msgspec.Struct, frozen=True, kw_only=True):
    """A length of time, in microseconds."""

    off: int | None = None
    """What ``"off"`` counts as, 0 or FOREVER; None: it is no length."""
    least: int = 0
    """Shorter than that nobody lives by it: what is done so often leaves no time for anything else."""
    most: int = FOREVER
    reason: str = ""
    """Why it may not be longer than ``most``."""

    def parse(self, value: object, name: str) -> int:
        """See ``Kind``."""
        if value == "off" and self.off is not None:
            return self.off
        length = parse_duration(value, name)  # type: ignore[arg-type]  # parse_duration names what is not text
        if length < self.least:
            raise InvalidSetting(
                f"{name}: {value!r} is too short.", cure=f"Give {format_duration(self.least)} or more."
            )
        if length > self.most:
            cure = f'Give {format_duration(self.most)} or less, or "off": {self.reason}.'
            raise InvalidSetting(f"{name}: {value!r} is too long.", cure=cure)
        return length

    def format(self, value: int) -> str:
        """See ``Kind``."""
        return "off" if _is_off(value, self.off) else format_duration(value)


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """A whole number."""

    least: int = 0
    most: int = FOREVER - 1
    off: int | None = None
    """What ``"off"`` counts as, 0 or FOREVER; None: it is no number."""

    def parse(self, value: object, name: str) -> int:
        """See ``Kind``."""
        if value == "off" and self.off is not None:
            return self.off
        number = value if isinstance(value, int) and not isinstance(value, bool) else None
        if isinstance(value, str):
            number = whole_number(value, self.least)
        if number is None or not self.least <= number <= self.most:
            cure = f"Give {self.least} or more." if self.most >= FOREVER - 1 else f"Give {self.least} to {self.most}."
            raise InvalidSetting(f"{name}: {value!r} is not a whole number that it can have.", cure=cure)
        return number

    def format(self, value: int) -> str:
        """See ``Kind``."""
        return "off" if _is_off(value, self.off) else str(value)


class Size(msgspec.Struct, frozen=True):
    """Bytes."""

    def parse(self, value: object, name: str) -> int:
        """See ``Kind``."""
        return parse_size(value, name)  # type: ignore[arg-type]  # parse_size names what is not text

    def format(self, value: int) -> str:
        """See ``Kind``: a size with its unit where that is exact."""
        text = format_size(value)
        return text if parse_size(text) == value else f"{value}B"


class ByteRate(msgspec.Struct, frozen=True):
    """Bytes a second, as in ``"64MiB/s"`` or, the same, ``"64MiB"``."""

    def parse(self, value: object, name: str) -> int:
        """See ``Kind``."""
        rate = Size().parse(value.strip().removesuffix("/s") if isinstance(value, str) else value, name)
        if rate < 1:
            raise InvalidSetting(f"{name}: {value!r} moves nothing.", cure='Give a rate, as in "64MiB/s".')
        return rate

    def format(self, value: int) -> str:
        """See ``Kind``."""
        return f"{Size().format(value)}/s"


class RequestRate(msgspec.Struct, frozen=True):
    """How many in how long, as in ``"5/s"``, kept as the microseconds from one to the next; 0, ``"off"``: no limit."""

    def parse(self, value: object, name: str) -> int:
        """See ``Kind``."""
        return parse_rate(value, name)  # type: ignore[arg-type]  # parse_rate names what is not text

    def format(self, value: int) -> str:
        """See ``Kind``."""
        return format_rate(value)


class Text(msgspec.Struct, frozen=True):
    """Text that ``read`` checks, and gives in the form that is kept."""

    read: Callable[[object], str]

    def parse(self, value: object, name: str) -> str:
        """See ``Kind``."""
        return self.read(value)

    def format(self, value: int) -> str:
        """See ``Kind``."""
        return str(value)


def declared(settings: type[msgspec.Struct]) -> dict[str, Any]:
    """What each setting of a struct says of itself in ``Annotated[...]``, by name and in their order.

    Raises AttributeError for one that says nothing, when its module is imported.
    """
    hints = get_type_hints(settings, include_extras=True)
    return {name: hints[name].__metadata__[0] for name in settings.__struct_fields__}


def _is_off(value: int, off: int | None) -> bool:
    return value >= FOREVER if off == FOREVER else value == off

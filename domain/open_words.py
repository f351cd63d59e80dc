"""Words that logs hold, of which a newer program may know more than this one."""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class OpenWords(StrEnum):
    """A set of words that may grow.

    A word that is not in it, as a newer program may have written it, is read and written back as it stands: it is one
    of its own, of which no rule knows anything.
    """

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        unknown = str.__new__(cls, value)
        unknown._name_ = unknown._value_ = value
        return unknown

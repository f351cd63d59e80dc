"""The court: before whom the rules of one matter bring what they find wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from interlock.domain.settings import Settings

from .picture import Picture


class Court(Protocol):
    """Who keeps the picture and the settings, and notes what is wrong."""

    picture: Picture
    settings: Settings
    is_running: Callable[[str], bool]

    def breach(self, prop: str, detail: str, subject: str = "") -> None:
        """Note a violation."""

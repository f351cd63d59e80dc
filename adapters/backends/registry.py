"""Backends by name, found through entry points of the group ``interlock.backends``."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

from interlock.domain.errors import BackendFailed

from .base import Backend

GROUP = "interlock.backends"


def installed() -> dict[str, EntryPoint]:
    """Every installed backend's name and entry point, in order of name. None of them is imported."""
    return {entry.name: entry for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name)}


def make(name: str) -> Backend:
    """A new backend of that name; raises BackendFailed when there is none, or when it cannot be imported."""
    entry = installed().get(name)
    if entry is None:
        known = ", ".join(installed()) or "none"
        raise BackendFailed(f"no backend named {name!r} is installed here; there are: {known}")
    try:
        factory: Callable[[], Backend] = entry.load()
    except ImportError as error:
        raise BackendFailed(f"backend {name!r} cannot be imported: {error}") from error
    return factory()

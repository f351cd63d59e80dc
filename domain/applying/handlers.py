"""The table of handlers: for every event type, the function that folds it into the state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from interlock.domain import events as ev
from interlock.domain.state import State

_E = TypeVar("_E", bound=ev.Event)
HANDLERS: dict[type[ev.Event], Callable[[State, Any], None]] = {}


def applies(cls: type[_E]) -> Callable[[Callable[[State, _E], None]], Callable[[State, _E], None]]:
    """Register the handler of one event type."""

    def register(handler: Callable[[State, _E], None]) -> Callable[[State, _E], None]:
        HANDLERS[cls] = handler
        return handler

    return register

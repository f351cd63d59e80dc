"""Folding events into the state: ``apply`` never decides, and never fails on an event that was decided."""

from __future__ import annotations

from . import events as ev
from .applying import models, nodes, replicas, requests, scheduler, tenants
from .applying.handlers import HANDLERS
from .state import State
from .timers import prune

__all__ = ["HANDLERS", "apply", "models", "nodes", "replicas", "requests", "scheduler", "tenants"]


def apply(state: State, event: ev.Event) -> None:
    """Change ``state`` in place by one event."""
    HANDLERS[type(event)](state, event)
    if state.timers:
        prune(state)

"""Parked wishes: what cannot be met now, the very thing that it lacks, and which changes may bring it."""

from __future__ import annotations

from . import events as ev
from .entities import Model, Parked
from .explanation import Explanation
from .refusals import RefusalCode
from .room import ever_fits
from .state import State

CURES = {
    "load info": frozenset({"model", "thaw", "epoch"}),
    "node": frozenset({"node", "limits", "model", "thaw", "epoch"}),
    "capacity": frozenset({"capacity", "node", "limits", "model", "thaw", "epoch"}),
    "edit": frozenset({"node", "model"}),
    "time": frozenset({"model"}),
}
"""What a parked model lacks, and the kinds of change that may bring it.

``limits`` is what nodes may hold at most, by their own figures or by a setting: what never fitted may fit then.
After a ``thaw`` all that has come while the reconciler was frozen is looked at.
"""


def park(model: Model, wish: Parked, now: int, explanation: Explanation | None = None) -> ev.ModelParked:
    """The event that parks what the model lacks."""
    return ev.ModelParked(
        at=now, model=model.name, reason=wish.reason, lacks=wish.lacks, until=wish.until, explanation=explanation
    )


def unpark_by_time(state: State, model: Model, now: int) -> list[ev.Event]:
    """The instant that a parked wish waited for has come."""
    return [ev.ModelUnparked(at=now, model=model.name, cause="the instant it waited for has come")]


def lacking_room(state: State, model: Model) -> Parked:
    """What a wish lacks that finds no room: room, or a node that could ever have it."""
    if ever_fits(state, model):
        return Parked(RefusalCode.CAPACITY_EXHAUSTED, "capacity")
    return Parked(RefusalCode.NEVER_FITS, "node")

"""Parked wishes: what cannot be met now, the very thing that it lacks, and which changes may bring it."""

from __future__ import annotations

from . import events as ev
from .commands import ChangeKind
from .entities import Lack, Model, Parked
from .explanation import Explanation
from .refusals import RefusalCode
from .room import ever_fits
from .state import State

CURES = {
    Lack.LOAD_INFO: frozenset({ChangeKind.MODEL, ChangeKind.THAW, ChangeKind.EPOCH}),
    Lack.NODE: frozenset({
        ChangeKind.NODE, ChangeKind.LIMITS, ChangeKind.MODEL, ChangeKind.THAW, ChangeKind.EPOCH,
    }),
    Lack.CAPACITY: frozenset({
        ChangeKind.CAPACITY, ChangeKind.NODE, ChangeKind.LIMITS, ChangeKind.MODEL, ChangeKind.THAW, ChangeKind.EPOCH,
    }),
    Lack.EDIT: frozenset({ChangeKind.NODE, ChangeKind.MODEL}),
    Lack.TIME: frozenset({ChangeKind.MODEL}),
}  # fmt: skip
"""What a parked model lacks, and the kinds of change that may bring it; its being unparked always may."""


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
        return Parked(RefusalCode.CAPACITY_EXHAUSTED, Lack.CAPACITY)
    return Parked(RefusalCode.NEVER_FITS, Lack.NODE)

"""The cause of a load, in words: who wants the replica that was reserved. Only this module writes and reads them.

The words are stored (``ReplicaReserved.cause``), so they stay as they are. Those of wake-ups, locks and un-parkings are
another matter: they are for people, and no program reads them. "request q released r-000001" begins like the cause of a
load and is none. So the causes of loads have a type of their own: what was not made here is not read here.
"""

from __future__ import annotations

from typing import NewType

LoadCause = NewType("LoadCause", str)

OPERATOR = LoadCause("an operator asked for it")
SCENARIO = LoadCause("scenario")
"""It was there when a simulation began."""
UNTOLD = LoadCause("")

_REQUEST, _FLOOR, _REVISION = "request ", "floor of ", "revision "


def of_request(request: str) -> LoadCause:
    """A request that no warm replica has room for."""
    return LoadCause(f"{_REQUEST}{request}")


def of_floor(model: str, since: str = "") -> LoadCause:
    """The model's floor; ``since`` is the change by which a floor that was parked can be kept."""
    return LoadCause(f"{_FLOOR}{model}: {since}" if since else f"{_FLOOR}{model}")


def of_revision(model: str, revision: int) -> LoadCause:
    """A new revision of the model comes up."""
    return LoadCause(f"{_REVISION}{revision} of {model}")


def requester(cause: LoadCause) -> str | None:
    """The request that the load was begun for; None when it was for none."""
    return cause.removeprefix(_REQUEST) if cause.startswith(_REQUEST) else None


def is_of_request(cause: LoadCause) -> bool:
    """Whether the load was begun for a request."""
    return cause.startswith(_REQUEST)


def is_of_floor(cause: LoadCause) -> bool:
    """Whether the load was begun for a floor."""
    return cause.startswith(_FLOOR)


def is_of_request_or_floor(cause: LoadCause) -> bool:
    """Whether rules of demand began it: neither a roll-out nor an operator, who may do more."""
    return cause.startswith((_REQUEST, _FLOOR))


def floor_since(cause: LoadCause, model: str) -> str:
    """The change by which the model's floor could be kept again; empty when there is none, or it was no floor.

    The model is asked for since its name may hold anything, ": " too.
    """
    begins = f"{_FLOOR}{model}: "
    return cause.removeprefix(begins) if cause.startswith(begins) else ""


def without_since(cause: LoadCause, model: str) -> LoadCause:
    """Who wants the load alone: of a floor without the change by which it can be kept."""
    return of_floor(model) if floor_since(cause, model) else cause


def revision_of(cause: LoadCause) -> int | None:
    """The revision that comes up; None when it is no roll-out."""
    number = cause.removeprefix(_REVISION).partition(" of ")[0] if cause.startswith(_REVISION) else ""
    return int(number) if number.isdecimal() else None

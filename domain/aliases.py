"""Aliases that move from one model to another: in which turns the models are declared, so that each turn is allowed.

Who gives an alias away goes before who takes it. Where several wait for one another in a circle, the first of them has
a turn more: it is declared without what others have still, which frees what they wait for, and in full at its place.
Every turn leaves models that hold by themselves, so that whoever is stopped between two may begin again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from .commands import DeclareModel


class Turn(msgspec.Struct, frozen=True):
    """One declaration. ``without`` are the aliases that it leaves out while others have them: one turn more is due."""

    command: DeclareModel
    without: tuple[str, ...] = ()


def turns(declared: Sequence[DeclareModel], owners: Mapping[str, str]) -> list[Turn]:
    """The models in their order, but who gives a name away before who takes it, and circles cut open.

    ``owners`` has the model that each alias names now. What no order could allow comes as it stands, to be rejected.
    """
    owners, left = dict(owners), {command.model: command for command in declared}
    found: list[Turn] = []
    while left:
        ready = next((one for one in left.values() if not _awaited(one, owners, left)), None)
        if ready is not None:
            turn = Turn(left.pop(ready.model))
        else:
            command = _first_in_a_circle(owners, left)
            without = tuple(_awaited(command, owners, left))
            kept = tuple([alias for alias in command.aliases if alias not in without])
            turn = Turn(msgspec.structs.replace(command, aliases=kept), without)
        found.append(turn)
        name, aliases = turn.command.model, turn.command.aliases
        owners = {alias: owner for alias, owner in owners.items() if owner != name} | dict.fromkeys(aliases, name)
    return found


def _awaited(command: DeclareModel, owners: Mapping[str, str], left: Mapping[str, DeclareModel]) -> dict[str, str]:
    """The names that it takes from models which are yet to give them away, and whose each is.

    A new model may take an alias for its own name. It gives nothing away, so that it is in no circle.
    """
    taken = {name: owners.get(name, command.model) for name in (*command.aliases, command.model)}
    return {
        name: owner
        for name, owner in taken.items()
        if owner != command.model and owner in left and name not in left[owner].aliases
    }


def _first_in_a_circle(owners: Mapping[str, str], left: Mapping[str, DeclareModel]) -> DeclareModel:
    """One of those that wait for one another, when all that are left wait for somebody."""
    passed: set[str] = set()
    name = next(iter(left))
    while name not in passed:
        passed.add(name)
        name = next(iter(_awaited(left[name], owners, left).values()))
    return left[name]

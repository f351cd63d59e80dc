"""``models apply``: a file's models one after the other, and what is said of the rest when one of them is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from interlock.adapters.modelfile import line_of_field, read_document
from interlock.domain.commands import DeclareModel
from interlock.domain.errors import InterlockError, sentences


def givers_first(declared: Sequence[DeclareModel], owners: Mapping[str, str]) -> list[DeclareModel]:
    """The models in the file's order, but who gives an alias away before who takes it.

    ``owners`` has the model that each alias names now. Of two that exchange aliases the first in the file stays first.
    """
    left = {command.model: command for command in declared}
    ordered: list[DeclareModel] = []
    while left:
        ready = (one for one in left.values() if not _takes_from_others(one, owners, left))
        following = next(ready, None) or next(iter(left.values()))
        ordered.append(left.pop(following.model))
    return ordered


def _takes_from_others(command: DeclareModel, owners: Mapping[str, str], left: Mapping[str, DeclareModel]) -> bool:
    taken = ((alias, left.get(owners.get(alias, ""))) for alias in command.aliases)
    return any(owner not in (None, command) and alias not in owner.aliases for alias, owner in taken if owner)


def explain(
    error: InterlockError, file: Path, declared: Sequence[DeclareModel], ordered: Sequence[DeclareModel], failed: int,
    *, kept: bool,
) -> None:  # fmt: skip
    """Say in the error where in the file it is, and what has become of the other models.

    ``kept``: what came before it stays applied, as in a running cluster; an embedded store keeps all or nothing.
    """
    text, _ = read_document(file, "")
    name = ordered[failed].model
    line = line_of_field(text, f"models[{declared.index(ordered[failed])}].name")
    done = [one.model for one in ordered[:failed]] if kept else []
    rest = [one.model for one in ordered if one.model not in (*done, name)]
    message = sentences(f"{file}{line}: {name}: {error.message}", f"Applied: {', '.join(done) or 'nothing'}.")
    error.message = f"{message} Not applied: {', '.join([name, *rest])}."

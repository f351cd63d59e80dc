"""``models apply``: what is said of a file's models once they are applied, and of the rest when one is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from interlock.adapters.modelfile import line_of_field, read_document
from interlock.domain.aliases import Turn
from interlock.domain.commands import DeclareModel
from interlock.domain.errors import InterlockError, sentences


def told(declared: Sequence[DeclareModel], turns: Sequence[Turn]) -> str:
    """That all is applied, and which model had a turn more so that others could take an alias of it."""
    names = [command.model for command in declared]
    said = f"{len(names)} model{'' if len(names) == 1 else 's'} applied: {', '.join(names) or 'none'}."
    for turn in turns:
        if turn.without:
            what = ", ".join(turn.without)
            said += f" {turn.command.model} was applied without {what} first, and with {what} once that was free."
    return said


def explain(
    error: InterlockError, file: Path, declared: Sequence[DeclareModel], turns: Sequence[Turn], failed: int, *,
    kept: bool,
) -> None:  # fmt: skip
    """Say in the error where in the file it is, and what has become of the other models.

    ``kept``: what came before it stays applied, as in a running cluster; an embedded store keeps all or nothing.
    """
    text, _ = read_document(file, "")
    name = turns[failed].command.model
    place = next(place for place, command in enumerate(declared) if command.model == name)
    line = line_of_field(text, f"models[{place}].name")
    done = {turn.command.model: turn.without for turn in turns[:failed]} if kept else {}
    applied = [f"{model} without {', '.join(without)}" if without else model for model, without in done.items()]
    rest = dict.fromkeys(turn.command.model for turn in turns if done.get(turn.command.model, (name,)))
    missing = [name, *(model for model in rest if model != name)]
    message = sentences(f"{file}{line}: {name}: {error.message}", f"Applied: {', '.join(applied) or 'nothing'}.")
    error.message = f"{message} Not applied{' in full' if any(done.values()) else ''}: {', '.join(missing)}."

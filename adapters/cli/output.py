"""What commands print: one JSON document, or a table; everything else goes to standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

_WIDEST = 60


def print_json(document: object) -> None:
    """The one document on standard output."""
    import msgspec

    # A database has kinds of values that JSON has none for: addresses, ranges.
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document, enc_hook=str), indent=2).decode() + "\n")


def print_json_line(document: object) -> None:
    """One document of several, on a line of its own."""
    import msgspec

    sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """Progress, or what somebody should know; never part of the output proper."""
    click.echo(text, err=True)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str = "None.") -> None:
    """Columns side by side, as wide as their widest value; the last one may be as long as it is."""
    cells = [[_cell(value) for value in row] for row in rows]
    if not cells:
        say(empty)
        return
    widths = [
        min(_WIDEST, max(len(heading), *(len(row[place]) for row in cells))) for place, heading in enumerate(headings)
    ]
    for row in [list(headings), *cells]:
        padded = [text.ljust(width) for text, width in zip(row[:-1], widths, strict=False)]
        click.echo("  ".join([*padded, row[-1]]).rstrip())


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={item}" for key, item in value.items()) or "-"
    return str(value)


def builtins(value: object) -> Any:
    """A struct as plain JSON data."""
    import msgspec

    return msgspec.to_builtins(value)

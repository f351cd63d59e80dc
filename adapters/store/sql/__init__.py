"""The statements that the stores run, each in a file of its own, found by name."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def text(name: str) -> str:
    """The text of ``NAME.sql``. Raises ``FileNotFoundError`` when there is no such file."""
    return (files(__package__) / f"{name}.sql").read_text("utf-8")


def statements(name: str) -> list[str]:
    """The statements of ``NAME.sql``, which end with a semicolon at a line's end (and use it nowhere else there)."""
    lines = [line for line in text(name).splitlines() if not line.lstrip().startswith("--")]
    parts = "\n".join(lines).split(";\n")
    return [part.strip() for part in parts if part.strip()]

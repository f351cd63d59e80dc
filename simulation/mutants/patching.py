"""Replacing parts of the core from outside, everywhere they are held, and putting them back exactly.

A function of the core may be held as an attribute of its own module, under a name imported by another, and in the
tables of rules. :class:`Patches` finds every place that holds the very object, and remembers what was there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, MutableMapping
from types import ModuleType
from typing import Any

from interlock.domain import consequences, decide, parking, timers
from interlock.domain.applying import handlers

_TABLES: tuple[tuple[ModuleType, str], ...] = (
    (decide, "_RULES"), (consequences, "_RULES"), (handlers, "HANDLERS"), (parking, "CURES"),
    (timers, "LIVE"),
)  # fmt: skip


class Patches:
    """A set of replacements that are in place from their making until :meth:`undo`."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def swap(self, original: Any, replacement: Any) -> None:
        """Replace a function of the core wherever a module of it, or a table of rules, holds it."""
        for module in _domain():
            for name, value in list(vars(module).items()):
                if value is original:
                    self.attribute(module, name, replacement)
        for module, name in _TABLES:
            table = getattr(module, name)
            for key, value in list(table.items()):
                if value is original:
                    self.entry(table, key, replacement)

    def attribute(self, owner: Any, name: str, value: Any) -> None:
        """Replace one attribute of a module or a class."""
        old = vars(owner)[name]
        self._undo.append(lambda: setattr(owner, name, old))
        setattr(owner, name, value)

    def entry(self, table: MutableMapping[Any, Any], key: Any, value: Any) -> None:
        """Replace one entry of a table."""
        old = table[key]

        def restore() -> None:
            table[key] = old

        self._undo.append(restore)
        table[key] = value

    def undo(self) -> None:
        """Put everything back, last first."""
        while self._undo:
            self._undo.pop()()


def _domain() -> Iterator[ModuleType]:
    for name, module in list(sys.modules.items()):
        if name.startswith("interlock.domain.") and module is not None:
            yield module


Make = Callable[[Patches], None]
"""Puts one seeded bug in place; the first line of its docstring describes it."""
Row = tuple[Make, str, str, bool]
"""A mutant as the tables list it: how it is made, its property, its scenario, and whether it is put into the core."""

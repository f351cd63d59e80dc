"""Node selectors: which nodes may serve a model. All terms must hold.

As written: ``key = "v"``; ``key = ["a", "b"]`` is one of; ``"!key" = "v"`` is not, or is absent; ``key = "*"`` exists;
``"!key" = "*"`` is absent.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from .errors import InvalidField
from .units import GIB


class Term(msgspec.Struct, frozen=True, order=True, gc=False):
    """One term: ``key`` in ``values`` (any value when empty), or the opposite when ``negated``."""

    key: str
    values: tuple[str, ...] = ()
    negated: bool = False

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether a node with these labels satisfies the term."""
        value = labels.get(self.key)
        found = value is not None and (not self.values or value in self.values)
        return found is not self.negated


Selector = tuple[Term, ...]
"""Terms in order of key, so that equal selectors compare equal. Empty matches every node."""


def parse_selector(terms: Mapping[str, object], field: str = "node_selector") -> Selector:
    """The selector that a file or a request writes as a mapping; raises InvalidField."""
    parsed = []
    for key, value in terms.items():
        values = [value] if isinstance(value, str) else value
        name = key.removeprefix("!")
        if not name or not isinstance(values, list) or not values or not all(isinstance(v, str) for v in values):
            raise InvalidField(f"{field}.{key}", f"{value!r} is not a term", cure='Use "value", ["a", "b"] or "*".')
        wanted = () if "*" in values else tuple(sorted(set(values)))
        parsed.append(Term(name, wanted, key.startswith("!")))
    return tuple(sorted(parsed))


def format_selector(selector: Selector) -> dict[str, str | list[str]]:
    """The mapping that :func:`parse_selector` reads back."""
    written: dict[str, str | list[str]] = {}
    for term in selector:
        values = list(term.values) or ["*"]
        written[("!" if term.negated else "") + term.key] = values[0] if len(values) == 1 else values
    return written


def matches(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Whether every term holds."""
    return all(term.holds(labels) for term in selector)


def first_failing_term(selector: Selector, labels: Mapping[str, str]) -> str:
    """The first term that does not hold, in words; empty when all hold."""
    for term in selector:
        if not term.holds(labels):
            wanted = " or ".join(term.values) or "any value"
            return f"wants {term.key} {'not ' if term.negated else ''}{wanted}, has {labels.get(term.key, 'none')}"
    return ""


def vram_label(total: int) -> str:
    """The automatic ``gpu.vram`` label for so many bytes on a node's largest pool; empty below 8 GiB."""
    for floor, label in ((80, "80GB+"), (48, "48GB"), (24, "24GB"), (16, "16GB"), (8, "8GB")):
        if total >= floor * GIB:
            return label
    return ""

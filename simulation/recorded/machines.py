"""The nodes of a stretch: those that were there, as they were, and those that joined."""

from __future__ import annotations

from collections import Counter

import msgspec
from msgspec.structs import replace

from interlock.domain import events as ev
from interlock.domain.entities import Budget
from interlock.domain.state import State

from .tables import Row, budget_text, labels_of, node_table, size_of

CHANGED = "changes of what a node has or says of itself: memory, disk, labels, budget"


class _Facts(msgspec.Struct, frozen=True):
    pools: tuple[int, ...]
    ram: int
    disk: int | None
    labels: dict[str, str]
    budget: Budget
    vendor: str


class Machines:
    """``[[nodes]]``, fed with the stretch's events in order."""

    def __init__(self, state: State) -> None:
        self.rows = {node.name: node_table(node) for node in state.nodes.values()}
        self.changed = 0
        """How often a node that was there changed, which a scenario cannot say."""
        self._came: dict[str, int] = {}
        self._facts: dict[str, _Facts] = {}
        for name, node in state.nodes.items():
            labels, budget, vendor = node.worker_labels, node.budget, node.gpu_vendor
            self._facts[name] = _Facts(node.pools, node.ram, node.disk, labels, budget, vendor)
            if name in state.over_budget:  # it was lowered under what is loaded, which has to be there first
                self.rows[name].pop("vram_budget", None)
        self._let_in_what_is_there(state)

    def _let_in_what_is_there(self, state: State) -> None:
        """Slots that were lowered under what is loaded are lowered after that."""
        held = Counter((replica.node, replica.model) for replica in state.replicas.values())
        for (node, _), count in held.items():
            row = self.rows[node]
            row["max_replicas_per_model"] = max(row["max_replicas_per_model"], count)

    def on(self, event: ev.Event) -> bool:
        """Take in what an event says of a node; True when it is the approval that came along with joining."""
        if isinstance(event, ev.NodeApproved) and self._came.get(event.node) == event.at:
            self.rows[event.node]["approved"] = True
            return True
        if isinstance(event, ev.NodeRegistered):
            facts = _Facts(event.pools, event.ram, event.disk, event.labels, event.budget, event.gpu_vendor)
            if event.node not in self.rows:
                self._came[event.node] = event.at
                self.rows[event.node] = _row_of(event)
            else:
                self.changed += self._facts.get(event.node) != facts
            self._facts[event.node] = facts
        elif isinstance(event, ev.NodeCapacityChanged) and event.node in self._facts:
            known = self._facts[event.node]
            facts = replace(known, pools=event.pools, ram=event.ram, disk=event.disk)
            self.changed += facts != known
            self._facts[event.node] = facts
        return False

    def tables(self) -> list[Row]:
        """The tables, in order of appearance."""
        return list(self.rows.values())

    def pools_of(self, node: str) -> int:
        """How many memory pools the node is declared with."""
        row = self.rows.get(node, {})
        return 1 if "vram" in row or row.get("unified") else len(row.get("pools", ()))


def _row_of(event: ev.NodeRegistered) -> Row:
    """A node that joins: it comes up then."""
    row: Row = {"name": event.node, "up": False, "approved": False}
    row["labels"] = labels_of(event.labels) | ({"gpu.vendor": event.gpu_vendor} if event.gpu_vendor else {})
    row["max_replicas_per_model"] = event.max_replicas_per_model
    if event.unified:
        row |= {"vram": size_of(event.pools[0]), "unified": True}
    else:
        row |= {"pools": [size_of(pool) for pool in event.pools]} if event.pools else {}
        row |= {"ram": size_of(event.ram)} if event.ram else {}
    if event.disk is not None:
        row["disk"] = size_of(event.disk)
    if event.budget != Budget():
        row["vram_budget"] = budget_text(event.budget)
    return row

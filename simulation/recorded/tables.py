"""Entities as the tables of a scenario file."""

from __future__ import annotations

from typing import Any

from interlock.domain.entities import ANY_POOLS, Budget, LoadSpec, Node, NodeStatus, TenantLimits
from interlock.domain.settings import Settings, format_setting
from interlock.domain.units import FOREVER, format_rate
from interlock.simulation.reading.parse import AUTOMATIC_LABELS

Row = dict[str, Any]
"""One table of a scenario file, as ``tomllib`` reads it."""


def size_of(size: int) -> str:
    """Bytes, exactly."""
    return f"{size}B"


def settings_table(settings: Settings) -> Row:
    """Every setting that is not as it is by itself."""
    usual = Settings()
    names = [name for name in Settings.__struct_fields__ if getattr(settings, name) != getattr(usual, name)]
    return {name: format_setting(name, getattr(settings, name)) for name in names}


def node_table(node: Node) -> Row:
    """The node with all its labels as its own; of one that is silent or gone, what is known of it."""
    row: Row = {"name": node.name}
    if own := labels_of(node.labels):
        row["labels"] = own
    if node.unified:
        row |= {"vram": size_of(node.pools[0]), "unified": True}
    else:
        if node.pools:
            row["pools"] = [size_of(pool) for pool in node.pools]
        if node.ram:
            row["ram"] = size_of(node.ram)
    if node.budget != Budget():
        row["vram_budget"] = budget_text(node.budget)
    if node.disk is not None:
        row["disk"] = size_of(node.disk)
    row["max_replicas_per_model"] = node.max_replicas_per_model
    row["approved"] = node.approved
    row["up"] = node.status is not NodeStatus.OFFLINE
    return row


def labels_of(labels: dict[str, str]) -> Row:
    """Labels that somebody gave."""
    return {key: value for key, value in labels.items() if key not in AUTOMATIC_LABELS}


def budget_text(budget: Budget) -> str:
    """A budget as it is read back."""
    return size_of(budget.size) if budget.size else f"{budget.percent}%"


def spec_table(spec: LoadSpec, *, whole: bool = False) -> Row:
    """How a model is loaded; without a backend when nobody knows. ``whole``: also what it takes nothing of."""
    row: Row = {"backend": spec.backend} if spec.backend else {}
    row |= {key: size_of(getattr(spec, key)) for key in ("vram", "ram", "disk") if whole or getattr(spec, key)}
    if whole or spec.pools != 1:
        row["pools"] = "any" if spec.pools == ANY_POOLS else spec.pools
    if whole or spec.options:
        row["options"] = dict(spec.options)
    return row


def limits_table(limits: TenantLimits) -> Row:
    """A tenant's own limits; what is not given is the setting's."""
    row: Row = {}
    if limits.at_once is not None:
        row["at_once"] = "off" if limits.at_once >= FOREVER else limits.at_once
    if limits.rate is not None:
        row["rate"] = format_rate(limits.rate)
    if limits.burst is not None:
        row["burst"] = limits.burst
    if limits.priority is not None:
        row["priority"] = limits.priority
    return row

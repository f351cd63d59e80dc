"""Entities as people write them in files and requests."""

from __future__ import annotations

from typing import Any

from .entities import Scheduling
from .selector import format_selector
from .settings import format_affinity, format_idle_unload


def scheduling_as_written(scheduling: Scheduling) -> dict[str, Any]:
    """Every key of a model's scheduling, so that whatever it replaces does not show through."""
    bounds = {"min_replicas": scheduling.min_replicas, "max_replicas": scheduling.max_replicas}
    return {
        "node_selector": format_selector(scheduling.selector),
        **({"replicas": "all"} if scheduling.everywhere else bounds),
        "parallel": scheduling.parallel,
        "priority": scheduling.priority,
        "pinned": scheduling.pinned,
        "idle_unload": format_idle_unload(scheduling.idle_unload),
        "prefix_affinity": format_affinity(scheduling.prefix_affinity),
        "anti_affinity": scheduling.anti_affinity,
        "anti_affinity_hard": scheduling.anti_affinity_hard,
        "placement": scheduling.placement,
    }

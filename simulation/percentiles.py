"""Percentiles, as reports, comparisons and benchmarks give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

_Number = TypeVar("_Number", int, float)


def percentile(ordered: Sequence[_Number], share: int) -> _Number:
    """The nearest rank: the least value that so many per cent of them, which are in order, do not exceed."""
    return ordered[max(0, -(-len(ordered) * share // 100) - 1)]

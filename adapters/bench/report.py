"""What a benchmark reports, and how a figure is made of several runs."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from interlock.simulation.percentiles import percentile as nearest_rank


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One figure. ``spread`` is (largest - smallest) / median over the runs.

    ``limit`` is what stands beside it, measured in the same run, and ``ratio`` is value / limit. ``bar`` says what must
    hold in words and ``holds`` whether it does; both are None where there is no bar.
    """

    case: str
    value: float
    unit: str
    spread: float
    limit: float | None = None
    ratio: float | None = None
    bar: str | None = None
    holds: bool | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A benchmark's answer."""

    name: str
    machine: str
    rows: list[Row]


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """How much to measure: ``runs`` of each case, and a ``share`` of the full size for a quick look."""

    runs: int = 5
    share: float = 1.0
    store: str = ""

    def of(self, size: int, least: int = 1) -> int:
        """``size`` scaled down, but at least ``least``."""
        return max(least, int(size * self.share))


Tell = Callable[[str], None]
"""Says how far a benchmark is; not part of its answer."""


def median(values: Sequence[float]) -> float:
    """The middle of several runs."""
    return statistics.median(values)


def spread(values: Sequence[float]) -> float:
    """How far the runs lie apart, as a share of their median."""
    middle = statistics.median(values)
    return round((max(values) - min(values)) / middle, 3) if middle else 0.0


def percentile(samples: Sequence[float], share: float) -> float:
    """The least value that a ``share`` of the samples, in whole per cent, does not exceed."""
    return nearest_rank(sorted(samples), round(100 * share))


def row(
    case: str,
    values: Sequence[float],
    unit: str,
    *,
    limit: float | None = None,
    bar: str | None = None,
    holds: Callable[[float, float], bool] | None = None,
) -> Row:
    """The row of several runs; ``holds`` judges the median and its ratio to the limit."""
    value = median(values)
    ratio = value / limit if limit else None
    return Row(
        case=case,
        value=rounded(value),
        unit=unit,
        spread=spread(values),
        limit=rounded(limit) if limit is not None else None,
        ratio=rounded(ratio) if ratio is not None else None,
        bar=bar,
        holds=holds(value, ratio or 0.0) if holds is not None else None,
    )


def rounded(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")


def machine() -> str:
    """What this was measured on: processor, cores, memory, Python, and how busy it was with other things."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = os.getloadavg()[0]
    python = platform.python_version()
    return f"{name}, {cores} cores, {memory:.0f} GiB, Python {python}, {platform.system()}, load {load:.1f}"

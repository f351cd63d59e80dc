"""The benchmarks by name. Each is imported when it runs; what one needs, the others can do without."""

from __future__ import annotations

import importlib

from .report import Report, Scale, Tell, machine

BENCHES = {
    "commit": "interlock.adapters.bench.commit",
    "route": "interlock.adapters.bench.route",
    "rebuild": "interlock.adapters.bench.rebuild",
    "simulate": "interlock.adapters.bench.simulate",
    "prove": "interlock.adapters.bench.prove",
    "gateway": "interlock.adapters.bench.gateway",
    "affinity": "interlock.adapters.bench.affinity",
}
"""Each benchmark's module; it has ``measure(scale, tell)``, which returns rows."""


def run(name: str, scale: Scale, tell: Tell) -> Report:
    """Measure; ``tell`` hears how far it is."""
    # Before it is busy with this.
    where = machine()
    rows = importlib.import_module(BENCHES[name]).measure(scale, tell)
    return Report(name=name, machine=where, rows=rows)

"""Benchmarks run, and report what the contracts say; how fast this machine is, is no test's business."""

from __future__ import annotations

import msgspec
import pytest

from interlock.adapters.bench import report
from interlock.adapters.bench.fleet import NOW, Fleet
from interlock.adapters.bench.registry import BENCHES, run
from interlock.domain.commands import AcquireLock, Envelope, Locked
from interlock.domain.engine import Engine
from interlock.domain.snapshots import encode_cluster

TINY = report.Scale(runs=2, share=0.002)


@pytest.mark.parametrize("name", BENCHES)
def test_a_benchmark_reports_figures_beside_limits(name: str) -> None:
    told: list[str] = []
    found = run(name, TINY, told.append)
    assert found.name == name
    assert found.machine
    assert told
    for row in found.rows:
        data = msgspec.to_builtins(row)
        assert set(data) == {"case", "value", "unit", "spread", "limit", "ratio", "bar", "holds"}
        assert row.value > 0
        assert row.spread >= 0
        assert (row.bar is None) == (row.holds is None)
        if row.limit is not None:
            assert row.ratio == pytest.approx(row.value / row.limit, rel=0.01)
    assert any(row.bar for row in found.rows)
    if name != "prove":  # exploring has nothing to stand beside
        assert any(row.limit for row in found.rows)


def test_a_fleet_is_what_its_log_folds_to_and_serves_warm() -> None:
    fleet = Fleet(20, cold=1)
    assert encode_cluster(Engine().replay(fleet.rows).state) == encode_cluster(fleet.engine.state)
    assert len(fleet.engine.state.replicas) == 100
    command = AcquireLock(request="q-1", model=fleet.warm[3], holder="h")
    assert isinstance(fleet.engine.handle(Envelope(command_id="c", command=command), NOW).reply, Locked)


def test_a_row_is_the_median_of_its_runs_with_their_spread() -> None:
    row = report.row("x", [3.0, 1.0, 2.0], "s", limit=4.0, bar="≤ 1 s", holds=lambda value, ratio: value <= 1)
    assert (row.value, row.spread, row.ratio, row.holds) == (2.0, 1.0, 0.5, False)
    assert report.percentile([5.0, 1.0, 4.0, 2.0, 3.0], 0.5) == 3.0
    assert report.percentile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.0
    assert report.percentile([float(value) for value in range(1, 101)], 0.99) == 99.0

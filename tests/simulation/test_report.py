"""What a run's report says of its figures."""

from __future__ import annotations

import pytest

from interlock.domain.units import SECOND
from interlock.simulation.report import lengths_of


@pytest.mark.parametrize(
    ("count", "wanted"),
    [
        (1, {"p50": 0, "p95": 0, "p99": 0, "max": 0}),
        (2, {"p50": 0, "p95": 1, "p99": 1, "max": 1}),
        (20, {"p50": 9, "p95": 18, "p99": 19, "max": 19}),
        (100, {"p50": 49, "p95": 94, "p99": 98, "max": 99}),
        (101, {"p50": 50, "p95": 95, "p99": 99, "max": 100}),
    ],
)
def test_a_percentile_is_the_least_length_that_so_many_do_not_exceed(count: int, wanted: dict[str, float]) -> None:
    assert lengths_of(number * SECOND for number in reversed(range(count))) == wanted


def test_no_lengths_are_nothing() -> None:
    assert lengths_of(()) == {"p50": 0, "p95": 0, "p99": 0, "max": 0}

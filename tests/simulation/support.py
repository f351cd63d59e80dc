"""Small scenarios, written the short way."""

from __future__ import annotations

from interlock.simulation import Scenario
from interlock.simulation.api import Result, run

TWO_NODES = """
[[nodes]]
name = "a"
vram = "24GiB"
[[nodes]]
name = "b"
vram = "24GiB"
[[models]]
name = "m"
backend = "echo"
vram = "8GiB"
parallel = 4
min_replicas = 1
service_time = "5s"
"""


def scenario(text: str, name: str = "test") -> Scenario:
    """The scenario of a text."""
    return Scenario.parse(text, name)


def result_of(text: str, **options: object) -> Result:
    """The run of a text, on two nodes and one model."""
    return run(scenario(TWO_NODES + text), **options)  # type: ignore[arg-type]  # handed on as it is

"""Running scenarios from Python, as in a notebook::

from interlock.simulation import Scenario, run

result = run(Scenario.load("orin-thor"), seed=7)
result.verdict, result.report["wait_seconds"]
result.events()          # one dict an event
result.to_arrow()        # the same as an Arrow table, where pyarrow is installed
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from interlock.domain.codec import decode_event
from interlock.domain.errors import UsageError
from interlock.domain.units import SECOND, format_instant

from .clock import START
from .harness import Harness, Options
from .mutants.catalogue import activate
from .reading.scenario import Scenario
from .report import report


class Result:
    """A run that is over: its report, and everything that happened."""

    def __init__(self, harness: Harness, mutant: str | None) -> None:
        self.harness = harness
        self.mutant = mutant
        self.report: dict[str, Any] = report(harness, mutant)

    @property
    def verdict(self) -> str:
        """``pass`` or ``fail``."""
        return str(self.report["verdict"])

    @property
    def passed(self) -> bool:
        """Whether every expectation, invariant and property holds."""
        return self.verdict == "pass"

    def events(self) -> Iterator[dict[str, Any]]:
        """Every event with its fields, in order."""
        for row in self.harness.rows:
            event = decode_event(row.topic, row.state)
            yield {
                "position": row.position,
                "time": format_instant(row.time),
                "seconds": (row.time - START) / SECOND,
                "stream": row.stream,
                "event": type(event).__name__,
                "actor": row.actor,
                "correlation_id": row.correlation_id,
                "causation_id": row.causation_id,
                "data": msgspec.to_builtins(event),
            }

    def to_arrow(self) -> Any:
        """The events as an Arrow table, ``data`` as JSON text; raises UsageError where pyarrow is not installed."""
        try:
            import pyarrow
        except ImportError:
            raise UsageError("pyarrow is not installed.", cure="pip install pyarrow, or use events().") from None
        rows = [{**row, "data": msgspec.json.encode(row["data"]).decode()} for row in self.events()]
        return pyarrow.Table.from_pylist(rows)


def run(
    scenario: Scenario | str,
    *,
    seed: int | None = None,
    mutant: str | None = None,
    until: int | None = None,
    options: Options | None = None,
) -> Result:
    """Run a scenario, or the bundled one of that name. ``until`` in microseconds cuts it short.

    Raises UnreadableFile when the scenario cannot be, NotFound when there is no such mutant.
    """
    if isinstance(scenario, str):
        scenario = Scenario.load(scenario)
    options = msgspec.structs.replace(options or Options(), seed=seed, until=until)
    with activate(mutant):
        return Result(Harness(scenario, options).run(), mutant)

"""Running scenarios and exploring scopes from Python, as in a notebook::

from interlock.simulation import Scenario, prove, run

result = run(Scenario.load("orin-thor"), seed=7, until="5m")
result.verdict, result.report["wait_seconds"]
result.events()               # one dict an event
result.requests()             # one dict a request: its waiting, where it ran, how it ended
result.to_arrow()             # the events as an Arrow table, where pyarrow is installed
result.to_arrow("requests")   # and the requests

prove("orin-thor").verdict
prove("orin-thor", mutant="selector-ignored-in-lookup").counterexample.cycle
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from interlock.domain import events as ev
from interlock.domain.codec import decode_event
from interlock.domain.errors import InvalidField, UsageError
from interlock.domain.units import SECOND, format_instant, parse_duration

from .clock import START
from .harness import Harness, Options
from .mutants.catalogue import activate
from .reading.scenario import Scenario
from .report import report

if TYPE_CHECKING:
    from .prove.report import Report
    from .prove.scope import Scope


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

    def requests(self) -> Iterator[dict[str, Any]]:
        """Every request as the log tells of it, by arrival; what is not known, or has not come about, is None."""
        rows: dict[str, dict[str, Any]] = {}
        for row in self.harness.rows:
            event = decode_event(row.topic, row.state)
            if row.actor != _SCENARIO and isinstance(event, _OF_REQUESTS):
                _note(rows, event)
        return iter(sorted(rows.values(), key=lambda told: (told["arrival"], told["request"])))

    def to_arrow(self, what: Literal["events", "requests"] = "events") -> Any:
        """The events, ``data`` as JSON text, or the requests as an Arrow table; ``to_pandas`` makes a frame of it.

        The columns and their kinds are the same for every run. Raises UsageError where pyarrow is not installed.
        """
        if what not in ("events", "requests"):
            raise UsageError(f"{what!r} is no table of a run.", cure='Ask for "events" or "requests".')
        try:
            import pyarrow
        except ImportError:
            cure = "pip install 'interlock[parquet]', or give events() or requests() to the library that you have."
            raise UsageError("pyarrow is not installed.", cure=cure) from None
        kinds = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
        if what == "requests":
            rows, columns = list(self.requests()), _OF_A_REQUEST
        else:
            rows = [{**row, "data": msgspec.json.encode(row["data"]).decode()} for row in self.events()]
            columns = _OF_AN_EVENT
        schema = pyarrow.schema([(name, kinds[kind]) for name, kind in columns.items()])
        return pyarrow.Table.from_pylist(rows, schema=schema)


_SCENARIO = "scenario"
"""Who acts before time 0; locks that a scenario gives its replicas are in no count of requests."""
_Told = ev.RequestQueued | ev.ReplicaLocked | ev.ReplicaReleased | ev.RequestRefused | ev.RequestCancelled
_OF_REQUESTS = (ev.RequestQueued, ev.ReplicaLocked, ev.ReplicaReleased, ev.RequestRefused, ev.RequestCancelled)


def _note(rows: dict[str, dict[str, Any]], event: _Told) -> None:
    """Write into the request's row what this event tells of it."""
    seconds = (event.at - START) / SECOND
    told = rows.get(event.request)
    if told is None:
        if isinstance(event, ev.ReplicaReleased):
            return  # of a lock from before time 0
        told = rows[event.request] = dict.fromkeys(_OF_A_REQUEST)
        told |= {"request": event.request, "model": event.model, "arrival": seconds}
    if isinstance(event, ev.RequestQueued | ev.ReplicaLocked):
        told |= {"tenant": event.tenant, "priority": event.priority, "deadline": (event.deadline - START) / SECOND}
    if isinstance(event, ev.ReplicaLocked):
        told |= {"node": event.node, "replica": event.replica, "waited": seconds - told["arrival"]}
    elif isinstance(event, ev.ReplicaReleased):
        told |= {"ended": seconds, "outcome": event.outcome}
    elif isinstance(event, ev.RequestRefused):
        told |= {"ended": seconds, "outcome": "refused", "reason": event.code, "waited": seconds - told["arrival"]}
    elif isinstance(event, ev.RequestCancelled):
        told |= {"ended": seconds, "outcome": "cancelled", "reason": event.reason}


_OF_A_REQUEST: dict[str, type] = {
    "request": str, "model": str, "tenant": str, "priority": int, "arrival": float, "deadline": float, "waited": float,
    "node": str, "replica": str, "ended": float, "outcome": str, "reason": str,
}  # fmt: skip
"""The columns of ``requests()``; instants and lengths in virtual seconds."""
_OF_AN_EVENT: dict[str, type] = {
    "position": int, "time": str, "seconds": float, "stream": str, "event": str, "actor": str, "correlation_id": str,
    "causation_id": str, "data": str,
}  # fmt: skip
"""The columns of ``events()`` as a table, where ``data`` is JSON text."""


def run(
    scenario: Scenario | str | Path,
    *,
    seed: int | None = None,
    mutant: str | None = None,
    until: int | str | None = None,
    options: Options | None = None,
) -> Result:
    """Run a scenario, a file, or the bundled one of that name. ``until`` cuts it short: ``"5m"``, or microseconds.

    Raises UnreadableFile when the scenario cannot be, NotFound when there is no such mutant, InvalidField when
    ``until`` is no length.
    """
    if isinstance(scenario, str | Path):
        scenario = Scenario.load(str(scenario))
    options = msgspec.structs.replace(options or Options(), seed=seed, until=_length(until))
    with activate(mutant):
        return Result(Harness(scenario, options).run(), mutant)


def _length(until: int | str | None) -> int | None:
    """The microseconds after which a run is to end; raises InvalidField for what is no length."""
    if until is None:
        return None
    cure = 'Give a length such as "5m", or whole microseconds.'
    if isinstance(until, bool) or not isinstance(until, int | str):
        raise InvalidField("until", f"{until!r} is no length of time", cure=cure)
    length = parse_duration(until, "until") if isinstance(until, str) else until
    if length <= 0:
        raise InvalidField("until", "it must be longer than nothing", cure=cure)
    return length


def prove(scope: Scope | Scenario | str | Path, *, mutant: str | None = None, states_max: int | None = None) -> Report:
    """Explore a scope, a scenario with one, a file, or the bundled one of that name, with the mutant in place.

    It ends after ``states_max`` states at most.

    Raises UnreadableFile when the scope cannot be, NotFound when there is no such scope or mutant.
    """
    # Only here: running a scenario needs no explorer.
    from .prove.explore import STATES_MAX
    from .prove.report import prove as explore
    from .prove.scopes import scope_of

    if isinstance(scope, Path):
        scope = str(scope)
    elif isinstance(scope, Scenario):
        scope = scope_of(scope)
    with activate(mutant):
        return explore(scope, mutant=mutant, states_max=STATES_MAX if states_max is None else states_max)

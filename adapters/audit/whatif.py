"""What would have happened: a stretch of the log run again in virtual time, as it was and with something changed.

Both runs are simulations of the same recorded stretch (:mod:`interlock.simulation.recorded`), so that what differs
between them comes from the change alone. How far the first is from what was recorded says how good the simulation is.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import msgspec

from interlock.domain import events as ev
from interlock.domain.codec import decode_event
from interlock.domain.errors import InvalidField, UnreadableFile
from interlock.domain.own_rules import check_installed
from interlock.domain.profiles import profiles_in
from interlock.domain.settings import parse_setting
from interlock.domain.units import FOREVER, SECOND, format_instant
from interlock.simulation.clock import START
from interlock.simulation.harness import Harness, Options
from interlock.simulation.reading import toml
from interlock.simulation.reading.scenario import Scenario
from interlock.simulation.recorded import Recorded, record_of
from interlock.simulation.report import lengths_of

from .rebuild import engine_at, events_of
from .rows import instant_of, is_position, position_of
from .sentences import sentence

if TYPE_CHECKING:
    from .rows import Log

POLICY_TABLES = ("scheduler", "models", "nodes")
COPIES = frozenset({"replicas", "min_replicas", "max_replicas"})
MEMORY = frozenset({"vram", "pools", "ram", "unified"})
"""Keys that say one thing together."""
OF_NODES = {"set-budget": "vram_budget", "set-max-replicas": "max_replicas_per_model", "set-labels": "labels"}
"""Steps of operators, and the key of a node that each changes."""
_DECISIONS = (
    ev.ReplicaLocked, ev.RequestQueued, ev.RequestRefused, ev.ReplicaReserved, ev.ReplicaEvicted, ev.UnloadRequested,
    ev.ModelParked, ev.ModelUnparked,
)  # fmt: skip


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One of what is compared. Waits are of requests that got a replica, in seconds."""

    requests: int
    served: int
    waiting: int
    refused: dict[str, int]
    loads: int
    evictions: int
    wait_seconds: dict[str, float]


class FirstDifference(msgspec.Struct, frozen=True, kw_only=True):
    """The first decision that is another one: when, and what each run did; empty where one had none left."""

    time: str
    as_it_was: str
    changed: str


class WhatIf(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison: what was recorded, the same run again, and with the change.

    ``left_out`` says what of the record could not be repeated, and how often it was there.
    """

    start: str
    end: str
    recorded: Side
    as_it_was: Side
    changed: Side
    first_difference: FirstDifference | None
    left_out: dict[str, int]


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the log, ready to be run again. Instants are microseconds since 1970."""

    start: int
    end: int
    recorded: Recorded


def stretch(log: Log, begin: str, until: str) -> Stretch:
    """The log from ``begin`` to ``until``, each a time or a position; raises InvalidField."""
    since, upto = _instant(begin, "from"), _instant(until, "until")
    # A time is told once: one that is so long ago would be another one when it is told again.
    first = position_of(log, begin, "from") if since is None else log.position_at(since)
    last = position_of(log, until, "until") if upto is None else log.position_at(upto)
    engine = engine_at(log, first)
    rows = list(log.read(first, upto=last))
    start = since or engine.ledger.time or (rows[0].time if rows else 0)
    end = (rows[-1].time if rows else start) if upto is None else upto
    if end <= start:
        raise InvalidField("until", f"{until} is not after {begin}", cure="Give a later time or position.")
    events = zip(events_of(rows, first), (row.actor for row in rows), strict=True)
    return Stretch(start=start, end=end, recorded=record_of(engine.state, events, start, end))


def _instant(text: str, field: str) -> int | None:
    """The time that a text means; None for a position."""
    return None if text in ("head", "now") or is_position(text) else instant_of(text, field)


def what_if(part: Stretch, settings: Mapping[str, str], policy: Mapping[str, Any]) -> WhatIf:
    """Run the stretch as it was and with other settings, or as the tables of a policy say; raises InvalidField."""
    tables = part.recorded.tables
    _check_rules(tables)
    altered = with_changes(tables, settings, policy)
    as_it_was = _run(tables, "from", "Choose another moment; --scenario FILE writes the stretch, to be mended by hand.")
    changed = _run(altered, "the change", "Say it as a scenario does; nothing of the record is wrong.")
    counts = part.recorded.counts
    return WhatIf(
        start=format_instant(part.start),
        end=format_instant(part.end),
        recorded=Side(
            requests=counts.requests,
            served=counts.served,
            waiting=counts.waiting,
            refused=counts.refused,
            loads=counts.loads,
            evictions=counts.evictions,
            wait_seconds=_lengths(counts.waits),
        ),
        as_it_was=_side(as_it_was),
        changed=_side(changed),
        first_difference=_first_difference(as_it_was, changed, part.start - START),
        left_out=part.recorded.left_out | _refused_steps(as_it_was),
    )


def _check_rules(tables: Mapping[str, Any]) -> None:
    """Raise UsageError when the stretch was decided with placement rules that are not here to decide it again."""
    for settings in (tables.get("scheduler", {}), *tables.get("admin", ())):
        definitions = settings.get("placement_profiles", "")
        check_installed(definitions, profiles_in(definitions), "The stretch would be decided otherwise")


# --- what is changed --------------------------------------------------------------------------------------------------


def with_changes(tables: dict[str, Any], settings: Mapping[str, str], policy: Mapping[str, Any]) -> dict[str, Any]:
    """The stretch's tables with these settings, and with a policy's tables over its own.

    A policy has ``[scheduler]``, and ``[[models]]`` and ``[[nodes]]`` by name, with any of their keys as in a scenario;
    a node of another name is one more. What operators set of the same later on is left out.
    """
    changed = copy.deepcopy(tables)
    _check_policy(policy)
    wanted = {**policy.get("scheduler", {}), **settings}
    for name, value in wanted.items():
        parse_setting(name, value)
    changed["scheduler"] = changed.get("scheduler", {}) | wanted
    for row in policy.get("nodes", ()):
        known = _named(changed.get("nodes", []), row, "nodes")
        if known is None:
            changed.setdefault("nodes", []).append(dict(row))
        else:
            _put_over(known, row, MEMORY)
    for row in policy.get("models", ()):
        known = _named(changed.get("models", []), row, "models")
        if known is None:
            there = ", ".join(model["name"] for model in changed.get("models", [])) or "none"
            raise InvalidField("models.name", f"{row['name']!r} was not declared then", cure=f"There were: {there}.")
        _put_over(known, row, COPIES)
    changed["admin"] = list(_later_steps(changed.get("admin", []), wanted, policy))
    return {name: table for name, table in changed.items() if table or name == "schema"}


def _named(rows: list[dict[str, Any]], row: Mapping[str, Any], table: str) -> dict[str, Any] | None:
    name = row.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidField(f"{table}.name", "is missing", cure="Say which one is meant: name = ...")
    return next((known for known in rows if known["name"] == name), None)


def _put_over(known: dict[str, Any], row: Mapping[str, Any], together: frozenset[str]) -> None:
    """Keys that say one thing ``together`` are replaced together."""
    if together & set(row):
        for key in together - set(row):
            known.pop(key, None)
    known.update(row)


def _later_steps(
    steps: list[dict[str, Any]], settings: Mapping[str, Any], policy: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """The operators' steps without what is fixed by the change, and without those of which nothing is left."""
    models = {row["name"]: row for row in policy.get("models", ())}
    nodes = {row["name"]: row for row in policy.get("nodes", ())}
    for step in steps:
        row = models.get(step.get("model", ""), {})
        if OF_NODES.get(step["action"]) in nodes.get(step.get("node", ""), {}):
            continue
        if step["action"] == "declare-model":
            kept = dict(step)
            _put_over(kept, {key: value for key, value in row.items() if key != "name"}, COPIES)
        else:
            fixed = set(settings) if step["action"] == "set" else set(row) | (COPIES if COPIES & set(row) else set())
            kept = {key: value for key, value in step.items() if key not in fixed}
        if set(step) == set(kept) or set(kept) - {"at", "action", "model"}:
            yield kept


def _check_policy(policy: Mapping[str, Any]) -> None:
    for name, table in policy.items():
        if name not in POLICY_TABLES:
            raise InvalidField(name, "is no table of a policy", cure=f"Give any of {', '.join(POLICY_TABLES)}.")
        if name == "scheduler" and not isinstance(table, dict):
            raise InvalidField(name, f"{table!r} is no table", cure="Write [scheduler], and settings below it.")
        if name != "scheduler" and not (isinstance(table, list) and all(isinstance(row, dict) for row in table)):
            raise InvalidField(name, f"{table!r} are no tables", cure=f"Write [[{name}]], and its keys below it.")


# --- running and comparing --------------------------------------------------------------------------------------------


def _run(tables: dict[str, Any], field: str, cure: str) -> Harness:
    try:
        scenario = Scenario.parse(toml.dump(tables), "the stretch")
        return Harness(scenario, Options(checks=False, settle=False)).run()
    except UnreadableFile as error:
        raise InvalidField(field, f"it cannot be set up: {error.message}", cure=cure) from None


def _refused_steps(run: Harness) -> dict[str, int]:
    rejected = run.operators.rejected
    return {f"steps of operators that the run refused, the first: {rejected[0]}": len(rejected)} if rejected else {}


def _side(run: Harness) -> Side:
    return Side(
        requests=run.tally.submitted,
        served=run.tally.served,
        waiting=run.numbers.waiting,
        refused={code: count for code, count in sorted(run.tally.refused.items()) if count},
        loads=run.numbers.loads,
        evictions=run.numbers.evictions,
        wait_seconds=_lengths(run.tally.waits),
    )


def _lengths(waits: Sequence[int]) -> dict[str, float]:
    mean = sum(waits) / len(waits) / SECOND if waits else 0.0
    return {"mean": round(mean, 6), **lengths_of(waits)}


def _first_difference(as_it_was: Harness, changed: Harness, shift: int) -> FirstDifference | None:
    mine, other = _decisions(as_it_was), _decisions(changed)
    for one, two in zip_longest(mine, other):
        if one is None or two is None or _essence(one) != _essence(two):
            said = [sentence(_shifted(event, shift)) if event is not None else "" for event in (one, two)]
            at = min(event.at for event in (one, two) if event is not None)
            return FirstDifference(time=format_instant(at + shift), as_it_was=said[0], changed=said[1])
    return None


def _decisions(run: Harness) -> Iterator[ev.Event]:
    events = (decode_event(row.topic, row.state) for row in run.rows if row.actor != "scenario")
    return (event for event in events if isinstance(event, _DECISIONS))


def _essence(event: ev.Event) -> tuple[object, ...]:
    """What makes two decisions the same, whenever they were taken."""
    about = ("model", "node", "request", "replica", "code", "reason", "victims")
    wait = getattr(event, "wait", None)
    return (type(event), *(getattr(event, name, None) for name in about), wait and (wait.kind, wait.on))


def _shifted(event: ev.Event, shift: int) -> ev.Event:
    """The event with its instants in the record's time instead of the simulation's."""
    return msgspec.convert(_later(msgspec.to_builtins(event), shift), type(event))


def _later(value: Any, shift: int) -> Any:
    if isinstance(value, dict):
        return {key: _later(one, shift) for key, one in value.items()}
    if isinstance(value, list):
        return [_later(one, shift) for one in value]
    # No other number of an event is as large as an instant: they count microseconds from 1970 on.
    return value + shift if isinstance(value, int) and START <= value < FOREVER else value

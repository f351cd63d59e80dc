"""Surveys in full: a decision's survey over every node, made again on the state in which it was decided.

For an eviction, and where nobody could make room, each node's replicas are told of too: who stayed there, and why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial

import msgspec

from interlock.domain import events as ev
from interlock.domain.commands import AcquireLock
from interlock.domain.decide import decide
from interlock.domain.engine import Engine
from interlock.domain.errors import InterlockError
from interlock.domain.eviction import find_victims
from interlock.domain.explanation import Considered, Explanation
from interlock.domain.own_rules import check_installed
from interlock.domain.recording import Recorded
from interlock.domain.routing import explain_eviction, explain_no_room
from interlock.domain.survey import room_verdict, warm_rows

from .rebuild import Rebuilt, fold

_LONGEST_BREATH = 10_000


class Again(msgspec.Struct, frozen=True):
    """The survey made again; without rows when it cannot be, and ``note`` says why."""

    rows: list[Considered]
    note: str


def recompute(rebuilt: Rebuilt, recorded: Recorded, event: ev.Event, explanation: Explanation) -> Again:
    """Every node's verdict in one decision.

    The state is rebuilt up to where the decision's command began, and then event by event until a survey there says of
    the recorded nodes what the record says. Where ``decide`` can be asked again, it has to give the same event.
    """
    name = getattr(event, "beneficiary_model", "") or getattr(event, "model", "")
    breath = [one for one in rebuilt.log.find_command(recorded.command_id) if one.position <= recorded.position]
    if not name or not breath or len(breath) > _LONGEST_BREATH:
        return Again([], "The survey cannot be made again: the log does not tell for which model it was.")
    found: Again | None = None
    try:
        engine = rebuilt.at(breath[0].position - 1)
        for state_before in _boundaries(engine, breath):
            rows = _survey(state_before, name, explanation)
            if rows is None:
                continue
            note = _confirm(state_before, event, recorded)
            whole = _with_who_stays(state_before, name, explanation, event.at)
            if whole is not None:
                return Again(whole, f"{note} Every replica on its nodes is told of.")
            found = found or Again(rows, note)
            if explanation.step not in WITH_REPLICAS:
                return found
    except InterlockError as error:
        return found or Again([], f"The survey cannot be made again: {error.message}")
    if found is not None and explanation.step == "evict" and explanation.chosen:
        return Again(found.rows, f"{found.note} {_OTHERWISE}")
    note = "The survey cannot be made again: on the rebuilt state this program judges the recorded nodes differently."
    return found or Again([], note)


WITH_REPLICAS = ("evict", "queue")
"""The steps whose surveys tell, in bounds, of the replicas on a node."""
_OTHERWISE = (
    "Who stayed on which node, and why, cannot be told beyond what is recorded: on the rebuilt state this program "
    "would choose others, or say it otherwise."
)


def _boundaries(engine: Engine, breath: list[Recorded]) -> Iterator[Engine]:
    """The state before each event of the breath, one after the other, in one engine."""
    for recorded in breath:
        yield engine
        fold(engine, recorded)


def _survey(engine: Engine, name: str, explanation: Explanation) -> list[Considered] | None:
    """The full survey, when it agrees with all that was recorded of it."""
    model = engine.state.find_model(name)
    if model is None:
        return None
    settings = engine.state.settings
    profile = model.scheduling.placement or settings.placement
    check_installed(settings.placement_profiles, [profile], "Nodes cannot be judged")
    chosen_node = next((row.node for row in explanation.considered if row.outcome == "chosen"), "")
    surveys: list[Iterable[Considered]] = []
    if explanation.step in ("warm", "granted", "queue"):
        surveys.append(warm_rows(engine.state, model, explanation.chosen))
    if explanation.step not in ("warm", "granted"):
        surveys.append(map(room_verdict(engine.state, model, chosen_node), engine.state.nodes.values()))
    # What an older program wrote lists a node again for each of its replicas, the chosen one first.
    listed = {row.node: row for row in reversed(explanation.considered)}
    for survey in surveys:
        rows = {row.node: row for row in survey}
        if _agrees(rows, listed, explanation):
            return [listed.get(name, row) for name, row in rows.items()]
    return None


def _with_who_stays(engine: Engine, name: str, explanation: Explanation, now: int) -> list[Considered] | None:
    """The full survey with every node's replicas; only when the bounded one comes out exactly as it was recorded."""
    model = engine.state.find_model(name)
    if model is None or explanation.step not in WITH_REPLICAS:
        return None
    for strictly in (False, True):
        search = find_victims(engine.state, model, now, strictly=strictly)
        if explanation.step == "queue":
            tell = partial(explain_no_room, engine.state, model, search, now, strictly=strictly)
        elif search.best is not None:
            tell = partial(explain_eviction, engine.state, model, search, search.best, now, strictly=strictly)
        else:
            continue
        # What would help may be said better by now, and is no part of the survey.
        if msgspec.structs.replace(tell(), cure=explanation.cure) == explanation:
            return list(tell(whole=True).considered)
    return None


def _agrees(rows: dict[str, Considered], listed: dict[str, Considered], explanation: Explanation) -> bool:
    counts = Counter("health" if row.filter == "drain" else row.filter for row in rows.values())
    cut = len(listed) < len(rows)  # a survey that lists every node counts none
    for kind in ("approval", "selector", "health") if cut else ():
        if counts[kind] != explanation.rejected.get(kind, 0):
            return False
    replicas = explanation.step in ("warm", "granted", "queue")
    for said in listed.values():
        row = rows.get(said.node)
        if row is None or (row.outcome, row.filter) != (said.outcome, said.filter):
            return False
        # Evictions write down more behind the same words. An older program named the replica that would have done.
        if not said.detail.startswith(row.detail) and not (replicas and said.outcome == "eligible"):
            return False
    return True


def _outcome(event: ev.Event) -> ev.Event:
    """The event without its explanation, which an older program may have put into other words."""
    explained = getattr(event, "explanation", None) is not None
    return msgspec.structs.replace(event, explanation=None) if explained else event


def _confirm(engine: Engine, event: ev.Event, recorded: Recorded) -> str:
    """Ask ``decide`` again where the log holds all of the command: an arriving request's."""
    told = "Surveyed again on the state before the decision."
    arrived = isinstance(event, ev.ReplicaLocked | ev.RequestQueued) and event.arrival == event.at
    if not arrived or not recorded.event_id.endswith("/0"):
        return told
    assert isinstance(event, ev.ReplicaLocked | ev.RequestQueued)
    command = AcquireLock(
        request=event.request,
        model=event.model,
        holder=event.holder,
        tenant=event.tenant,
        priority=event.priority,
        deadline=event.deadline,
        prefix=event.prefix,
    )
    if _outcome(event) in map(_outcome, decide(engine.state, command, event.at).events):
        return "Surveyed again on the state before the decision, and decided again with the same outcome."
    return f"{told} This program would decide it differently."

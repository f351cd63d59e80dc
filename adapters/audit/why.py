"""Why: the chain of causes of one thing, in the order of the log, and what each decision in it considered."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from interlock.domain import events as ev
from interlock.domain.codec import TOPICS, decode_event
from interlock.domain.entities import WaitKind
from interlock.domain.errors import InterlockError, InvalidField, NotFound, UnknownEvent
from interlock.domain.explanation import NEAREST_MISSES, TOP_SCORES, Considered, Explanation
from interlock.domain.recording import Recorded
from interlock.domain.refusals import RefusalCode
from interlock.domain.survey import NO_REPLICA
from interlock.domain.units import format_instant, tell_duration, whole_number

from .freezes import Freeze, HeldUp, freeze_at, freezes, held_up
from .full import WITH_REPLICAS, recompute
from .model_standing import Standing, standing_of
from .rebuild import Rebuilt
from .rows import check_name, event_name, shown
from .sentences import clock, sentence
from .waits import Waited, ends_load, waits_of

if TYPE_CHECKING:
    from .rows import Log

LONGEST_CHAIN = 200
"""So many events of one thing are told, the newest; what lies before is left to ``audit log``."""
KINDS = ("node", "model", "replica", "request", "position", "correlation")


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What one decision considered. ``rejected`` counts nodes per filter when not every node is listed.

    ``full`` says whether every node is in ``considered``, and ``note`` what became of surveying them all again.
    """

    step: str
    considered: list[Considered]
    rejected: dict[str, int]
    chosen: str
    cure: str
    full: bool
    note: str = ""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One event in the chain, as one sentence, with the decision behind it if it was one."""

    position: int
    time: str
    event: str
    stream: str
    event_id: str
    causation_id: str
    actor: str
    summary: str
    decision: Decision | None = None


class Kept(msgspec.Struct, frozen=True):
    """A replica that stayed, and why."""

    replica: str
    model: str
    why: str
    node: str


class EvictionStory(msgspec.Struct, frozen=True, kw_only=True):
    """For an evicted replica: for whom it left, with whom, and why nobody else did.

    ``others`` stayed on its own node, ``elsewhere`` on other nodes; who stayed elsewhere is told in full only.
    """

    for_replica: str
    for_model: str
    for_cause: str
    victims: list[str]
    others: list[Kept]
    elsewhere: list[Kept]
    sentence: str


class Subject(msgspec.Struct, frozen=True):
    """What was asked about."""

    kind: str
    id: str


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. ``considered``, ``chosen`` and ``cure`` are those of the decision that settled it.

    There is no cure for what is over: a request that got its replica or gave up, a model that is no longer parked.
    """

    subject: Subject
    sentence: str
    considered: list[Considered]
    chosen: str
    cure: str
    chain: list[Step]
    eviction: EvictionStory | None
    truncated: bool
    waits: list[Waited] = []
    """A request's waits, in order, each with what ended it."""
    frozen: list[Freeze] = []
    """What an operator froze, where that is why nothing happens, or why it was refused."""


class _Link(msgspec.Struct, frozen=True):
    """A stored event with its decoded form; None when this program does not know it."""

    recorded: Recorded
    event: ev.Event | None


def explain(log: Log, subject: str, *, full: bool = False) -> Why:
    """The chain of causes of ``subject``: an id of a request, replica, node, model or event, or KIND:NAME.

    ``full`` rebuilds the state before each decision whose survey was cut, and surveys every node. Raises NotFound.
    """
    known = find_subject(log, subject)
    gatherer = _Gatherer(log)
    _GATHER[known.kind](gatherer, known.id)
    held = gatherer.held_up(known)
    links, truncated = gatherer.chain()
    rebuilt = Rebuilt(log)
    steps = [_step(rebuilt, link, full=full) for link in links]
    eviction = _eviction(links, steps, known.id) if known.kind == "replica" else None
    settled = _settled(links, steps, known)
    if held is not None and settled is not None:
        settled = msgspec.structs.replace(settled, cure=held.cure)
    waits = _waits(links, known)
    stands = _stands(rebuilt, known) if held is None else None
    if stands is not None and stands.parked is not None:
        settled = _told(stands.parked)
    answer = _standing(stands, settled) if stands is not None else _answer(links, known, settled, waits, held)
    return Why(
        subject=known,
        sentence=eviction.sentence if eviction else answer,
        considered=settled.considered if settled else [],
        chosen=settled.chosen if settled else "",
        cure=held.cure if held else settled.cure if settled else "",
        chain=steps,
        eviction=eviction,
        truncated=truncated,
        waits=waits,
        frozen=list(held.freezes) if held else [],
    )


# --- Which thing ----------------------------------------------------------------------------------------------------


def find_subject(log: Log, text: str) -> Subject:
    """What an id means; raises NotFound, or InvalidField for a position that is no number."""
    check_name(text, "id")
    kind, colon, name = text.partition(":")
    if colon and kind in KINDS:
        if kind == "position" and whole_number(name) is None:
            raise InvalidField("position", f"{name[:40]!r} is not a position", cure="Use position:17.")
        if not _exists(log, kind, name):
            raise NotFound(kind, name, cure=_LISTS.get(kind, "`interlock audit log` shows what there is."))
        return Subject(kind, name)
    for kind in ("request", "replica", "node", "model"):
        if _exists(log, kind, text):
            return Subject(kind, text)
    found = log.event(text)
    if found is not None:
        return Subject("position", str(found.position))
    if _exists(log, "correlation", text):
        return Subject("correlation", text)
    cure = "`interlock audit log` shows ids; or use node:NAME, model:NAME, position:N, correlation:ID."
    raise NotFound("request, replica, node, model or event", text, cure=cure)


_LISTS = {
    "node": "`interlock nodes` lists them.",
    "model": "`interlock models` lists them.",
    "replica": "`interlock replicas` lists those that exist; the log knows older ones.",
    "position": "`interlock audit log` shows which there are.",
}


def _exists(log: Log, kind: str, name: str) -> bool:
    if kind == "position":
        return log.at(int(name)) is not None
    column = {"request": "request_id", "correlation": "correlation_id"}.get(kind)
    if column:
        return bool(name) and bool(log.select(f"{column} = ? AND {column} <> ''", (name,), limit=1))
    return bool(log.select("originator_id = ?", (f"{kind}:{name}",), limit=1))


# --- Gathering ------------------------------------------------------------------------------------------------------

_LOCKS = tuple(TOPICS[cls] for cls in (ev.ReplicaLocked, ev.ReplicaReleased))
_PROGRESS = (*_LOCKS, TOPICS[ev.LoadProgressed])
_OF_REQUESTS = tuple(TOPICS[c] for c in (ev.RequestQueued, ev.RequestWoken, ev.RequestCancelled, ev.RequestRefused))


class _Gatherer:
    """Collects the events of a chain; by position, so that an event that comes twice is told once."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._links: dict[int, _Link] = {}
        self._replicas: set[str] = set()
        self._truncated = False

    def take(self, found: Iterable[Recorded]) -> list[_Link]:
        """Add events; returns them decoded."""
        links = [_Link(recorded, _decoded(recorded)) for recorded in map(shown, found)]
        for link in links:
            self._links.setdefault(link.recorded.position, link)
        return links

    def newest(self, condition: str, params: Sequence[object]) -> list[_Link]:
        """Add the newest LONGEST_CHAIN events that satisfy the condition."""
        column = self._log.position_column
        statement = f"SELECT {column} FROM stored_events WHERE {condition} ORDER BY {column} DESC LIMIT ?"
        positions = [int(row[0]) for row in self._log.fetch(statement, [*params, LONGEST_CHAIN + 1])]
        if not positions:
            return []
        self._truncated |= len(positions) > LONGEST_CHAIN
        first = positions[:LONGEST_CHAIN][-1]
        return self.take(self._log.select(f"{condition} AND {column} >= ?", [*params, first]))

    def request(self, name: str) -> None:
        """A request's own events, and the loads of the replicas that it waited for or was given."""
        links = self.newest("request_id = ? AND request_id <> ''", (name,))
        last = max((link.recorded.position for link in links), default=0)
        for link in links:
            match link.event:
                case ev.RequestQueued(wait=wait) if wait.kind is WaitKind.LOAD and wait.on:
                    self.load(wait.on, last)
                case ev.ReplicaLocked(replica=replica):
                    self.load(replica, last)
                case _:
                    pass

    def load(self, replica: str, upto: int) -> None:
        """How a replica came to be, and who made room for it, up to a position."""
        if replica in self._replicas:
            return
        self._replicas.add(replica)
        column = self._log.position_column
        marks = ", ".join("?" * len(_PROGRESS))
        condition = f"originator_id = ? AND topic NOT IN ({marks}) AND {column} <= ?"
        for link in self.newest(condition, (f"replica:{replica}", *_PROGRESS, upto)):
            if isinstance(link.event, ev.ReplicaReserved):
                for victim in link.event.victims:
                    self.departure(victim, upto)

    def departure(self, victim: str, upto: int) -> None:
        """How a victim left."""
        topics = [TOPICS[cls] for cls in (ev.ReplicaEvicted, ev.UnloadConfirmed, ev.ReplicaLost)]
        column = self._log.position_column
        condition = f"originator_id = ? AND topic IN (?, ?, ?) AND {column} <= ?"
        self.newest(condition, (f"replica:{victim}", *topics, upto))

    def replica(self, name: str) -> None:
        """A replica's life; for a victim, the reservation that it left for as well."""
        self.load(name, self._log.head().position)
        for link in list(self._links.values()):
            if isinstance(link.event, ev.ReplicaEvicted) and link.event.replica == name:
                reserved = (f"replica:{link.event.beneficiary}", TOPICS[ev.ReplicaReserved])
                self.newest("originator_id = ? AND topic = ?", reserved)

    def node(self, name: str) -> None:
        """What happened to a node."""
        self.newest("originator_id = ?", (f"node:{name}",))

    def model(self, name: str) -> None:
        """What happened to a model, its requests apart, and its loads."""
        marks = ", ".join("?" * len(_OF_REQUESTS))
        self.newest(f"originator_id = ? AND topic NOT IN ({marks})", (f"model:{name}", *_OF_REQUESTS))
        for link in list(self._links.values()):
            if isinstance(link.event, ev.ModelParked):
                self.take(self._log.find_command(link.recorded.command_id)[:LONGEST_CHAIN])

    def position(self, text: str) -> None:
        """One event, and all that its command brought in the same breath."""
        found = self._log.at(int(text))
        if found is not None:
            self.take([found])
            same = self._log.find_command(found.command_id)
            self._truncated |= len(same) > LONGEST_CHAIN
            self.take(same[:LONGEST_CHAIN])

    def held_up(self, subject: Subject) -> HeldUp | None:
        """The freeze that is why nothing happens for the subject, or why it was refused; it belongs to the chain."""
        if subject.kind in ("correlation", "position"):
            return None
        known = freezes(self._log)
        own = [position for position, link in self._links.items() if _is_about(link, subject)]
        over = bool(own) and isinstance(self._links[max(own)].event, _ENDS.get(subject.kind, ()))
        held = None if over else held_up(self._log, known, subject.kind, subject.id)
        held = held or _said_to_be_frozen(self._links, subject, known)
        for freeze in held.freezes if held is not None else ():
            self.take(filter(None, [self._log.at(freeze.position)]))
        return held

    def correlation(self, name: str) -> None:
        """All that hangs together."""
        self.newest("correlation_id = ? AND correlation_id <> ''", (name,))

    def chain(self) -> tuple[list[_Link], bool]:
        """Everything, with the causes of each, in order; and whether something was left out."""
        todo = [link.recorded.causation_id for link in self._links.values()]
        known = {link.recorded.event_id for link in self._links.values()}
        while todo and len(self._links) < 2 * LONGEST_CHAIN:
            cause = todo.pop()
            # An event's id is its command's with a number; a command's own id names no event.
            if cause in known or "/" not in cause:
                continue
            known.add(cause)
            found = self._log.event(cause)
            if found is not None:
                self.take([found])
                todo.append(found.causation_id)
        return [self._links[position] for position in sorted(self._links)], self._truncated or bool(todo)


_GATHER = {
    "request": _Gatherer.request,
    "replica": _Gatherer.replica,
    "node": _Gatherer.node,
    "model": _Gatherer.model,
    "position": _Gatherer.position,
    "correlation": _Gatherer.correlation,
}


def _decoded(recorded: Recorded) -> ev.Event | None:
    try:
        return decode_event(recorded.topic, recorded.state)
    except (UnknownEvent, msgspec.MsgspecError):
        return None


# --- Telling --------------------------------------------------------------------------------------------------------


def _step(rebuilt: Rebuilt, link: _Link, *, full: bool) -> Step:
    recorded, event = link.recorded, link.event
    return Step(
        position=recorded.position,
        time=format_instant(recorded.time),
        event=event_name(recorded.topic),
        stream=recorded.stream,
        event_id=recorded.event_id,
        causation_id=recorded.causation_id,
        actor=recorded.actor,
        summary=sentence(event) if event is not None else f"An event that this program cannot read: {recorded.topic}.",
        decision=_decision(rebuilt, link, full=full),
    )


def _decision(rebuilt: Rebuilt, link: _Link, *, full: bool) -> Decision | None:
    explanation: Explanation | None = getattr(link.event, "explanation", None)
    if explanation is None:
        return None
    rows, complete, note = list(explanation.considered), not explanation.rejected, ""
    # A cut survey of which no node was rejected looks like a whole one, but for its number of rows.
    perhaps_cut = len(rows) - TOP_SCORES - NEAREST_MISSES in (0, 1)
    says_who_stays = explanation.step in WITH_REPLICAS
    if full and (perhaps_cut or says_who_stays or not complete) and link.event is not None:
        again = recompute(rebuilt, link.recorded, link.event, explanation)
        note = again.note if again.rows or not complete or says_who_stays else ""
        if again.rows:
            return msgspec.structs.replace(_told(explanation), considered=again.rows, rejected={}, full=True, note=note)
    return msgspec.structs.replace(_told(explanation), note=note)


def _told(explanation: Explanation) -> Decision:
    return Decision(
        step=explanation.step,
        considered=list(explanation.considered),
        rejected=explanation.rejected,
        chosen=explanation.chosen,
        cure=explanation.cure,
        full=not explanation.rejected,
    )


def _said_to_be_frozen(links: dict[int, _Link], subject: Subject, known: list[Freeze]) -> HeldUp | None:
    """For what waits, is parked or was refused since evictions were frozen: by whom, and whether they are still."""
    last = max((position for position, link in links.items() if _is_about(link, subject)), default=0)
    match links[last].event if last else None:
        case ev.RequestRefused(code=said) | ev.ModelParked(reason=said):
            pass
        case ev.RequestQueued(wait=wait):
            said = wait.kind
        case _:
            return None
    freeze = freeze_at(known, "evictions", last) if said == RefusalCode.FROZEN else None
    return HeldUp((freeze,), f"{freeze.told}.", "" if freeze.until else freeze.cure) if freeze is not None else None


_ENDS: dict[str, tuple[type[ev.Event], ...]] = {
    "request": (ev.ReplicaReleased, ev.RequestRefused, ev.RequestCancelled),
    "replica": (ev.UnloadConfirmed,),
}
"""After these nothing can come about for the thing, so that no freeze can hold it up."""
_OVER: dict[str, tuple[type[ev.Event], ...]] = {
    "request": (ev.ReplicaLocked, ev.ReplicaReleased, ev.RequestCancelled),
    "model": (ev.ModelUnparked, ev.ModelRemoved),
}
"""By the kind of a subject, the events after which nothing need help any more that a decision before them lacked."""


def _settled(links: list[_Link], steps: list[Step], subject: Subject) -> Decision | None:
    """The decision that settled the matter: the last one about the subject itself; without a cure when it is over."""
    over = False
    for link, step in zip(reversed(links), reversed(steps), strict=True):
        if _is_about(link, subject):
            if step.decision is not None:
                return msgspec.structs.replace(step.decision, cure="") if over else step.decision
            over = over or isinstance(link.event, _OVER.get(subject.kind, ()))
    return None


def _stands(rebuilt: Rebuilt, subject: Subject) -> Standing | None:
    """How a model stands at the end of the log; None for other subjects, and where this program cannot read it."""
    if subject.kind != "model":
        return None
    try:
        engine = rebuilt.at(rebuilt.log.head().position)
    except InterlockError:
        return None
    return standing_of(engine.state, subject.id, engine.ledger.time)


def _standing(stands: Standing, settled: Decision | None) -> str:
    """How a model stands; of a wish that is parked, what is in the way now and what would help."""
    if stands.parked is None or settled is None:
        return stands.sentence
    return stands.sentence + _in_the_way(settled)


def _waits(links: list[_Link], subject: Subject) -> list[Waited]:
    if subject.kind != "request":
        return []
    events = {link.recorded.event_id: link.event for link in links}
    return waits_of(
        (link.event, events.get(link.recorded.causation_id))
        for link in links
        if link.event and (_is_about(link, subject) or ends_load(link.event))
    )


def _is_about(link: _Link, subject: Subject) -> bool:
    if subject.kind == "correlation":
        return True
    if subject.kind == "position":
        return link.recorded.position == int(subject.id)
    return bool(getattr(link.event, subject.kind, "") == subject.id)


def _answer(
    links: list[_Link], subject: Subject, settled: Decision | None, waits: list[Waited], held: HeldUp | None
) -> str:
    """One plain sentence or two: what came of it, and what stood in the way of the others."""
    own = [link for link in links if _is_about(link, subject)]
    if not own:
        return "The log says nothing about it."
    gone = subject.kind == "replica" and any(isinstance(link.event, _DEPARTURES) for link in own)
    if subject.kind == "request":
        told = _request_story(links, own)
    elif subject.kind == "replica":
        told = _replica_story(own)
    else:
        last = own[-1].event
        told = sentence(last) if last is not None else "The last event is one that this program cannot read."
    if held is not None:
        return f"{told} {held.sentence}{f' What would help: {held.cure}' if held.cure else ''}"
    if settled is None or gone:
        return told
    placing = _placing(links, own, waits)
    against = _not_taken(row for row in settled.considered if row.outcome == "rejected")
    if placing is not None:
        against = _not_taken(row for row in placing.considered if row.outcome != "chosen")
    if settled.chosen and against:
        told += f" Not on {_some(against)}."
        return f"{told} What would help: {settled.cure}" if settled.cure else told
    return told + _in_the_way(settled)


def _in_the_way(settled: Decision) -> str:
    """What keeps a thing from coming about on each node, and what would help; to be put behind what is told of it."""
    against = _not_taken(row for row in settled.considered if row.outcome == "rejected")
    way = settled.cure and against and settled.step in _LACKING_ROOM
    told = f" In the way: {_some(against)}." if way else ""
    return f"{told} What would help: {settled.cure}" if settled.cure else told


_LACKING_ROOM = ("queue", "candidates", "never fits", "roll out")
"""The steps at which no node would do, so that each one's reason is what stands in the way."""
_DEPARTURES = (ev.UnloadRequested, ev.ReplicaLoadFailed, ev.ReplicaLost, ev.UnloadConfirmed)


def _replica_story(own: list[_Link]) -> str:
    """The last thing that happened to a replica; of one that is gone, why it had to go before that it is."""
    events = [link.event for link in own if not isinstance(link.event, ev.HoldReleased)]
    if not events or events[-1] is None:
        return "The last event is one that this program cannot read."
    why = [event for event in events if isinstance(event, _DEPARTURES[:-1])]
    before = f"{sentence(why[-1])} " if why and isinstance(events[-1], ev.UnloadConfirmed) else ""
    return before + sentence(events[-1])


def _placing(links: list[_Link], own: list[_Link], waits: list[Waited]) -> Explanation | None:
    """For a request whose last wait was for a load: why that went where it went, which settled where it is served."""
    locked = [link.event for link in own if isinstance(link.event, ev.ReplicaLocked)]
    if not locked or locked[-1].explanation is None or locked[-1].explanation.step != "granted":
        return None
    if not waits or (waits[-1].kind, waits[-1].on) != (WaitKind.LOAD, locked[-1].replica):
        return None  # somebody else's release gave it the replica, long after that was placed
    reserved = (link.event for link in links if isinstance(link.event, ev.ReplicaReserved))
    return next((event.explanation for event in reserved if event.replica == locked[-1].replica), None)


def _not_taken(rows: Iterable[Considered]) -> list[str]:
    """What is said of nodes that were not taken: first of those that the model may use, for they tell more."""
    return [_against(row) for row in sorted(rows, key=lambda row: row.filter in ("approval", "selector"))]


def _against(row: Considered) -> str:
    """A node that was not taken, and why, in brackets."""
    if row.outcome == "eligible":
        return f"{row.node} (it would have done as well)"
    if row.filter == "replica":
        return f"{row.node} (no copy of it is there)" if row.detail == NO_REPLICA else f"{row.node} ({row.detail})"
    if row.filter in ("drain", "health", "approval"):
        return f"{row.node} (it {row.detail})"
    return f"{row.node} ({row.filter}: {row.detail})"


def _request_story(links: list[_Link], own: list[_Link]) -> str:
    """A request's way in one sentence: how long it waited, where it was served, how it ended."""
    events = [link.event for link in own if link.event is not None]
    locked = [event for event in events if isinstance(event, ev.ReplicaLocked)]
    released = [event for event in events if isinstance(event, ev.ReplicaReleased)]
    if not events:
        return "Its events are of a kind that this program cannot read."
    cut = _cut_off(links, events)
    if not locked or not (cut or isinstance(events[-1], ev.ReplicaLocked | ev.ReplicaReleased)):
        return sentence(events[-1])
    lock = locked[-1]
    waited = lock.at - lock.arrival
    how = f"after waiting {tell_duration(waited)}" if waited else "at once"
    replicas = len({event.replica for event in locked})
    tries = f", its {replicas} replicas one after the other" if replicas > 1 else ""
    silent = dict.fromkeys(event.node for event in events if isinstance(event, ev.CallWentUnanswered))
    vain = f", after calls in vain on {', '.join(silent)}, silent then" if silent else ""
    end = f"ended after {tell_duration(released[-1].at - lock.at)}: {released[-1].outcome}" if released else "runs"
    end = cut or end
    cause = f" ({lock.cause})" if lock.cause else ""
    why = _of_its_prompt(lock)
    return f"Request {lock.request} got {lock.replica} on node {lock.node} {how}{cause}{why}{tries}{vain}, and {end}."


def _cut_off(links: list[_Link], events: list[ev.Event]) -> str:
    """How a request ended whose replica was lost while it ran there, and why that was lost; empty for any other."""
    if len(events) < 2:
        return ""
    last, end = events[-2:]
    if not isinstance(last, ev.ReplicaLocked) or not isinstance(end, ev.RequestCancelled):
        return ""
    lost = [one.event for one in links if isinstance(one.event, ev.ReplicaLost) and one.event.replica == last.replica]
    how = end.reason.removesuffix(", after its replica was lost")
    why = f", after {last.replica} was lost at {clock(lost[-1].at)}: {lost[-1].reason}" if lost else ""
    return f"ended after {tell_duration(end.at - last.at)}: {how}{why}"


def _of_its_prompt(lock: ev.ReplicaLocked) -> str:
    """What the choice had to do with the request's prompt, in brackets; empty when nothing."""
    if not lock.prefix or lock.explanation is None:
        return ""
    told = next((row.detail for row in lock.explanation.considered if row.outcome == "chosen"), "")
    note = told.partition(": ")[2]
    return f" ({'it ' if note.startswith('holds') else ''}{note})" if note else ""


_NOTE = re.compile(r"(keeps|evicts) (.+) \(([^()]+)\)(?:: (.*))?")
_MORE = re.compile(r"and (\d+) more")


def _eviction(links: list[_Link], steps: list[Step], replica: str) -> EvictionStory | None:
    """How the replica had to leave, if it had to; others in its chain may have left for it."""
    left = [(link.event, step.decision) for link, step in zip(links, steps, strict=True)]
    evictions = [one for one in left if isinstance(one[0], ev.ReplicaEvicted) and one[0].replica == replica]
    reservations = {link.event.replica: link.event for link in links if isinstance(link.event, ev.ReplicaReserved)}
    if not evictions:
        return None
    event, decision = evictions[-1]
    assert isinstance(event, ev.ReplicaEvicted)
    reserved = reservations.get(event.beneficiary)
    if reserved is None:
        return None
    rows = decision.considered if decision is not None else []
    kept = [one for row in rows for one in _kept(row)]
    there = [one for one in kept if one.node == event.node]
    told = [f"{one.replica} of {one.model} ({one.why})" for one in there]
    if more := sum(_untold(row) for row in rows if row.node == event.node):
        told.append(f"and {more} more")
    others = f" Kept there: {'; '.join(told)}." if told else " Nothing else that could have left was on that node."
    elsewhere = _not_taken(row for row in rows if row.outcome == "rejected")
    others += f" Not on {_some(elsewhere)}." if elsewhere else ""
    if event.explanation is not None and event.explanation.note:
        others += f" {event.explanation.note}"
    return EvictionStory(
        for_replica=event.beneficiary,
        for_model=event.beneficiary_model,
        for_cause=reserved.cause,
        victims=list(reserved.victims),
        others=there,
        elsewhere=[one for one in kept if one.node != event.node],
        sentence=f"{event.replica} of {event.model} left node {event.node} to make room for {event.beneficiary} of "
        f"{event.beneficiary_model} (for: {reserved.cause or 'the reconciler'}).{others}",
    )


def _some(against: list[str]) -> str:
    """The first few of the nodes that were not taken."""
    return f"{'; '.join(against[:3])}{' and others' if len(against) > 3 else ''}"


def _kept(row: Considered) -> list[Kept]:
    """Who stayed on a node, from the words of its row."""
    found = filter(None, map(_NOTE.fullmatch, row.detail.split("; ")))
    return [Kept(match[3], match[2], match[4] or "", row.node) for match in found if match[1] == "keeps"]


def _untold(row: Considered) -> int:
    """How many more were on a node, of whom the record tells nothing."""
    return sum(int(match[1]) for match in filter(None, map(_MORE.fullmatch, row.detail.split("; "))))

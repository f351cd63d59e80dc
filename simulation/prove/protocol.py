"""The writer's protocol, explored: two writers, a fenced store, lost answers, speculation, and effects that come late.

The decisions are production's, taken by real engines. The store is a model of
:class:`interlock.domain.ports.EventStore`: a batch is stored whole, after the position it names, and only under the
newest epoch. The worker is the one of :mod:`interlock.simulation.world`. Writers do what the design says: decide ahead
while a batch commits, let effects and replies leave after the commit, and after a lost answer take a new epoch and look
what is there. The fence, and that effects wait for the commit, are asked of the simulator's own log and writer, so that
whoever breaks them there breaks them here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec
from msgspec.structs import replace

from interlock.domain.commands import (
    AcquireLock,
    AnyReply,
    Command,
    DeclareModel,
    Envelope,
    RegisterNode,
    ReportCapacity,
    StartEpoch,
)
from interlock.domain.effects import Effect
from interlock.domain.engine import Engine, Outcome
from interlock.domain.entities import LoadSpec
from interlock.domain.errors import Fenced, InvariantBroken
from interlock.domain.loads import pending_effects
from interlock.domain.snapshots import encode_cluster
from interlock.domain.units import GIB
from interlock.simulation import world
from interlock.simulation.clock import Clock, Streams
from interlock.simulation.log import Log
from interlock.simulation.writer import Writer as SimulatedWriter

from .counterexample import Move
from .properties import PROPERTIES
from .situation import Finding

Row = tuple[int, str]
"""One stored batch: its epoch, and its command's id."""
Rows = tuple[Row, ...]

EPOCHS, CRASHES, LOST_ANSWERS, AHEAD, STATES_MAX = 3, 1, 1, 2, 400_000
_NODE = world.NodeFacts(name="solo", pools=(24 * GIB,))
_COMMANDS: dict[str, Command] = {
    "first": AcquireLock(request="q1", model="alpha", holder="gateway"),
    "second": AcquireLock(request="q2", model="beta", holder="gateway"),
}
_SETUP: tuple[Command, ...] = (
    RegisterNode(node="solo", address="solo:7000", boot="b1", pools=(24 * GIB,), approve=True),
    DeclareModel(model="alpha", spec=LoadSpec(backend="echo", vram=10 * GIB)),
    DeclareModel(model="beta", spec=LoadSpec(backend="echo", vram=10 * GIB)),
)


_STORE = Log(keep=False)


def is_fenced(taken: int, epoch: int) -> bool:
    """The store's fence: whether a writer of ``epoch`` may not append, ``taken`` being the newest. The log is asked."""
    _STORE.epoch = taken
    try:
        _STORE.append((), epoch)
    except Fenced:
        return True
    return False


class _Bystander:
    """Sees what leaves a writer."""

    def __init__(self) -> None:
        self.left: list[str] = []

    def reported(self, figures: ReportCapacity) -> None:
        """Nothing to do."""

    def committed(self, outcome: Outcome, envelope: Envelope) -> None:
        """Nothing to do."""

    def effect(self, effect: Effect, epoch: int) -> None:
        """An effect has left."""
        self.left.append(effect.op)

    def answered(self, request: str, reply: AnyReply) -> None:
        """Nothing to do."""

    def took_over(self) -> None:
        """Nothing to do."""

    def broken(self, problem: str, *, stuck: bool = False) -> None:
        """Nothing to do."""

    def fault_took_effect(self, kind: str) -> None:
        """Nothing to do."""


def leaves_when_decided() -> bool:
    """Whether effects leave before the commit. The simulator's writer is asked, with a store that hangs."""
    clock, around = Clock(), _Bystander()
    writer = SimulatedWriter(clock, Log(), Streams(0), around)
    writer.lead()
    for number, command in enumerate(_SETUP):
        writer.submit(Envelope(command_id=f"setup-{number}", command=command))
    writer.stall(cut_off=False)
    writer.submit(Envelope(command_id="first", command=_COMMANDS["first"]))
    if not writer.hanging:
        raise InvariantBroken("A writer whose store hangs has nothing waiting to be stored.")
    return bool(around.left)


class Writer(msgspec.Struct, frozen=True):
    """One writer: epoch 0 does not lead. ``base`` is what it knows to be stored, ``ahead`` what it decided after."""

    epoch: int = 0
    base: Rows = ()
    ahead: Rows = ()


class Sent(msgspec.Struct, frozen=True, order=True):
    """An effect on its way: of the how-manyth pending effect of which log, under which epoch."""

    rows: Rows
    number: int
    epoch: int


class Moment(msgspec.Struct, frozen=True):
    """Everything there is. ``log`` is the store's, ``taken`` its newest epoch; ``acked`` commands were answered."""

    log: Rows = ()
    taken: int = 0
    writers: tuple[Writer, Writer] = (Writer(), Writer())
    acked: frozenset[str] = frozenset()
    sent: frozenset[Sent] = frozenset()
    worker: world.Worker = world.Worker(_NODE)
    crashes: int = CRASHES
    lost: int = LOST_ANSWERS


class Broken(msgspec.Struct, frozen=True):
    """What does not hold, and the way there."""

    property: str
    words: str
    moves: list[Move]


class Result(msgspec.Struct, frozen=True):
    """What exploring the protocol has shown; ``bound`` is the most epochs that were needed for every answer."""

    states: int
    edges: int
    seconds: float
    complete: bool
    bound: int
    violations: list[Broken]

    def properties(self) -> dict[str, Holds]:
        """The five properties as this scope sees them: S the fence and the log, W that every command is answered."""
        seen = {broken.property: broken.words for broken in self.violations}
        fine = "" if self.complete else "not explored to the end"
        asked = {"S": fine, "W": fine, "T": fine, "U": "not asked in this scope", "Q": fine}
        return {
            name: Holds(name not in seen, seen.get(name, asked[name]), self.bound if name == "T" else None)
            for name in PROPERTIES
        }


class Holds(msgspec.Struct, frozen=True):
    """Whether one property holds. ``bound``, for T, is the most own steps that any request took."""

    holds: bool
    detail: str = ""
    bound: int | None = None


class Engines:
    """The engine after each sequence of batches, computed once."""

    def __init__(self) -> None:
        engine = Engine()
        for number, command in enumerate(_SETUP):
            engine.handle(Envelope(command_id=f"setup-{number}", command=command), number)
        self._known: dict[Rows, tuple[Engine, Outcome | None]] = {(): (engine, None)}
        self.leave_when_decided = leaves_when_decided()

    def after(self, rows: Rows) -> Engine:
        """The engine that has decided these batches."""
        return self._entry(rows)[0]

    def _entry(self, rows: Rows) -> tuple[Engine, Outcome | None]:
        known = self._known.get(rows)
        if known is None:
            engine = self.after(rows[:-1]).fork()
            epoch, name = rows[-1]
            command = _COMMANDS.get(name) or StartEpoch(epoch=epoch, writer=f"writer-{epoch}")
            outcome = engine.handle(Envelope(command_id=name, command=command), 100 + len(rows))
            known = self._known[rows] = (engine, outcome)
        return known

    def differs(self, rows: Rows) -> bool:
        """Whether folding the stored bytes of the last batch gives another state than deciding it did."""
        engine, outcome = self._entry(rows)
        if outcome is None:
            return False
        folded = self.after(rows[:-1]).fork().replay(outcome.recorded)
        return encode_cluster(folded.state) != encode_cluster(engine.state)

    def effect(self, sent: Sent) -> Effect | None:
        """The effect that is on its way."""
        pending = pending_effects(self.after(sent.rows).state)
        return pending[sent.number] if sent.number < len(pending) else None

    def leaving(self, rows: Rows, epoch: int) -> frozenset[Sent]:
        """What leaves when the last of these batches is durable: all that is pending then."""
        count = len(pending_effects(self.after(rows).state))
        return frozenset(Sent(rows, number, epoch) for number in range(count))


# --- what can happen ------------------------------------------------------------------------------------------------

Next = tuple[str, Moment, "Finding | None"]


def steps(moment: Moment, engines: Engines) -> Iterator[Next]:
    """Everything that can happen next, in words, with what it breaks."""
    for number, writer in enumerate(moment.writers):
        who = f"writer {'AB'[number]}"
        if writer.epoch == 0:
            if moment.taken < EPOCHS:
                yield _take(moment, number, who)
            continue
        yield from _decide(moment, number, who, engines)
        if writer.ahead:
            yield from _commit(moment, number, who, engines)
        if moment.crashes:
            gone = _with(replace(moment, crashes=moment.crashes - 1), number, Writer())
            yield f"{who} dies", gone, None
    for sent in sorted(moment.sent):
        yield _arrive(moment, sent, engines)


def _with(moment: Moment, number: int, writer: Writer) -> Moment:
    first, second = moment.writers
    return replace(moment, writers=(writer, second) if number == 0 else (first, writer))


def _take(moment: Moment, number: int, who: str) -> Next:
    """The epoch first, then the tail: what is read is all that will ever be stored under older epochs."""
    epoch = moment.taken + 1
    leads = Writer(epoch, moment.log, ((epoch, f"epoch-{epoch}"),))
    return f"{who} takes epoch {epoch} and reads the log", _with(replace(moment, taken=epoch), number, leads), None


def _decide(moment: Moment, number: int, who: str, engines: Engines) -> Iterator[Next]:
    writer = moment.writers[number]
    known = {name for _, name in (*writer.base, *writer.ahead)}
    stored = {name for _, name in writer.base}
    for name in _COMMANDS:
        if name in stored and name not in moment.acked:
            words = f"{who} is sent command {name} again, and gives the recorded answer"
            yield words, replace(moment, acked=moment.acked | {name}), None
        elif name not in known and name not in moment.acked and len(writer.ahead) < AHEAD:
            ahead = (*writer.ahead, (writer.epoch, name))
            after = _with(moment, number, replace(writer, ahead=ahead))
            if engines.leave_when_decided:
                rows = (*writer.base, *ahead)
                after = replace(after, sent=after.sent | engines.leaving(rows, writer.epoch))
            yield f"{who} decides command {name}", after, None


def _commit(moment: Moment, number: int, who: str, engines: Engines) -> Iterator[Next]:
    writer = moment.writers[number]
    row, name = writer.ahead[0], writer.ahead[0][1]
    fallen = _with(moment, number, Writer())
    if moment.lost:
        yield f"the commit of {name} by {who} is lost; {who} gives up", replace(fallen, lost=moment.lost - 1), None
    if is_fenced(moment.taken, writer.epoch) or writer.base != moment.log:
        words = f"{who} is refused by the store, and discards what it decided ahead"
        yield words, fallen, None
        return
    log = (*moment.log, row)
    late = None
    if writer.epoch < moment.taken:
        late = Finding("S", f"the store took a batch of epoch {writer.epoch} after epoch {moment.taken} had begun")
    elif engines.differs(log):
        late = Finding("S", f"replaying the log after {name} gives another state than the live one")
    if moment.lost:
        words = f"{who} commits {name}, but the answer is lost; {who} gives up"
        yield words, replace(fallen, log=log, lost=moment.lost - 1), late
    done = _with(moment, number, Writer(writer.epoch, log, writer.ahead[1:]))
    acked = moment.acked | ({name} if name in _COMMANDS else set())
    sent = moment.sent | engines.leaving(log, writer.epoch)
    yield f"{who} commits {name}; replies and effects leave", replace(done, log=log, acked=acked, sent=sent), late


def _arrive(moment: Moment, sent: Sent, engines: Engines) -> Next:
    effect = engines.effect(sent)
    after = replace(moment, sent=moment.sent - {sent})
    if effect is None:
        return "an effect that was withdrawn arrives", after, None
    worker, _ = world.perform(moment.worker, effect, sent.epoch)
    finding = None
    changed = worker.processes != moment.worker.processes
    if changed and sent.epoch < moment.worker.epoch:
        finding = Finding("S", f"a worker obeys epoch {sent.epoch} after it has heard of epoch {moment.worker.epoch}")
    words = f"{effect.name} for {effect.op} arrives under epoch {sent.epoch}"
    return words, replace(after, worker=worker), finding


# --- what must hold -------------------------------------------------------------------------------------------------


def judge(moment: Moment) -> Finding | None:
    """The log is in order of epochs, each command is in it at most once, and nothing left before it was stored."""
    epochs = [epoch for epoch, _ in moment.log]
    if epochs != sorted(epochs):
        return Finding("S", "epochs interleave in the log")
    names = [name for _, name in moment.log]
    if len(set(names)) != len(names):
        return Finding("S", "a command is in the log twice")
    if not moment.acked <= set(names):
        return Finding("S", "an acknowledged command is not in the log")
    for sent in moment.sent:
        if sent.rows != moment.log[: len(sent.rows)]:
            return Finding("S", "an effect has left before the events that cause it were stored")
    return None


def judge_end(moment: Moment) -> Finding | None:
    """When nothing more can happen, every command has its answer, unless the epochs of the scope are used up."""
    leads = any(writer.epoch == moment.taken for writer in moment.writers)
    if leads and set(_COMMANDS) - moment.acked:
        return Finding("W", "a command stays without an answer though a writer leads")
    return None


def explore(states_max: int = STATES_MAX, *, until_broken: bool = False) -> Result:
    """Every moment that can come, breadth first; each finding with the shortest way to it.

    ``until_broken``: no further than the layer in which something is wrong.
    """
    began = time.perf_counter()
    engines = Engines()
    start = Moment()
    came: dict[Moment, tuple[Moment, str] | None] = {start: None}
    found: dict[tuple[str, str], Broken] = {}
    layer, edges = [start], 0
    while layer and len(came) <= states_max and not (until_broken and found):
        following: list[Moment] = []
        for moment in layer:
            ended = True
            for words, after, finding in steps(moment, engines):
                edges += 1
                ended = False
                new = after not in came
                if new:
                    came[after] = (moment, words)
                    following.append(after)
                wrong = finding or (judge(after) if new else None)
                if wrong is not None and (wrong.property, wrong.words) not in found:
                    way = [*_way(moment, came), _move(moment, words, after)]
                    found[wrong.property, wrong.words] = Broken(wrong.property, wrong.words, way)
            wrong = judge_end(moment) if ended else None
            if wrong is not None and (wrong.property, wrong.words) not in found:
                found[wrong.property, wrong.words] = Broken(wrong.property, wrong.words, _way(moment, came))
        layer = following
    bound = max(moment.taken for moment in came)
    return Result(len(came), edges, time.perf_counter() - began, not layer, bound, list(found.values()))


def _way(moment: Moment, came: dict[Moment, tuple[Moment, str] | None]) -> list[Move]:
    way: list[Move] = []
    while (before := came[moment]) is not None:
        way.append(_move(*before, moment))
        moment = before[0]
    return way[::-1]


# --- for people -----------------------------------------------------------------------------------------------------


def _move(before: Moment, words: str, after: Moment) -> Move:
    """A step with what is otherwise after it; what leaves by it is told beside its arrow."""
    left = [f"pending effect {sent.number + 1} under epoch {sent.epoch}" for sent in sorted(after.sent - before.sent)]
    stood = set(stands(before))
    return Move(("protocol",), words, [], left, [line for line in stands(after) if line not in stood])


def stands(moment: Moment) -> list[str]:
    """How things stand: the store, the writers, who was answered, what is on its way, the worker."""
    log = ", ".join(f"{name} (epoch {epoch})" for epoch, name in moment.log) or "nothing"
    lines = [f"stored: {log}", f"newest epoch in the store: {moment.taken or 'none'}"]
    for number, writer in enumerate(moment.writers):
        who = f"writer {'AB'[number]}"
        if not writer.epoch:
            lines.append(f"{who} does not lead")
            continue
        ahead = ", ".join(name for _, name in writer.ahead)
        knows = f"{who} leads under epoch {writer.epoch} and knows {len(writer.base)} stored batches"
        lines.append(knows + (f"; decided, not stored: {ahead}" if ahead else ""))
    if moment.acked:
        lines.append(f"answered: {', '.join(sorted(moment.acked))}")
    if moment.sent:
        epochs = ", ".join(str(epoch) for epoch in sorted({sent.epoch for sent in moment.sent}))
        lines.append(f"on their way to the worker: {len(moment.sent)} effects, of epoch {epochs}")
    running = ", ".join(process.model for process in moment.worker.processes)
    lines.append(f"the worker has heard of epoch {moment.worker.epoch}" + (f" and runs {running}" if running else ""))
    return lines

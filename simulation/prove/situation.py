"""A situation: the production engine, the workers, and what is on its way between them, at one instant.

The engine is production's own. Only its ledger is replaced by a :class:`Witness`, which writes nothing down and shows
every event to the judge before it is applied, so that each rule is judged on the very state that it was decided on.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from interlock.domain import events as ev
from interlock.domain.commands import AnyReply, Command, Envelope
from interlock.domain.engine import Engine, Outcome
from interlock.domain.ledger import Ledger
from interlock.domain.recording import Recorded
from interlock.domain.snapshots import StateImage, image_of_state, state_from
from interlock.domain.state import State
from interlock.simulation.world import Worker

Judge = Callable[[State, ev.Event, int], "Finding | None"]
"""Judges one event on the state before it is applied; None when nothing is wrong with it."""

_UNWRITTEN = Recorded(0, "", 0, "", b"", "", 0, 0, "", "", "", "", "")


class Finding(msgspec.Struct, frozen=True, gc=False):
    """A property (T, U, S, Q, W, or ``invariant``) that does not hold, and in words what was seen."""

    property: str
    words: str


class Witness(Ledger):
    """A ledger that keeps only the epoch, and has each event judged. It remembers no replies: every command is new."""

    __slots__ = ("findings", "judge", "seen", "state")

    def __init__(self, state: State, judge: Judge) -> None:
        # Not the ledger's own beginning: of what it keeps, the engine asks this one for no more.
        self.position = self.epoch = self.time = 0
        self.state = state
        self.judge = judge
        self.findings: list[Finding] = []
        self.seen: list[ev.Event] = []

    def record(self, event: ev.Event, envelope: Envelope, ordinal: int, cause: str) -> Recorded:
        """Judge the event; what production would write is not needed here."""
        finding = self.judge(self.state, event, event.at)
        if finding is not None:
            self.findings.append(finding)
        self.seen.append(event)
        return _UNWRITTEN

    def enter(self, recorded: Recorded, event: ev.Event, state: State) -> AnyReply | None:
        """Keep the epoch. Replies are told by the events themselves."""
        if isinstance(event, ev.EpochStarted):
            self.epoch = event.epoch
        return None

    def recall(self, envelope: Envelope) -> AnyReply | None:
        """Nothing is remembered."""
        return None


class Situation:
    """Engine, workers, and ``mail``: answers and late words that are still to arrive. ``now`` in microseconds.

    ``priorities`` are those that requests may have, when they may differ.
    """

    __slots__ = ("engine", "judge", "mail", "now", "priorities", "workers")

    def __init__(
        self, engine: Engine, workers: dict[str, Worker], mail: tuple[Command, ...], now: int, judge: Judge,
        priorities: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        self.engine = engine
        self.workers = workers
        self.mail = mail
        self.now = now
        self.judge = judge
        self.priorities = priorities

    @property
    def state(self) -> State:
        """The engine's state."""
        return self.engine.state

    def fork(self) -> Situation:
        """An independent situation, one microsecond later: no two actions share an instant."""
        old = self.engine
        state = old.state.fork()
        ledger = Witness(state, self.judge)
        ledger.epoch = old.ledger.epoch
        return Situation(
            Engine(state, ledger), self.workers.copy(), self.mail, self.now + 1, self.judge, self.priorities
        )

    def beside(self) -> Situation:
        """The same, of the same engine: for a step of which the core hears nothing."""
        return Situation(self.engine, self.workers.copy(), self.mail, self.now + 1, self.judge, self.priorities)

    def handle(self, command: Command) -> Outcome:
        """Have the engine decide a command now."""
        return self.engine.handle(Envelope(command_id="c", command=command), self.now)

    def tick(self) -> Outcome:
        """Have the engine handle the timers that are due."""
        return self.engine.tick(self.now)

    @property
    def witness(self) -> Witness:
        """The engine's ledger, which has seen every event of this step."""
        ledger = self.engine.ledger
        assert isinstance(ledger, Witness)
        return ledger


class Packed(msgspec.Struct, frozen=True):
    """A situation as a snapshot would keep it; entities are shared."""

    state: StateImage
    workers: dict[str, Worker]
    mail: tuple[Command, ...]
    now: int
    epoch: int
    judge: Judge
    priorities: tuple[int, ...]


def pack(situation: Situation) -> Packed:
    """What cannot be derived."""
    epoch = situation.engine.ledger.epoch
    image = image_of_state(situation.state)
    return Packed(image, situation.workers, situation.mail, situation.now, epoch, situation.judge, situation.priorities)


def unpack(packed: Packed) -> Situation:
    """The situation again, its indexes made anew as after a restart: a snapshot that loses something shows here."""
    state = state_from(packed.state)
    ledger = Witness(state, packed.judge)
    ledger.epoch = packed.epoch
    return Situation(Engine(state, ledger), packed.workers, packed.mail, packed.now, packed.judge, packed.priorities)

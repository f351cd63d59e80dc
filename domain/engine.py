"""The engine: a state, its ledger, and the one way to move them: decide a command, or fold a recorded event.

Production, the simulator and the explorer all drive the core through this module.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec

from . import events as ev
from .apply import apply
from .codec import decode_event
from .commands import AnyReply, Command, Done, Envelope, Rejected, Review, Tick, Waiting
from .consequences import review_after
from .decide import decide, next_wakeup
from .effects import Effect
from .errors import Conflict, InterlockError, InvariantBroken, NotFound, Refused, UsageError
from .ledger import Ledger, asked_for
from .loads import pending_effect, stop_stray
from .recording import Recorded
from .refusals import RefusalCode
from .standing import asked_again
from .state import State

DECISIONS_IN_A_BREATH = 100_000
"""Follow-ups of one command may not be more than this: settling is bounded, and more is a defect."""

_WITH_EFFECT: frozenset[type[ev.Event]] = frozenset(
    {
        ev.BackendInstallRequested,
        ev.StagingStarted,
        ev.LoadStarted,
        ev.UnloadRequested,
        ev.ReplicaEvicted,
        ev.ReplicaLoadFailed,
        ev.ReplicaLost,
    }
)


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What deciding one command, with all its follow-ups, has brought.

    ``recorded[i]`` is the stored form of ``events[i]``. ``effects`` may leave, and ``reply`` may be given, once they
    are durable. ``answers`` are the ends of waiting requests that these events brought: request id to reply.
    """

    recorded: tuple[Recorded, ...]
    events: tuple[ev.Event, ...]
    reply: AnyReply
    effects: tuple[Effect, ...]
    answers: dict[str, AnyReply]
    repeated: bool = False


class Engine:
    """A state and its ledger, moved together."""

    __slots__ = ("ledger", "state")

    def __init__(self, state: State | None = None, ledger: Ledger | None = None) -> None:
        self.state = state if state is not None else State()
        self.ledger = ledger if ledger is not None else Ledger()

    def fork(self) -> Engine:
        """An independent engine."""
        return Engine(self.state.fork(), self.ledger.fork())

    def handle(self, envelope: Envelope, now: int) -> Outcome:
        """Decide a command and its follow-ups, and apply their events. ``now`` is clamped to the last event's time.

        A command that was decided before gets its recorded reply, or how its request stands now where it is still in
        the cluster (whether it has ended since, only the log knows). One that is wrong changes nothing and is rejected.
        Raises InvariantBroken for a defect of ours, and nothing else.
        """
        recalled = self.ledger.recall(envelope)
        if recalled is not None:
            return Outcome((), (), asked_again(self.state, envelope.command, recalled), (), {}, repeated=True)
        breath = _Breath(self, envelope, max(now, self.ledger.time))
        try:
            breath.settle()
        except InvariantBroken:
            raise
        except InterlockError as error:
            if breath.events:
                raise InvariantBroken(f"A follow-up of {envelope.command_id} was rejected: {error}") from error
            return Outcome((), (), rejection(error), (), {})
        return breath.outcome()

    def tick(self, now: int) -> Outcome:
        """Handle every timer that is due."""
        command_id = f"tick-{self.ledger.epoch}-{self.ledger.position + 1}"
        return self.handle(Envelope(command_id=command_id, command=Tick()), now)

    def next_wakeup(self) -> int | None:
        """When :meth:`tick` next has something to do."""
        return next_wakeup(self.state)

    def fold(self, recorded: Recorded, event: ev.Event | None = None) -> ev.Event:
        """Apply one event from the log. Raises UnknownEvent, or InvariantBroken when positions do not follow."""
        if recorded.position != self.ledger.position + 1:
            raise InvariantBroken(f"Position {recorded.position} follows {self.ledger.position} in the log.")
        event = event if event is not None else decode_event(recorded.topic, recorded.state)
        apply(self.state, event)
        self.ledger.enter(recorded, event, self.state)
        return event

    def replay(self, log: Iterable[Recorded]) -> Engine:
        """Apply the log's events; returns itself."""
        for recorded in log:
            self.fold(recorded)
        return self


def goes_on_first(command: Command) -> bool:
    """Whether what is left of the command comes before all else that follows: of a review, whose order is of claims."""
    return type(command) is Review


class _Breath:
    """One command and all that follows from it before anything else is decided."""

    __slots__ = ("answers", "cause", "engine", "envelope", "events", "now", "recorded", "reply", "touched")

    def __init__(self, engine: Engine, envelope: Envelope, now: int) -> None:
        self.engine = engine
        self.envelope = envelope
        self.now = now
        self.events: list[ev.Event] = []
        self.recorded: list[Recorded] = []
        self.touched: dict[str, None] = {}
        self.reply: AnyReply = Done()
        self.answers: dict[str, AnyReply] = {}
        self.cause = envelope.causation_id or envelope.command_id

    def settle(self) -> None:
        """Decide until nothing follows."""
        state = self.engine.state
        todo: deque[tuple[Command, str]] = deque([(self.envelope.command, self.cause)])
        for _ in range(DECISIONS_IN_A_BREATH):
            if not todo:
                return
            command, cause = todo.popleft()
            decision = decide(state, command, self.now)
            for event in decision.events:
                event_id = self._take(event, cause)
                review = review_after(state, event, command)
                if review is not None:
                    todo.append((review, event_id))
            follow_ups = [(follow_up, cause) for follow_up in decision.follow_ups]
            if goes_on_first(command):
                todo.extendleft(reversed(follow_ups))
            else:
                todo.extend(follow_ups)
        raise InvariantBroken(f"Command {self.envelope.command_id} did not settle: {type(command).__name__} repeats.")

    def _take(self, event: ev.Event, cause: str) -> str:
        engine = self.engine
        recorded = engine.ledger.record(event, self.envelope, len(self.events), cause)
        apply(engine.state, event)
        reply = engine.ledger.enter(recorded, event, engine.state)
        if reply is not None:
            request: str = event.request  # type: ignore[attr-defined]  # events with a reply have a request
            if request == asked_for(self.envelope.command):
                self.reply = reply
            elif not isinstance(reply, Waiting):
                self.answers[request] = reply
        if type(event) in _WITH_EFFECT:
            self.touched[event.replica] = None  # type: ignore[attr-defined]  # events with an effect have a replica
        self.events.append(event)
        self.recorded.append(recorded)
        return recorded.event_id

    def outcome(self) -> Outcome:
        """All of it, with the effects that the replicas' phases call for at the end."""
        state = self.engine.state
        effects: list[Effect] = []
        for replica_id in self.touched:
            replica = state.replicas.get(replica_id)
            effect = pending_effect(state, replica) if replica is not None else None
            if effect is not None:
                effects.append(effect)
        for event in self.events:
            if type(event) is ev.StrayFound:
                effects.append(stop_stray(state, event.node, event.process))
        return Outcome(tuple(self.recorded), tuple(self.events), self.reply, tuple(effects), self.answers)


def rejection(error: InterlockError) -> Rejected:
    """The reply that an error of the tree becomes."""
    if isinstance(error, Refused):
        code = error.code
    elif isinstance(error, NotFound):
        code = RefusalCode.UNKNOWN_MODEL.value if error.kind == "model" else "not_found"
    elif isinstance(error, Conflict):
        code = "conflict"
    else:
        code = "invalid" if isinstance(error, UsageError) else "failed"
    return Rejected(code=code, message=error.message, cure=error.cure)

"""The writer in virtual time: decide, commit, reply, effect; its death between any two of them, and its successor.

Commands wait in an inbox, so that nothing is decided while the outcome of another command is being given out. What was
sent and not answered when a writer dies stays with its sender, who sends the same envelope to the next one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

import msgspec

from interlock.domain.commands import AnyReply, Envelope, Locked, ReportCapacity, StartEpoch, Tick, Waiting
from interlock.domain.effects import Effect
from interlock.domain.engine import Engine, Outcome
from interlock.domain.errors import Fenced, InvariantBroken
from interlock.domain.ledger import asked_for
from interlock.domain.loads import pending_effects
from interlock.domain.standing import last_word, standing

from .clock import Clock, Streams
from .log import Log

OnReply = Callable[[AnyReply], None]
STAGES = ("decide", "commit", "reply", "effect")
_TICK = Envelope(command_id="tick", command=Tick())
RETAKE_AFTER = 1_000_000
"""A writer whose commit failed takes a new epoch after this many microseconds."""
EVENTS_IN_AN_INSTANT = 200_000
"""More events than this without time passing are a loop."""
_EVERYBODY = -1
"""The store stalls for whoever leads."""


class Sent(msgspec.Struct):
    """A command on its way. Without ``on_reply`` nobody waits for it, and it is lost with its writer."""

    envelope: Envelope
    on_reply: OnReply | None = None


class Surroundings(Protocol):
    """Whom a writer tells things."""

    def reported(self, figures: ReportCapacity) -> None:
        """A node's figures were taken in and changed nothing."""

    def committed(self, outcome: Outcome, envelope: Envelope) -> None:
        """Events are durable."""

    def effect(self, effect: Effect, epoch: int) -> None:
        """An effect leaves."""

    def answered(self, request: str, reply: AnyReply) -> None:
        """A waiting request has come to its end."""

    def took_over(self) -> None:
        """A new writer leads."""

    def broken(self, problem: str, *, stuck: bool = False) -> None:
        """The core itself has failed; ``stuck``: it does not come to an end."""

    def fault_took_effect(self, kind: str) -> None:
        """A fault of the writer or its store has changed something."""


class Writer:
    """One leading writer after another."""

    def __init__(self, clock: Clock, log: Log, streams: Streams, around: Surroundings) -> None:
        self.clock = clock
        self.log = log
        self.around = around
        self.chance = streams["writer"]
        self.engine = Engine()
        self.leading = False
        self.halted = False
        self.armed = ""
        """Where the writer dies at its next decision that has events."""
        self.inbox: deque[Sent] = deque()
        self.unheard: list[Sent] = []
        """Commands whose senders wait for a writer."""
        self.hanging: list[tuple[Sent, Outcome]] = []
        """Decided on, and not committed: the store stalls."""
        self.failing = False
        self._stalls: dict[int, int] = {}
        """Which stalls are at work, and in which term a writer must be to be struck."""
        self._is_kept_waiting = False
        """Somebody would have taken over already, did the store answer."""
        self._late: list[tuple[list[tuple[Sent, Outcome]], int]] = []
        """What replaced writers had decided, each under its epoch: it reaches the store after their successor."""
        self._busy = False
        self._tick_at: int | None = None
        self._term = 0
        self._instant = (-1, 0)
        self.effects_sent = 0

    @property
    def stalled(self) -> bool:
        """Whether the leading writer's commits hang."""
        return self.leading and any(term in (_EVERYBODY, self._term) for term in self._stalls.values())

    def nobody_leads_in(self, number: int) -> bool:
        """Whether this stall strikes whoever leads."""
        return self._stalls.get(number) == _EVERYBODY

    @property
    def _nobody_can_lead(self) -> bool:
        return _EVERYBODY in self._stalls.values()

    # --- commands ---------------------------------------------------------------------------------------------------

    def submit(self, envelope: Envelope, on_reply: OnReply | None = None) -> None:
        """Have a command decided, as soon as somebody leads."""
        self.inbox.append(Sent(envelope, on_reply))
        if not self._busy:
            self._drain()

    def _drain(self) -> None:
        self._busy = True
        try:
            while self.inbox and not self.halted:
                sent = self.inbox.popleft()
                if not self.leading:
                    if sent.on_reply is not None:
                        self.unheard.append(sent)
                    continue
                self._decide(sent)
        finally:
            self._busy = False
        self._agree_on_tick()

    def _decide(self, sent: Sent) -> None:
        try:
            outcome = self.engine.handle(sent.envelope, self.clock.now)
        except InvariantBroken as error:
            self._halt(error)
            return
        if outcome.repeated and sent.on_reply is not None:
            self._when_durable(Sent(sent.envelope, self._with_news(sent)), outcome)
        else:
            self._when_durable(sent, outcome)

    def _halt(self, error: InvariantBroken) -> None:
        self.halted = True
        self.around.broken(error.message, stuck="did not settle" in error.message)

    def _with_news(self, sent: Sent) -> OnReply:
        """Answer a repeated command with how its request stands when the answer leaves."""
        on_reply = sent.on_reply
        assert on_reply is not None
        request = asked_for(sent.envelope.command)

        def tell(reply: AnyReply) -> None:
            on_reply(self.standing(request) or reply if isinstance(reply, Waiting | Locked) else reply)

        return tell

    def standing(self, request: str) -> AnyReply | None:
        """How a request stands now, from the state, or from the log when it has ended."""
        state = self.engine.state
        return standing(state, request) or last_word(self.log.events_of(request), state)

    # --- commit, reply, effect --------------------------------------------------------------------------------------

    def _when_durable(self, sent: Sent, outcome: Outcome) -> None:
        if self.hanging or (self.stalled and outcome.recorded):
            if outcome.recorded:
                self.around.fault_took_effect("store-stall")
            self.hanging.append((sent, outcome))
            return
        if self.armed and outcome.recorded:
            self._die_in_the_act(sent, outcome)
            return
        if outcome.recorded and not self._commit(sent, outcome):
            self._lose_leadership([sent], RETAKE_AFTER)
            return
        self._tell_unchanged(sent, outcome)
        self._give_out(sent, outcome)

    def _tell_unchanged(self, sent: Sent, outcome: Outcome) -> None:
        """Tell of figures that made no event, in the order of decisions: what comes later may change what they mean."""
        if isinstance(sent.envelope.command, ReportCapacity) and not outcome.recorded:
            self.around.reported(sent.envelope.command)

    def _commit(self, sent: Sent, outcome: Outcome) -> bool:
        """Store the events; False when the commit failed, or its answer was lost."""
        if self.failing:
            self.around.fault_took_effect("store-error")
            if self.chance.random() < 0.5:
                self._store(sent, outcome)
            return False
        self._store(sent, outcome)
        return True

    def _store(self, sent: Sent, outcome: Outcome, epoch: int | None = None) -> None:
        """Make the events durable, and tell who watches; raises Fenced when another writer has taken over."""
        problem = self.log.append(outcome.recorded, self.engine.ledger.epoch if epoch is None else epoch)
        if problem:
            self._halt(InvariantBroken(f"no store would take the events: {problem}"))
        instant, count = self._instant
        now = self.clock.elapsed
        self._instant = (now, count + len(outcome.events) if instant == now else len(outcome.events))
        if self._instant[1] > EVENTS_IN_AN_INSTANT:
            self._halt(InvariantBroken(f"{sent.envelope.command_id} did not settle: time does not advance"))
        self.around.committed(outcome, sent.envelope)

    def _give_out(self, sent: Sent, outcome: Outcome, *, effects: int | None = None) -> None:
        if sent.on_reply is not None:
            sent.on_reply(outcome.reply)
        for request, reply in outcome.answers.items():
            self.around.answered(request, reply)
        if isinstance(sent.envelope.command, StartEpoch):
            self._send(pending_effects(self.engine.state))  # its own are among them
        else:
            self._send(outcome.effects if effects is None else outcome.effects[:effects])

    def _send(self, effects: tuple[Effect, ...] | list[Effect]) -> None:
        self.effects_sent += len(effects)
        for effect in effects:
            self.around.effect(effect, self.engine.ledger.epoch)

    def send_again(self, effect: Effect) -> None:
        """Send an effect again whose answer is late."""
        if self.leading and not self.hanging:
            self._send([effect])

    def forget(self, requests: frozenset[str]) -> None:
        """Whoever sent commands for these requests is gone, and will not send them again."""
        self.unheard = [sent for sent in self.unheard if sent.envelope.request_id not in requests]

    # --- time -------------------------------------------------------------------------------------------------------

    def _agree_on_tick(self) -> None:
        if not self.leading or self.halted:
            return
        due = self.engine.next_wakeup()
        if due is not None and (self._tick_at is None or due < self._tick_at):
            self._tick_at = due
            self.clock.at(due, self._tick, self._term, due)

    def _tick(self, term: int, due: int) -> None:
        if term != self._term or due != self._tick_at or not self.leading or self.halted:
            return
        self._tick_at = None
        self._busy = True
        try:
            outcome = self.engine.tick(self.clock.now)
            after = self.engine.next_wakeup()
            if after is not None and after <= self.clock.now and not outcome.events:
                raise InvariantBroken("The tick did not settle: a timer is due that nothing handles.")
            self._when_durable(Sent(_TICK), outcome)
        except InvariantBroken as error:
            self._halt(error)
        finally:
            self._busy = False
        self._drain()

    # --- dying and taking over --------------------------------------------------------------------------------------

    def lead(self) -> None:
        """Take a new epoch, rebuild the state from the log, look at everything, and send again what is pending.

        To take an epoch is a commit: while the store stalls for everybody nobody takes over.
        """
        if self.leading or self.halted:
            return
        if self._nobody_can_lead:
            self._is_kept_waiting = True
            self.around.fault_took_effect("store-stall")
            return
        self._is_kept_waiting = False
        epoch = self.log.take_epoch()
        try:
            self.engine = self.log.rebuild()
        except InvariantBroken as error:
            self._halt(error)
            return
        self.leading = True
        self._term += 1
        self._tick_at = None
        waiting, self.unheard = self.unheard, []
        for late, of_epoch in self._late:
            self.clock.after(RETAKE_AFTER, self._arrive_late, late, of_epoch)
        self._late = []
        self.submit(Envelope(command_id=f"epoch-{epoch}", command=StartEpoch(epoch=epoch, writer=f"writer-{epoch}")))
        if self.leading:
            self.around.took_over()
        for sent in waiting:
            self.submit(sent.envelope, sent.on_reply)

    def die_at(self, stage: str) -> None:
        """Die at this stage of the next decision that has events, or within a second when there is none.

        One whose commits hang dies at once, and with it what it has decided since.
        """
        if self.stalled:
            self.around.fault_took_effect("writer-crash")
            self._lose_leadership([], self.engine.state.settings.writer_lease)
        elif self.leading:
            self.armed = stage
            self.clock.after(RETAKE_AFTER, self._die_idle, self._term)

    def _die_idle(self, term: int) -> None:
        if self.armed and term == self._term and self.leading:
            self.around.fault_took_effect("writer-crash")
            self._lose_leadership([], self.engine.state.settings.writer_lease)

    def _die_in_the_act(self, sent: Sent, outcome: Outcome) -> None:
        stage = self.armed
        self.around.fault_took_effect("writer-crash")
        if stage != "decide":
            self._store(sent, outcome)
        if stage in ("reply", "effect"):
            self._give_out(sent, outcome, effects=0 if stage == "reply" else max(1, len(outcome.effects) // 2))
        unanswered = [] if stage in ("reply", "effect") else [sent]
        self._lose_leadership(unanswered, self.engine.state.settings.writer_lease)

    def _lose_leadership(self, unanswered: list[Sent], after: int) -> None:
        self.armed = ""
        self.leading = False
        self._term += 1
        # What was decided and never stored dies with its writer; its senders ask again.
        unanswered = [*(sent for sent, _ in self.hanging), *unanswered]
        self.hanging = []
        self.unheard += [sent for sent in unanswered if sent.on_reply is not None]
        self.clock.after(after, self.lead)

    # --- the store's faults -----------------------------------------------------------------------------------------

    def stall(self, *, cut_off: bool, number: int = 0) -> None:
        """Commits hang until :meth:`resume` is called with the same number.

        ``cut_off``: only this writer's do, and a standby takes over once its lease has lapsed. Where nobody leads,
        nobody is cut off alone: the store answers none of those who would take over.
        """
        alone = cut_off and self.leading
        self._stalls[number] = self._term if alone else _EVERYBODY
        if alone:
            self.clock.after(self.engine.state.settings.writer_lease, self._replace_stalled, number)

    def _replace_stalled(self, number: int) -> None:
        if not self.leading or self._stalls.get(number) != self._term:
            return
        late, self.hanging = self.hanging, []
        self._late.append((late, self.engine.ledger.epoch))
        self._lose_leadership([sent for sent, _ in late], 0)

    def _arrive_late(self, late: list[tuple[Sent, Outcome]], epoch: int) -> None:
        """The replaced writer's commits reach the store after all: they must be refused."""
        for sent, outcome in late:
            if not outcome.recorded:
                continue
            try:
                self._store(sent, outcome, epoch)
            except Fenced:
                continue
            self.around.broken(f"the store took events of epoch {epoch} after epoch {self.log.epoch} had begun")

    def resume(self, number: int = 0) -> None:
        """This stall is over; after the last one the store answers again."""
        del self._stalls[number]
        if self.stalled:
            return
        if self._is_kept_waiting:
            self.lead()
        hanging, self.hanging = self.hanging, []
        self._busy = True
        try:
            for sent, outcome in hanging:
                if outcome.recorded:
                    self._store(sent, outcome)
                self._tell_unchanged(sent, outcome)
            for sent, outcome in hanging:
                self._give_out(sent, outcome)
        finally:
            self._busy = False
        self._drain()

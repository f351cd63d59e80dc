"""A rehearsal: the core on a fork, with workers that do at once and well whatever they are asked.

It goes in three steps that an operator can tell apart: what happens now, what happens once the requests that run have
ended, and what only time brings (residency, idleness, a pause after a failure). Nothing new comes in meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from enum import StrEnum

import msgspec

from . import commands as cmd
from . import events as ev
from .answers import done
from .effects import Effect, StopStray, UnloadModel
from .engine import Engine, Outcome
from .entities import NodeStatus, RequestStatus
from .loads import pending_effects

LONGEST = 50_000
"""Commands of one rehearsal: a cluster in which more happens is rehearsed up to there, and the rehearsal says so."""


class Step(StrEnum):
    """When something happens: at once, when the requests that run have ended, or by the passing of time."""

    NOW = "now"
    REQUESTS_ENDED = "requests ended"
    LATER = "later"


class Noted(msgspec.Struct, frozen=True, gc=False):
    """An event of the rehearsal: in which step it came, and how long after its beginning (µs)."""

    event: ev.Event
    step: Step
    after: int


class Rehearsal:
    """Moves ``engine``, which has to be a fork.

    ``beside`` are the replicas that were reserved while other copies of their model took requests.
    ``cut_after`` (µs) is how far it came when there was too much to do, ``cut_in`` the step; None when to the end.
    """

    def __init__(self, engine: Engine, now: int) -> None:
        self.engine = engine
        self.began = self.now = max(now, engine.ledger.time)
        self.step = Step.NOW
        self.noted: list[Noted] = []
        self.beside: set[str] = set()
        self.cut_after: int | None = None
        self.cut_in: Step | None = None
        self._quick: deque[Effect] = deque()
        self._slow: deque[Effect] = deque()
        self._sent = 0
        self._ask(pending_effects(engine.state))

    def send(self, command: cmd.Command) -> cmd.AnyReply:
        """Decide a command, as if it came now; returns its reply."""
        self._sent += 1
        envelope = cmd.Envelope(command_id=f"rehearsal-{self._sent}", command=command)
        return self._take(self.engine.handle(envelope, self.now)).reply

    def settle(self) -> None:
        """Let the workers that can be reached do what they are asked, until they are asked nothing more.

        What is quick comes first, as it does in life: a copy is unloaded long before another one has loaded.
        """
        while (self._quick or self._slow) and self._goes_on():
            effect = (self._quick or self._slow).popleft()
            node = self.engine.state.nodes.get(effect.node)
            if node is not None and node.status in (NodeStatus.HEALTHY, NodeStatus.DRAINING):
                self.send(done(effect, address=f"{effect.node}:0"))

    def end_requests(self) -> None:
        """Let every request that runs end well, and those that get their locks by that, until none runs."""
        if self.step is Step.NOW:
            self.step = Step.REQUESTS_ENDED
        while running := [one for one in self.engine.state.requests.values() if one.status is not RequestStatus.QUEUED]:
            for request in running:
                if not self._goes_on():
                    return
                if request.status is RequestStatus.LOCKED:
                    self.send(cmd.ReleaseLock(request=request.id))
                else:
                    self.send(cmd.ReportBackendGone(request=request.id, replica=request.replica))
            self.settle()

    def pass_time(self, length: int) -> None:
        """Let so much time pass: every timer fires when it is due, and what it asks for is done."""
        self.step = Step.LATER
        until = self.began + length
        while (due := self.engine.next_wakeup()) is not None and due <= until and self._goes_on():
            self.now = max(self.now, due)
            before = len(self.noted)
            self._sent += 1
            self._take(self.engine.tick(self.now))
            self.settle()
            if any(isinstance(noted.event, ev.ReplicaLocked) for noted in self.noted[before:]):
                self.end_requests()

    def _goes_on(self) -> bool:
        if self._sent >= LONGEST and self.cut_after is None:
            self.cut_after, self.cut_in = self.now - self.began, self.step
        return self.cut_after is None

    def _take(self, outcome: Outcome) -> Outcome:
        after = self.now - self.began
        self.noted += [Noted(event, self.step, after) for event in outcome.events]
        reserved = [event for event in outcome.events if isinstance(event, ev.ReplicaReserved)]
        self.beside.update(event.replica for event in reserved if event.model in self.engine.state.warm)
        self._ask(outcome.effects)
        return outcome

    def _ask(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            (self._quick if isinstance(effect, UnloadModel | StopStray) else self._slow).append(effect)

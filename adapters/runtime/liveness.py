"""When each node was last heard, and what it says that it runs: silence, recovery and differences become commands."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from interlock.domain import events as ev
from interlock.domain.commands import (
    Command,
    Envelope,
    RegisterNode,
    ReportBackendGone,
    ReportCapacity,
    ReportHeard,
    ReportRunning,
    ReportSilence,
    WorkerLeft,
)
from interlock.domain.contact import ANSWER_PATIENCE, heartbeat_of, heartbeats_every
from interlock.domain.entities import Node, NodeStatus
from interlock.domain.errors import InterlockError, Unavailable
from interlock.domain.ports import WorkerPort
from interlock.domain.recording import Recorded
from interlock.domain.state import State
from interlock.domain.units import SECOND

from .clock import Clock

log = logging.getLogger(__name__)

_SPEAKING = (RegisterNode, ReportCapacity, ReportRunning, ReportHeard)
_AT_WORK = (NodeStatus.HEALTHY, NodeStatus.DRAINING)
_AGAIN_S = 0.5
"""A node that has not answered since the takeover is asked again after this, and then less and less often."""
_LONGEST_AGAIN_S = 5.0


class Liveness:
    """The nodes of one term. Every node that is in the state has one whole ``unreachable_after`` from its beginning."""

    def __init__(
        self,
        workers: WorkerPort,
        clock: Clock,
        *,
        state: Callable[[], State],
        report: Callable[[Command, str], None],
        registered: set[str] | None = None,
    ) -> None:
        self._workers, self._clock = workers, clock
        self._state, self._report = state, report
        now = clock.monotonic()
        self._heard_at: dict[str, float] = dict.fromkeys(state().nodes, now)
        self._began_at, self._inherited = now, frozenset(state().nodes)
        self._wall: dict[str, int] = {}
        self._answered: set[str] = set()
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._making_sure: dict[str, asyncio.Task[None]] = {}
        self._asked_at = now
        self._swept_at = now
        self.registered = registered if registered is not None else set()
        """Nodes that have registered with this process. It may outlive the term: a node does not register again because
        the term ended, and whether it is still there is what :meth:`unanswered` asks."""

    # --- What is heard ------------------------------------------------------------------------------------------------

    def note(self, node: str) -> None:
        """A sign of life."""
        self._heard_at[node] = self._clock.monotonic()
        self._wall[node] = self._clock.now()

    def last_heard(self, node: str) -> int:
        """When the node was last heard (µs since 1970); 0 when not in this term."""
        return self._wall.get(node, 0)

    def on_command(self, envelope: Envelope) -> None:
        """Commands that workers send are signs of life, whichever gateway they came through."""
        command = envelope.command
        if isinstance(command, _SPEAKING):
            if self._is_of_another_boot(command.node, getattr(command, "boot", "")):
                return  # another worker of that name: what it says is no sign of life of this one
            self.note(command.node)
            if isinstance(command, RegisterNode):
                self.registered.add(command.node)
        elif isinstance(command, WorkerLeft) and not self._is_of_another_boot(command.node, command.boot):
            self._answered.discard(command.node)
            self.registered.discard(command.node)

    def _is_of_another_boot(self, name: str, boot: str) -> bool:
        node = self._state().nodes.get(name)
        return node is not None and bool(boot) and boot != node.boot

    def heard(self, name: str, boot: str) -> int | None:
        """A heartbeat; returns in how many microseconds the next one is due.

        None when the node must register: it is not known, was known under another boot, or has said goodbye.
        """
        node = heartbeat_of(self._state(), name, boot)
        if node is None:
            return None
        self.note(name)
        if node.status in (NodeStatus.UNREACHABLE, NodeStatus.OFFLINE):
            self._report(ReportHeard(node=name, boot=node.boot), name)
        return heartbeats_every(self._state().settings)

    def on_committed(self, recorded: Sequence[Recorded], events: Sequence[ev.Event]) -> None:
        """A node that joins or recovers is asked what it runs."""
        for event in events:
            if isinstance(event, ev.NodeRegistered | ev.NodeRecovered | ev.NodeApproved):
                self.note(event.node)
                self.ask(event.node)
                if isinstance(event, ev.NodeRegistered):
                    self.registered.add(event.node)
            elif isinstance(event, ev.NodeRemoved):
                self._heard_at.pop(event.node, None)
                self._wall.pop(event.node, None)

    # --- What is asked ------------------------------------------------------------------------------------------------

    def unanswered(self) -> list[str]:
        """Nodes that were at work at the takeover and have not said since what they run.

        After ``unreachable_after`` it is empty: a node that beats and never answers must not keep the others from
        serving, and neither must one that joined later, of whose processes the log knows nothing.
        """
        if self._clock.monotonic() - self._began_at > self._state().settings.unreachable_after / SECOND:
            return []
        return [
            node.name for node in self._at_work() if node.name in self._inherited and node.name not in self._answered
        ]

    def ask(self, node: str) -> None:
        """Ask what the node runs, unless that is under way."""
        if node not in self._asking:
            task = asyncio.create_task(self._ask(node), name=f"what does {node} run")
            self._asking[node] = task
            task.add_done_callback(lambda done: self._asking.pop(node, None))

    async def _ask(self, node: str) -> None:
        pause_s = _AGAIN_S
        while node in self._state().nodes:
            asked_at = self._clock.now()
            try:
                answer = await self._workers.running(node)
            except Unavailable as error:
                log.debug("%s did not say what it runs: %s", node, error)
                if node in self._answered:
                    return  # the next round asks again
            except InterlockError as error:
                log.warning("%s did not say what it runs: %s", node, error)
                return
            else:
                known = self._state().nodes.get(node)
                if known is not None and known.boot == answer.boot:
                    # The worker's own words, whatever has become of the gateway that its heartbeats go to.
                    self.note(node)
                    if known.status is NodeStatus.UNREACHABLE:
                        self._report(ReportHeard(node=node, boot=answer.boot), node)
                    self._report(
                        ReportRunning(node=node, boot=answer.boot, asked_at=asked_at, running=answer.running), node
                    )
                    self._answered.add(node)
                    return
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_AGAIN_S)

    async def make_sure(self, command: ReportBackendGone) -> None:
        """Before a failed call is believed: see whether the replica's node is there, and not only the replica gone.

        Its worker is asked what it runs; when it says nothing, the node's silence is reported first, and the core reads
        the call in its light. A worker that has never answered in this term is not asked: it may not know the question.
        """
        state = self._state()
        replica = state.replicas.get(command.replica)
        node = state.nodes.get(replica.node) if replica is not None else None
        if command.answered or node is None or node.status not in _AT_WORK or node.name not in self._answered:
            return
        task = self._making_sure.get(node.name)
        if task is None:
            task = asyncio.create_task(self._make_sure(node, command.detail), name=f"is {node.name} there")
            self._making_sure[node.name] = task
            task.add_done_callback(lambda done: self._making_sure.pop(node.name, None))
        await asyncio.wait((task,))  # one question for all that wait for it, whoever of them gives up

    async def _make_sure(self, node: Node, call: str) -> None:
        asked_at = self._clock.monotonic()
        try:
            await asyncio.wait_for(self._workers.running(node.name), ANSWER_PATIENCE / SECOND)
        except (Unavailable, TimeoutError) as error:
            if self._heard_at.get(node.name, 0.0) > asked_at:
                return  # it spoke of itself meanwhile
            log.warning("%s counts as silent: a call failed there (%s), and its worker: %s", node.name, call, error)
            self._report(ReportSilence(node=node.name, call=call), node.name)
        except InterlockError as error:
            log.warning("%s did not say what it runs: %s", node.name, error)

    def sweep(self) -> None:
        """To be called about once a second: who has been silent for too long, and is it time to ask everybody?

        Who misses its heartbeats is asked before it counts as silent: they go through one gateway, which may be down,
        and the question through the broker.
        Time in which nobody looked is not held against the nodes: this process was stopped, and could not hear them.
        """
        now = self._clock.monotonic()
        state = self._state()
        patience_s = state.settings.unreachable_after / SECOND
        stopped_s = now - self._swept_at - patience_s / 3
        self._swept_at = now
        for node in self._at_work():
            heard_at = self._heard_at.setdefault(node.name, now)
            if stopped_s > 0:
                heard_at = self._heard_at[node.name] = heard_at + stopped_s
            if now - heard_at > patience_s:
                self._heard_at[node.name] = now
                self._report(ReportSilence(node=node.name), node.name)
            elif node.name not in self._answered or now - heard_at > patience_s / 2:
                self.ask(node.name)
        if now - self._asked_at >= state.settings.reconcile_interval / SECOND:
            self._asked_at = now
            for node in state.nodes.values():
                if node.status in _AT_WORK or node.status is NodeStatus.UNREACHABLE:
                    self.ask(node.name)

    async def close(self) -> None:
        """Ask no more."""
        tasks = [*self._asking.values(), *self._making_sure.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _at_work(self) -> list[Node]:
        return [node for node in self._state().nodes.values() if node.status in _AT_WORK]

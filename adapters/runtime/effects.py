"""Carries out effects on the workers, and feeds their answers back as commands.

One perform at a time per operation, a bounded number in all. A worker that does not answer is asked again as long as
the committed state still waits for it; the core's own deadlines end that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from interlock.domain.commands import Command
from interlock.domain.effects import Effect, ReplicaEffect, StopStray
from interlock.domain.errors import Fenced, Unavailable
from interlock.domain.loads import pending_effect, stop_stray
from interlock.domain.ports import WorkerPort
from interlock.domain.state import State

log = logging.getLogger(__name__)

_AT_ONCE = 2048
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0


class Effects:
    """The dispatcher of one term. ``epoch`` and ``state`` give the present ones; ``report`` takes the answers."""

    def __init__(
        self,
        workers: WorkerPort,
        *,
        epoch: Callable[[], int],
        state: Callable[[], State],
        report: Callable[[Command, str], None],
    ) -> None:
        self._workers = workers
        self._epoch, self._state, self._report = epoch, state, report
        self._running: dict[str, asyncio.Task[None]] = {}
        self._room = asyncio.Semaphore(_AT_ONCE)

    @property
    def running(self) -> int:
        """Operations under way."""
        return len(self._running)

    def dispatch(self, effects: Iterable[Effect]) -> None:
        """Begin what is not under way already."""
        for effect in effects:
            if effect.op not in self._running:
                task = asyncio.create_task(self._carry_out(effect), name=f"effect {effect.name} {effect.op}")
                self._running[effect.op] = task
                task.add_done_callback(partial(self._done, effect.op))

    async def close(self) -> None:
        """Let go of everything: whoever leads next sends it again."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _done(self, op: str, task: asyncio.Task[None]) -> None:
        self._running.pop(op, None)
        if not task.cancelled() and task.exception() is not None:
            log.error("an effect ended with a defect", exc_info=task.exception())

    async def _carry_out(self, effect: Effect) -> None:
        pause_s = _FIRST_PAUSE_S
        wanted: Effect | None = effect
        while wanted is not None:
            async with self._room:
                answers = await self._perform(wanted)
            if answers is not None:
                for answer in answers:
                    self._report(answer, wanted.op)
                return
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            wanted = still_wanted(self._state(), wanted)

    async def _perform(self, effect: Effect) -> Sequence[Command] | None:
        """The worker's answer, or None when nothing is known."""
        try:
            return await self._workers.perform(effect, self._epoch())
        except Unavailable as error:
            log.info("%s %s on %s is tried again: %s", effect.name, effect.op, effect.node, error)
        except Fenced as error:
            # Either a newer writer leads, and this term ends soon, or we took a newer epoch meanwhile: both are settled
            # by asking again.
            log.warning("%s %s on %s: %s", effect.name, effect.op, effect.node, error)
        return None


def still_wanted(state: State, effect: Effect) -> Effect | None:
    """The effect as the state calls for it now; None when it no longer waits for this operation."""
    if isinstance(effect, StopStray):
        return stop_stray(state, effect.node, effect.process) if (effect.node, effect.process) in state.strays else None
    if not isinstance(effect, ReplicaEffect):
        return None
    replica = state.replicas.get(effect.replica)
    now = pending_effect(state, replica) if replica is not None else None
    return now if now is not None and now.op == effect.op else None

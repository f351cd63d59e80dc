"""The engine: a state, its ledger, and the one way to move them: decide a command, or fold a recorded event.

Production, the simulator and the explorer all drive the core through this module.
"""

from __future__ import annotations

import msgspec

from .commands import AnyReply
from .effects import Effect
from .events import Event
from .recording import Recorded


class Outcome(msgspec.Struct, frozen=True):
    """What deciding one command, with all its follow-ups, has brought.

    ``recorded[i]`` is the stored form of ``events[i]``. ``effects`` may leave, and ``reply`` may be given, once they
    are durable. ``answers`` are the ends of waiting requests that these events brought: request id to reply.
    """

    recorded: tuple[Recorded, ...]
    events: tuple[Event, ...]
    reply: AnyReply
    effects: tuple[Effect, ...]
    answers: dict[str, AnyReply]
    repeated: bool = False

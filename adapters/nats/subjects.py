"""The subjects by name. A node's name becomes one token of a subject, as in LocalAI."""

from __future__ import annotations

from typing import Final

COMMANDS: Final = "interlock.commands"
EVENTS: Final = "interlock.events"
EVENTS_STREAM: Final = "INTERLOCK_EVENTS"

INSTALL: Final = "backend.install"
UPGRADE: Final = "backend.upgrade"
LIST: Final = "backend.list"
STOP: Final = "backend.stop"
DELETE: Final = "backend.delete"
STAGE: Final = "model.stage"
UNLOAD: Final = "model.unload"
MODEL_STOP: Final = "model.stop"
MODEL_DELETE: Final = "model.delete"
RUNNING: Final = "models.running"

ALL_PROGRESS: Final = ("nodes.*.backend.install.*.progress", "nodes.*.model.stage.*.progress")
ALL_DEATHS: Final = "nodes.*.replica.died"

_RESERVED = str.maketrans(dict.fromkeys(".*> \t\n\r", "-"))


def token(name: str) -> str:
    """``name`` as one token of a subject. Two names may share a token, so orders carry the node's full name too."""
    return name.translate(_RESERVED) or "-"


def order(node: str, verb: str) -> str:
    """Where a worker takes orders of this kind."""
    return f"nodes.{token(node)}.{verb}"


def progress(node: str, verb: str, op: str) -> str:
    """Where a worker tells how far an install or a staging is."""
    return f"nodes.{token(node)}.{verb}.{token(op)}.progress"


def died(node: str) -> str:
    """Where a worker tells that a replica's process has ended by itself."""
    return f"nodes.{token(node)}.replica.died"


def event(stream: str, topic: str) -> str:
    """Where an event goes: ``interlock.events.{aggregate}.{event}``."""
    aggregate = stream.partition(":")[0]
    return f"{EVENTS}.{token(aggregate)}.{token(event_name(topic))}"


def event_name(topic: str) -> str:
    """The event's class in a topic: ``NodeRegistered`` in ``interlock.NodeRegistered.v1``."""
    parts = topic.split(".")
    if len(parts) > 1 and parts[-1][:1] == "v" and parts[-1][1:].isdigit():
        parts.pop()
    return parts[-1]

"""The kinds of a wait: the words that logs hold, and what is said of each."""

import msgspec
import pytest

from interlock.adapters.audit.sentences import waits_for
from interlock.domain import events as ev
from interlock.domain.codec import TOPICS, decode_event, encode_state
from interlock.domain.entities import Wait, WaitKind
from interlock.domain.requests import _WAITED_FOR

IN_EVENTS = [kind for kind in WaitKind if kind not in (WaitKind.WOKEN, WaitKind.TURN)]


def queued(kind: str) -> bytes:
    """A stored RequestQueued with that word for what it waits for."""
    event = ev.RequestQueued(
        at=1, model="m", request="q", wait=Wait(WaitKind(kind), "r-1"), holder="h", arrival=1, deadline=9
    )
    return encode_state(event)


def decoded(state: bytes) -> ev.RequestQueued:
    event = decode_event(TOPICS[ev.RequestQueued], state)
    assert isinstance(event, ev.RequestQueued)
    return event


@pytest.mark.parametrize("kind", WaitKind)
def test_a_kind_is_stored_as_its_word_and_read_as_its_member(kind: WaitKind) -> None:
    state = queued(kind.value)
    assert f'"wait":{{"kind":"{kind.name.lower()}","on":"r-1"}}'.encode() in state
    assert decoded(state).wait.kind is kind


def test_a_kind_that_a_newer_program_wrote_is_read_and_written_back_as_it_stands() -> None:
    state = queued("busy").replace(b'"busy"', b'"moonlight"')
    event = decoded(state)
    assert event.wait.kind == "moonlight"
    assert event.wait.kind not in WaitKind.__members__.values()
    assert event.wait == decoded(state).wait, "two of one word are the same wait"
    assert encode_state(event) == state
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(event.wait), type=Wait) == event.wait
    assert waits_for(event.wait) == "for moonlight"


def test_what_is_no_word_is_no_kind() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"wait\.kind"):
        decoded(queued("busy").replace(b'"busy"', b"7"))
    with pytest.raises(ValueError, match="not a valid WaitKind"):
        WaitKind(7)


@pytest.mark.parametrize("kind", IN_EVENTS)
def test_each_kind_that_an_event_may_hold_has_its_sentences(kind: WaitKind) -> None:
    assert kind in _WAITED_FOR, "what a refusal at the deadline says"
    assert waits_for(Wait(kind)) != f"for {kind}", "what an operator reads"

"""What a parked wish lacks, and the changes that may bring it: the words that logs hold, and what is said of each."""

import msgspec
import pytest
from msgspec.structs import replace

from interlock.adapters.audit.sentences import _LACKS, sentence
from interlock.domain import engine
from interlock.domain import events as ev
from interlock.domain.codec import TOPICS, decode_event, encode_state
from interlock.domain.commands import ChangeKind, Review, StartEpoch
from interlock.domain.engine import Engine
from interlock.domain.entities import Lack, Parked
from interlock.domain.parking import CURES
from interlock.domain.refusals import RefusalCode
from tests.domain.cluster import Cluster
from tests.golden.story import tell

IN_EVENTS = [lack for lack in Lack if lack is not Lack.THAW]


def stored(lacks: str = "capacity", reason: str = "capacity_exhausted") -> bytes:
    """A stored ModelParked with those words."""
    return encode_state(ev.ModelParked(at=1, model="m", reason=RefusalCode(reason), lacks=Lack(lacks)))


def decoded(state: bytes) -> ev.ModelParked:
    event = decode_event(TOPICS[ev.ModelParked], state)
    assert isinstance(event, ev.ModelParked)
    return event


def test_every_lack_that_a_wish_can_be_parked_for_has_changes_that_may_bring_it() -> None:
    assert list(CURES) == IN_EVENTS
    assert all(CURES.values())


def test_each_kind_of_change_comes_about_and_what_may_bring_something_is_one_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: set[ChangeKind] = set()
    review_after = engine.review_after

    def noting(*given: object) -> Review | None:
        review = review_after(*given)
        seen.update([review.change] if review is not None else [])
        return review

    monkeypatch.setattr(engine, "review_after", noting)
    tell().send(StartEpoch(epoch=9, writer="next"))
    assert seen == set(ChangeKind)
    assert {type(change) for change in seen} == {ChangeKind}
    assert set().union(*CURES.values()) == seen - {ChangeKind.QUEUE, ChangeKind.UNPARK}


@pytest.mark.parametrize("lack", Lack)
def test_a_lack_is_stored_as_its_word_and_read_as_its_member(lack: Lack) -> None:
    state = stored(lack.value)
    assert f'"lacks":"{lack.name.lower().replace("_", " ")}"'.encode() in state
    assert decoded(state).lacks is lack


@pytest.mark.parametrize("code", RefusalCode)
def test_the_reason_of_a_parked_wish_is_stored_as_its_word_and_read_as_its_member(code: RefusalCode) -> None:
    state = stored(reason=code.value)
    assert f'"reason":"{code.name.lower()}"'.encode() in state
    assert decoded(state).reason is code


def test_words_that_a_newer_program_wrote_are_read_and_written_back_as_they_stand() -> None:
    state = stored().replace(b'"capacity"', b'"moonlight"').replace(b'"capacity_exhausted"', b'"too_dark"')
    event = decoded(state)
    assert (event.lacks, event.reason) == ("moonlight", "too_dark")
    assert event.lacks not in Lack.__members__.values()
    assert event == decoded(state), "two of the same words are the same"
    assert encode_state(event) == state
    parked = Parked(event.reason, event.lacks)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(parked), type=Parked) == parked
    assert sentence(event) == "The wish for m is parked (too_dark) until moonlight."


@pytest.mark.parametrize("change", ChangeKind)
def test_a_wish_that_lacks_what_only_a_newer_program_knows_is_tried_again_at_any_change(change: ChangeKind) -> None:
    cluster = Cluster()
    cluster.node("a", vram=8)
    cluster.model("m", vram=9, min_replicas=1)
    rows = [replace(row, state=row.state.replace(b'"lacks":"node"', b'"lacks":"moonlight"')) for row in cluster.log]
    cluster.engine = Engine().replay(rows)
    assert cluster.state.models["m"].parked == Parked(RefusalCode.NEVER_FITS, Lack("moonlight"))
    cluster.send(Review(change=change, cause="something changed", models=("m",)))
    assert cluster.state.models["m"].parked == Parked(RefusalCode.NEVER_FITS, Lack.NODE)


@pytest.mark.parametrize("field", ["lacks", "reason"])
def test_what_is_no_word_is_no_lack_and_no_reason(field: str) -> None:
    word = {"lacks": b'"capacity"', "reason": b'"capacity_exhausted"'}[field]
    with pytest.raises(msgspec.ValidationError, match=field):
        decoded(stored().replace(word, b"7"))


@pytest.mark.parametrize("lack", IN_EVENTS)
def test_an_operator_reads_in_a_sentence_what_each_lack_is(lack: Lack) -> None:
    assert lack in _LACKS
    assert f"until {_LACKS[lack]}" in sentence(decoded(stored(lack.value)))

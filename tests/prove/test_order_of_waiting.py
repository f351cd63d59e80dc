"""What the order of waiting is held against: only the first in line for a model says what that model lacks."""

from __future__ import annotations

from interlock.domain import events as ev
from interlock.simulation.prove import image
from interlock.simulation.prove.actions import perform, possible
from interlock.simulation.prove.image import Vocabulary
from interlock.simulation.prove.scope import Scope
from interlock.simulation.prove.situation import Situation
from interlock.simulation.prove.start import begin
from tests.prove.support import model, one_node

ALPHA, BETA = 0, 1


def after(scope: Scope, situation: Situation, *key: object) -> Situation:
    """The situation after the one action whose key begins so."""
    actions = possible(situation, image.take(situation, Vocabulary()), scope)
    found = [action for action in actions if action.key[: len(key)] == key]
    assert found, [action.key for action in possible(situation, image.take(situation, Vocabulary()), scope)]
    following = situation.fork()
    perform(following, found[0])
    return following


def waits(situation: Situation) -> list[str]:
    return [request.wait.kind for request in situation.state.requests.values() if request.wait is not None]


def test_a_request_behind_one_that_waits_for_its_next_try_is_passed_by_nobody() -> None:
    scope = one_node(model("alpha"), model("beta"), requests=4, failures=1)
    situation = begin(scope)
    for key in (
        ("arrive", BETA), ("answer", "beta"), ("answer", "beta"),
        ("arrive", ALPHA), ("arrive", ALPHA),
    ):  # fmt: skip
        situation = after(scope, situation, *key)
    assert waits(situation) == ["capacity", "capacity"]
    for key in (("release", 0), ("answer", "beta"), ("fail", "alpha")):
        situation = after(scope, situation, *key)
    assert waits(situation) == ["backoff", "capacity"]  # what the second came with, and not what it lacks now

    situation = after(scope, situation, "answer", "alpha")
    situation = after(scope, situation, "arrive", BETA)

    reserved = [event for event in situation.witness.seen if isinstance(event, ev.ReplicaReserved)]
    assert [event.model for event in reserved] == ["beta"]
    assert situation.witness.findings == []

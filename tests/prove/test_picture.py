"""What a picture keeps and leaves out, and that situations with one picture go on alike."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import fields, replace

from interlock.domain import routing
from interlock.domain.commands import AcquireLock
from interlock.domain.entities import Model, Node, Phase, Replica, Request, RequestStatus, Wait, WaitKind
from interlock.domain.explanation import Explanation
from interlock.domain.settings import Settings
from interlock.domain.state import State
from interlock.domain.units import GIB, SECOND
from interlock.simulation.prove import explore as explore_module
from interlock.simulation.prove import image
from interlock.simulation.prove.actions import bring, perform, possible, room_for
from interlock.simulation.prove.explore import Exploration
from interlock.simulation.prove.image import Vocabulary
from interlock.simulation.prove.scope import Scope, ScopeNode
from interlock.simulation.prove.scopes import load_scope
from interlock.simulation.prove.situation import Situation, pack, unpack
from interlock.simulation.prove.start import begin
from interlock.simulation.world import NodeFacts
from tests.prove.support import explore, model, one_node

SCOPE = one_node(model("alpha"), model("beta"), requests=3, failures=1, hangs=1)
MISFORTUNES = {"crashes": 1, "partitions": 1, "kills": 1, "delays": 1, "goodbyes": 1, "departures": 1, "repeats": 1}
EVERYTHING = replace(SCOPE, resources=SCOPE.resources | MISFORTUNES)


def walk(scope: Scope, choices: list[int], *, later: int = 0, first_number: int = 0) -> tuple[list[bytes], Situation]:
    """The pictures along a walk that always takes the chosen of the possible actions, in order of key.

    ``later`` shifts the clock, ``first_number`` the numbers that replicas and requests get.
    """
    words, situation = Vocabulary(), begin(scope)
    situation.now += later
    situation.state.reservations += first_number
    situation.state.arrivals += first_number
    pictures = [image.take(situation, words).key]
    for choice in choices:
        picture = image.take(situation, words)
        actions = sorted(possible(situation, picture, scope), key=lambda action: str(action.key))
        if not actions:
            break
        after = situation.fork()
        perform(after, actions[choice % len(actions)])
        situation = after
        pictures.append(image.take(situation, words).key)
    return pictures, situation


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=14), st.integers(1, 10**9), st.integers(1, 400))
def test_names_numbers_and_the_hour_are_outside_the_picture(choices: list[int], later: int, number: int) -> None:
    here, _ = walk(EVERYTHING, choices)
    there, _ = walk(EVERYTHING, choices, later=later, first_number=number)
    assert len(set(here)) == len(set(there))
    assert [here.index(key) for key in here] == [there.index(key) for key in there]


def test_one_vocabulary_gives_equal_bytes_for_walks_that_differ_in_names_alone() -> None:
    words = Vocabulary()
    keys = set()
    for number in (0, 77):
        situation = begin(SCOPE)
        situation.state.reservations += number
        situation.now += number
        for kind in ("arrive", "answer"):
            picture = image.take(situation, words)
            action = next(a for a in possible(situation, picture, SCOPE) if a.key[0] == kind)
            situation = situation.fork()
            perform(situation, action)
        keys.add(image.take(situation, words).key)
    assert len(keys) == 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=12))
def test_a_step_leaves_its_origin_as_it_was(choices: list[int]) -> None:
    """Also one of which the core hears nothing, and for which no engine is forked."""
    _, situation = walk(EVERYTHING, choices)
    words = Vocabulary()
    before = image.take(situation, words)
    for action in possible(situation, before, EVERYTHING):
        perform(room_for(situation, action), action)
    assert image.take(situation, words).key == before.key


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=12))
def test_nothing_is_offered_that_the_scope_has_none_of(choices: list[int]) -> None:
    """An action that no state can ever take would have its picture's situation kept for good."""
    _, situation = walk(EVERYTHING, choices)
    picture = image.take(situation, Vocabulary())
    for action in possible(situation, picture, SCOPE):
        assert not action.resource or SCOPE.amount(action.resource), action.key


@pytest.mark.parametrize("name", ["growth", "cut-off", "doomed-floor"])
def test_a_state_that_a_snapshot_kept_goes_on_as_the_live_one_would_have(name: str) -> None:
    """In every state of the scope, whatever happens next."""
    scope = load_scope(name)
    words, todo, seen = Vocabulary(), [begin(scope)], set()
    while todo:
        live = todo.pop()
        kept = unpack(pack(live))
        picture = image.take(live, words)
        assert image.take(kept, words).key == picture.key
        actions = {action.key: action for action in possible(live, picture, scope) if not action.resource}
        again = {action.key: action for action in possible(kept, picture, scope) if not action.resource}
        assert list(actions) == list(again)
        for key, action in actions.items():
            after, beside = live.fork(), kept.fork()
            perform(after, action)
            perform(beside, again[key])
            found = image.take(after, words).key
            assert image.take(beside, words).key == found, f"{key} after {action.about}"
            if found not in seen:
                seen.add(found)
                todo.append(after)
    assert seen


def test_a_fork_shares_no_container() -> None:
    state = begin(SCOPE).state
    fork = state.fork()
    for name in State.__slots__:
        value = getattr(state, name)
        if isinstance(value, dict | list):
            assert getattr(fork, name) is not value, f"{name} is shared between forks"


def test_every_field_of_an_entity_is_in_the_picture_or_said_to_be_left_out() -> None:
    """A field that is added must be told apart by the picture, or be given a reason why it need not be."""
    in_picture = {
        Replica: {
            "model", "node", "index", "phase", "claim", "owed_in", "drops", "disk", "silent_at", "held", "beneficiary",
            "evictable_at", "tries", "room_by", "trial_until",
        },
        Request: {"model", "holder", "tenant", "priority", "status", "replica", "wait", "passes", "prefix"},
        Node: {
            "name", "status", "approved", "drained", "worker_labels", "operator_labels", "pools", "foreign", "budget",
            "ram", "disk", "max_replicas_per_model", "gpu_vendor", "labels",
            "emptied", "machine", "load_rate", "stage_rate", "unified", "slots_set", "budget_set", "worker_slots",
            "worker_budget", "drained_by_worker", "left",
        },
        Model: {
            "name", "aliases", "scheduling", "declared_spec", "serving_spec", "failed_nodes", "died_on",
        },
    }  # fmt: skip
    left_out = {
        Replica: image.REPLICA_LEFT_OUT, Request: image.REQUEST_LEFT_OUT, Node: image.NODE_LEFT_OUT,
        Model: image.MODEL_LEFT_OUT,
    }  # fmt: skip
    for entity, kept in in_picture.items():
        names = {field.name for field in fields(entity)}
        assert names == kept | set(left_out[entity]), f"{entity.__name__}: {names ^ (kept | set(left_out[entity]))}"


def test_a_change_of_what_decisions_read_changes_the_picture() -> None:
    situation = begin(load_scope("orin-thor"))
    words = Vocabulary()
    before = image.take(situation, words).key
    replica = next(iter(situation.state.replicas.values()))
    changed = {
        "evictable_at": situation.now + 5, "disk": 7, "held": True, "tries": 2, "owed_in": ((0, 1),), "revision": 9,
        "drops": (("m", 1, 1),), "used_at": situation.now, "silent_at": situation.now + 9,
        "trial_until": situation.now + 9,
    }  # fmt: skip
    seen = set()
    for field, value in changed.items():
        if field == "silent_at":
            continue  # of a loaded replica it means nothing
        situation.state.replicas[replica.id] = replace(replica, **{field: value})
        seen.add(image.take(situation, words).key)
        situation.state.replicas[replica.id] = replica
    assert before not in seen
    assert len(seen) == len(changed) - 1


def test_what_a_request_behind_the_first_in_line_was_told_when_it_came_is_outside_the_picture() -> None:
    situation, words = begin(one_node(model("alpha"), requests=3)), Vocabulary()
    for number in range(3):
        situation.now += 1
        situation.handle(AcquireLock(request=f"r{number}", model="alpha", holder="g"))

    def with_wait(request: str, wait: Wait) -> bytes:
        before = situation.state.requests[request]
        situation.state.requests[request] = replace(before, wait=wait)
        key = image.take(situation, words).key
        situation.state.requests[request] = before
        return key

    history = (Wait(WaitKind.BUSY), Wait(WaitKind.CAPACITY), Wait(WaitKind.LOAD, "one that is over"))
    assert len({with_wait("r2", wait) for wait in history}) == 1
    assert len({with_wait("r0", wait) for wait in history}) == len(history), "the first says what its model lacks"
    load = next(iter(situation.state.replicas))
    leaving = Wait(WaitKind.LEAVING, "one that leaves")
    still_read = (Wait(WaitKind.LOAD, load), leaving, Wait(WaitKind.BACKOFF, until=situation.now + SECOND))
    assert len({with_wait("r2", wait) for wait in (*still_read, *history)}) == len(still_read) + 1


def test_whether_the_deadline_of_a_lock_has_passed_is_in_the_picture_and_how_far_it_is_to_come_is_not() -> None:
    situation = begin(load_scope("backend-gone"))
    situation.handle(AcquireLock(request="r", model="alpha", holder="g"))
    words, now = Vocabulary(), situation.now
    locked = replace(situation.state.requests["r"], status=RequestStatus.LOCKED, wait=None)
    situation.state.queues.clear()
    keys = []
    for deadline in (now - 1, now + SECOND, now + 2 * SECOND):
        situation.state.requests["r"] = replace(locked, deadline=deadline)
        keys.append(image.take(situation, words).key)
    assert keys[0] != keys[1] == keys[2]


def test_a_lock_whose_deadline_comes_with_something_else_is_told_from_one_whose_does_not() -> None:
    """Then both will have passed; the lock may be lost after that, and its request routed again."""
    situation = begin(one_node(model("alpha"), requests=1))
    situation.handle(AcquireLock(request="r", model="alpha", holder="g"))
    replica = next(iter(situation.state.replicas.values()))
    words, comes = Vocabulary(), replica.silent_at
    waiting = situation.state.requests["r"]
    situation.state.queues.clear()
    situation.state.locks[replica.id] = {"r": None}
    keys = []
    for deadline in (comes, comes + 1, comes + 2):
        situation.state.requests["r"] = replace(waiting, status=RequestStatus.LOCKED, wait=None, deadline=deadline)
        keys.append(image.take(situation, words).key)
    assert keys[0] != keys[1] == keys[2]


def two_that_leave(*, patience: int, swapped: bool) -> bytes:
    """The picture of two replicas of two models on two nodes, both of which leave, the older here or there."""
    scope = one_node(model("alpha"), model("beta"), settings=Settings(min_residency=0, unload_patience=patience))
    nodes = tuple(ScopeNode(NodeFacts(name=name, pools=(16 * GIB,))) for name in ("first", "second"))
    situation = begin(replace(scope, nodes=nodes))
    for number, name in enumerate(("alpha", "beta")):
        situation.now += 1
        situation.handle(AcquireLock(request=f"r{number}", model=name, holder="g"))
    state = situation.state
    serials = [replica.serial for replica in state.replicas.values()]
    for replica, serial in zip(list(state.replicas.values()), reversed(serials) if swapped else serials, strict=True):
        state.replicas[replica.id] = replace(replica, phase=Phase.UNLOADING, serial=serial)
    return image.take(situation, Vocabulary()).key


def test_which_of_two_that_leave_is_older_is_in_the_picture_where_their_room_is_waited_for() -> None:
    assert two_that_leave(patience=30 * SECOND, swapped=False) != two_that_leave(patience=30 * SECOND, swapped=True)
    assert two_that_leave(patience=0, swapped=False) == two_that_leave(patience=0, swapped=True)


def test_in_which_order_nodes_and_models_came_to_have_replicas_is_outside_the_picture() -> None:
    situation, words = begin(load_scope("orin-thor")), Vocabulary()
    state = situation.state
    for at, name in enumerate(("qwen3-8b", "never-served"), 70):  # two on each node
        for replica in [one for one in state.replicas.values() if one.model == "qwen3-8b"][:2]:
            copy = replace(replica, id=f"{replica.id}-{at}", serial=at, index=at, model=name)
            state.replicas[copy.id] = copy
            state.by_node[copy.node][copy.id] = state.by_model.setdefault(name, {})[copy.id] = None
    before = image.take(situation, words).key
    for group in (state.by_node, state.by_model):
        turned = dict(reversed(group.items()))
        group.clear()
        group.update(turned)
    assert image.take(situation, words).key == before


def test_a_stay_that_is_brought_to_its_end_keeps_its_place_among_the_others() -> None:
    state = State()
    for serial, until in enumerate((50, 30, 40), 1):
        replica = Replica(f"r{serial}", serial, "m", "n", serial, 1, Phase.LOADED, (), 0, 0, evictable_at=until)
        state.replicas[replica.id] = replica
        state.index_stay(replica)
    bring(state, 50, 35)
    assert state.stays == [(30, 2, "r2"), (35, 1, "r1"), (40, 3, "r3")]


def test_explanations_decide_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exploration leaves them out; with them it finds the same graph."""
    explained = []
    survey = routing.survey

    def counted(*args: object, **named: object) -> Explanation:
        explained.append(args)
        return survey(*args, **named)

    monkeypatch.setattr(routing, "survey", counted)
    fast = explore(SCOPE)
    assert not explained
    monkeypatch.setattr(explore_module, "EXPLAINING", ())
    slow = explore(SCOPE)
    assert explained
    assert (len(fast.parents), len(fast.cores), fast.edge_count) == (
        len(slow.parents),
        len(slow.cores),
        slow.edge_count,
    )


# --- requests that wait alike ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["orin-thor", "two-models-one-slot", "two-priorities-one-slot", "two-tenants-one-slot"]
)
def test_exchanging_requests_that_wait_alike_spares_steps_and_changes_nothing(name: str) -> None:
    scope = load_scope(name)
    scope = replace(scope, resources=scope.resources | {"requests": 4})
    short, whole = (Exploration(scope, begin(scope), mirrored=mirrored).run(3_000) for mirrored in (True, False))
    assert list(short.index) == list(whole.index)
    assert short.parents == whole.parents
    assert (short.edge_count, short.bound, short.violations) == (whole.edge_count, whole.bound, whole.violations)
    for one, other in zip(short.cores, whole.cores, strict=True):
        assert one.edges == other.edges


def waiting_alike(*deadlines: int) -> tuple[Situation, dict[int, int]]:
    """Requests that wait for one load, their deadlines that far away; and which of them are found to wait alike."""
    situation, words = begin(one_node(model("alpha"), requests=len(deadlines))), Vocabulary()
    for number, deadline in enumerate(deadlines):
        situation.now += 1
        until = situation.now + deadline
        situation.handle(AcquireLock(request=f"r{number}", model="alpha", holder="g", deadline=until))
    return situation, image.alike_before(situation, image.take(situation, words), words)


def test_requests_that_differ_in_their_deadlines_alone_wait_alike() -> None:
    _, alike = waiting_alike(10 * SECOND, 11 * SECOND, 12 * SECOND)
    assert alike == {2: 1}, "for the first of them the load was begun: it has made a step of its own"


def test_a_deadline_that_something_else_shares_tells_a_request_from_others() -> None:
    """What comes with it comes for that request alone."""
    situation, alike = waiting_alike(10 * SECOND, 11 * SECOND, 12 * SECOND, 11 * SECOND - 2)
    deadlines = [request.deadline for request in situation.state.requests.values()]
    assert deadlines[1] == deadlines[3]
    assert alike == {}

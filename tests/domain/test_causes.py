"""The cause of a load: what is written is read back, and no kind is taken for another."""

from hypothesis import given
from hypothesis import strategies as st

from interlock.adapters.planwords import _placed
from interlock.domain import causes
from interlock.domain import events as ev
from interlock.domain.causes import LoadCause
from interlock.domain.codec import decode_event
from interlock.domain.planning import Placed
from interlock.domain.rehearsal import Step
from interlock.simulation import run

NAMES = st.one_of(
    st.text(min_size=1),
    st.sampled_from(
        ["q: x", "of m", "request q", "floor of m", "revision 1 of m", "x released it", "an operator asked"]
    ),
)


def kinds_of(cause: LoadCause) -> list[str]:
    """Every kind that the readers see in it."""
    seen = {
        "request": causes.requester(cause) is not None,
        "floor": causes.is_of_floor(cause),
        "revision": causes.revision_of(cause) is not None,
        "operator": cause == causes.OPERATOR,
        "scenario": cause == causes.SCENARIO,
        "untold": cause == causes.UNTOLD,
    }
    return [kind for kind, is_it in seen.items() if is_it]


def test_the_words_are_those_that_logs_hold() -> None:
    assert causes.of_request("q-1") == "request q-1"
    assert causes.of_floor("m") == "floor of m"
    assert causes.of_floor("m", "node n1 registered") == "floor of m: node n1 registered"
    assert causes.of_revision("m", 3) == "revision 3 of m"
    assert causes.OPERATOR == "an operator asked for it"
    assert causes.SCENARIO == "scenario"


@given(NAMES)
def test_the_request_is_read_back_whatever_its_id(request: str) -> None:
    cause = causes.of_request(request)
    assert causes.requester(cause) == request
    assert kinds_of(cause) == ["request"]
    assert causes.is_of_request(cause)
    assert causes.is_of_request_or_floor(cause)


@given(NAMES, st.one_of(st.just(""), NAMES))
def test_what_a_floor_could_be_kept_by_is_read_back_whatever_its_model_is_called(model: str, since: str) -> None:
    cause = causes.of_floor(model, since)
    assert causes.floor_since(cause, model) == since
    assert kinds_of(cause) == ["floor"]
    assert not causes.is_of_request(cause)
    assert causes.is_of_request_or_floor(cause)


@given(NAMES, st.integers(1, 10**12))
def test_the_revision_is_read_back_whatever_its_model_is_called(model: str, revision: int) -> None:
    cause = causes.of_revision(model, revision)
    assert causes.revision_of(cause) == revision
    assert kinds_of(cause) == ["revision"]
    assert not causes.is_of_request_or_floor(cause)


def test_an_operators_load_is_no_ones_request_and_no_floor() -> None:
    for cause, kind in ((causes.OPERATOR, "operator"), (causes.SCENARIO, "scenario"), (causes.UNTOLD, "untold")):
        assert kinds_of(cause) == [kind]
        assert not causes.is_of_request_or_floor(cause)


def test_each_load_of_a_long_history_has_a_cause_of_one_kind() -> None:
    rows = run("mixed-short", seed=3).harness.rows
    events = [decode_event(row.topic, row.state) for row in rows]
    told = [kinds_of(event.cause) for event in events if isinstance(event, ev.ReplicaReserved)]
    assert all(len(kinds) == 1 for kinds in told)
    assert {"request", "floor", "revision"} <= {kind for kinds in told for kind in kinds}


def planned(cause: LoadCause, model: str = "m") -> str:
    """Why a plan says that the replica would be loaded."""
    line = Placed(
        model=model, node="n", replica="r-000001", memory=1, cause=cause, evicts=(), step=Step.NOW, after=0, beside=True
    )  # fmt: skip
    return _placed(line).why


def test_a_plan_says_in_words_why_each_replica_would_be_loaded() -> None:
    assert planned(causes.of_request("q-1")) == "request q-1 waits for it"
    assert planned(causes.of_floor("m")) == "its floor asks for it"
    assert planned(causes.of_floor("m", "node n1 registered")) == "its floor asks for it, since node n1 registered"
    assert planned(causes.of_revision("m", 2)) == "revision 2 comes up beside the one that serves"
    assert planned(causes.OPERATOR) == "an operator asked for it"


def test_a_plan_does_not_take_the_end_of_a_models_name_for_what_changed() -> None:
    assert planned(causes.of_floor("org: m"), "org: m") == "its floor asks for it"
    assert planned(causes.of_floor("org: m", "node n1 registered"), "org: m").endswith(", since node n1 registered")

"""Fair cycles and real durations: what counts as for ever, and what cannot happen."""

from __future__ import annotations

import pytest

from interlock.domain import events as ev
from interlock.domain import loads, reconcile, routing
from interlock.domain.entities import Lack, Wait, WaitKind
from interlock.domain.explanation import Explanation
from interlock.domain.refusals import RefusalCode
from interlock.domain.routing import Hold
from interlock.domain.settings import Settings
from interlock.domain.units import MINUTE, SECOND
from interlock.simulation.mutants.catalogue import activate
from interlock.simulation.prove import prove
from interlock.simulation.prove.actions import Action
from interlock.simulation.prove.counterexample import explain_finding, explain_lasso, solve
from interlock.simulation.prove.cycles import _components, find_lassos
from interlock.simulation.prove.explore import Edge, Label
from interlock.simulation.prove.scopes import load_scope
from tests.prove.support import explore, model, one_node


def graph(*edges: tuple[int, int]) -> list[list[Edge]]:
    size = 1 + max(max(edge) for edge in edges)
    rows: list[list[Edge]] = [[] for _ in range(size)]
    for source, target in edges:
        rows[source].append(Edge(target, Action((f"{source}-{target}",), None), Label()))
    return rows


def test_components_are_found_without_recursion_in_a_long_ring_and_beside_it() -> None:
    ring = [(number, (number + 1) % 5000) for number in range(5000)]
    found = sorted(len(component) for component in _components(graph(*ring, (4, 5000), (5000, 5001), (5001, 5000))))
    assert found == [2, 5000]


def test_a_schedule_is_found_or_the_contradiction() -> None:
    fires_after_ten = (0, 2, 10, True)
    not_overdue = (1, 2, 30, False)
    assert solve(2, [fires_after_ten, not_overdue]) is not None
    overdue = (0, 2, 5, False)
    assert solve(2, [fires_after_ten, overdue]) is None, "what is due after five cannot be waited for until ten"


def test_a_wait_for_ever_is_no_livelock_and_real_code_has_no_cycle() -> None:
    exploration = explore(one_node(model("alpha"), model("beta"), requests=3, hangs=1))
    assert find_lassos(exploration) == []
    assert exploration.violations == {}


def test_a_request_that_looks_again_for_ever_breaks_t_though_its_deadline_would_end_it(monkeypatch) -> None:
    route = routing.route

    def restless(state, model_, now, prefix=()):
        plan = route(state, model_, now, prefix)
        return (
            Hold(Wait(WaitKind.BUSY, until=now + SECOND), explain=lambda: Explanation("again"))
            if isinstance(plan, Hold)
            else plan
        )

    monkeypatch.setattr(routing, "route", restless)
    exploration = explore(one_node(model("alpha"), requests=2))
    lasso = find_lassos(exploration)[0]
    shown = explain_lasso(exploration, lasso)
    assert (shown.property, shown.spurious) == ("T", False)
    assert all("looks again" in line for line in shown.cycle)


def test_a_cycle_that_carries_effects_breaks_q(monkeypatch) -> None:
    """A model that is unloaded as soon as it has loaded, by one rule, and loaded again, by another."""
    monkeypatch.setattr(
        reconcile, "shrink", lambda state, model_, now: [
            loads.unload(state, replica, "too many", now) for replica in state.replicas.values()
            if replica.phase == "loaded"
        ],
    )  # fmt: skip
    exploration = explore(one_node(model("alpha", min_replicas=1), requests=1))
    lassos = [lasso for lasso in find_lassos(exploration) if lasso.property == "Q"]
    shown = explain_lasso(exploration, lassos[0])
    assert "model.load" in lassos[0].words
    assert not shown.spurious
    assert any("unload requested" in line for line in shown.cycle)


@pytest.mark.parametrize(("deadline", "spurious"), [(MINUTE, True), (20 * MINUTE, False)])
def test_what_real_durations_rule_out_is_spurious(deadline: int, spurious: bool, monkeypatch) -> None:
    """A request cannot see its load fall silent after five minutes when its deadline has passed after one."""
    fail = loads.fail

    def wrongly(state, replica, reason, now):
        waiting = state.waiting(replica.model)
        assert not waiting, "a load failed while somebody waited"
        return fail(state, replica, reason, now)

    monkeypatch.setattr(loads, "fail", wrongly)
    settings = Settings(min_residency=0, request_deadline=deadline)
    exploration = explore(one_node(model("alpha"), requests=1, hangs=1, settings=settings))
    (words,) = [words for name, words in exploration.violations if "somebody waited" in words]
    shown = explain_finding(exploration, "invariant", words)
    assert shown.spurious is spurious
    assert "shows no progress" in shown.stem[-1]


def test_a_rule_that_never_settles_is_shown_with_its_rounds(monkeypatch) -> None:
    def stutter(state, model_, command, now):
        again = ev.ModelParked(at=now, model=model_.name, reason=RefusalCode.FROZEN, lacks=Lack.CAPACITY)
        return [again] if state.replicas else []

    monkeypatch.setattr(reconcile, "keep_floor", stutter)
    exploration = explore(one_node(model("alpha"), requests=1))
    broken = [words for name, words in exploration.violations if name == "T"]
    assert broken
    shown = explain_finding(exploration, "T", broken[0])
    assert shown.cycle == ["model parked: alpha (frozen)"]


def test_a_cycle_is_shown_before_a_violation_of_another_kind() -> None:
    with activate("selector-ignored-in-lookup"), activate("wakeup-forgotten"):
        report = prove(load_scope("orin-thor"), mutant="both")
    assert {line[0] for line in report.violations} >= {"T"}
    assert report.counterexample is not None
    assert report.counterexample.property == "T"

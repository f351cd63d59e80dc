"""Own placement rules from entry points: brought in by name, timed, and left out when they are broken."""

from __future__ import annotations

import logging
from importlib.metadata import EntryPoint

import pytest

from interlock.adapters import own_rules
from interlock.adapters.own_rules import GROUP, SLOW_ANSWERS_MAX, install, timed
from interlock.domain.own_rules import Filter, ModelFacts, NodeFacts, Registry, Score
from interlock.domain.own_rules_contract import MODELS, NODES


def half(model: ModelFacts, node: NodeFacts) -> int:
    return 50


EXAMPLE_SCORE = Score(half)
EXAMPLE_FILTER = Filter(lambda model, node: node.name != "bare")
NO_RULE = 7


def entry(name: str, attribute: str) -> EntryPoint:
    return EntryPoint(name, f"{__name__}:{attribute}", GROUP)


def test_rules_come_in_by_the_names_of_their_entry_points() -> None:
    registry = Registry()
    found = (entry("halves", "EXAMPLE_SCORE"), entry("not_bare", "EXAMPLE_FILTER"))
    assert install(registry, found) == ["halves", "not_bare"]
    assert registry.rates("halves", MODELS[0], NODES[0]) == 50
    assert [registry.admits("not_bare", MODELS[0], node) for node in NODES[:2]] == [False, True]
    assert install(registry, found) == [], "once"


@pytest.mark.parametrize(("name", "attribute"), [("lost", "NOT_THERE"), ("pack", "EXAMPLE_SCORE"), ("odd", "NO_RULE")])
def test_a_rule_that_cannot_come_in_is_left_out_with_a_warning(
    name: str, attribute: str, caplog: pytest.LogCaptureFixture
) -> None:
    registry = Registry()
    with caplog.at_level(logging.WARNING):
        assert install(registry, (entry(name, attribute), entry("halves", "EXAMPLE_SCORE"))) == ["halves"]
    assert f"The placement rule {name}" in caplog.text


def test_a_rule_that_is_slow_too_often_is_not_asked_any_more(caplog: pytest.LogCaptureFixture) -> None:
    ticks = iter(range(1000))
    asked = []
    registry = Registry()
    registry.abstained = own_rules._note
    rule = timed(Score(lambda model, node: len(asked.append(node) or asked)), clock=lambda: next(ticks))
    registry.add("slow", rule)
    before = own_rules.abstained["slow"]
    with caplog.at_level(logging.WARNING):
        answers = [registry.rates("slow", MODELS[0], NODES[0]) for _ in range(SLOW_ANSWERS_MAX + 2)]
    assert answers == [1, 2, 3, 0, 0]
    assert len(asked) == SLOW_ANSWERS_MAX
    assert own_rules.abstained["slow"] == before + 2
    assert "it took longer than 10 ms 3 times" in caplog.text
    assert ("slow", before + 2) in list(own_rules.counts())

"""Own filters and scores: they take part where a profile names them, and their mistakes stop nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import msgspec
import pytest

from interlock.domain import commands as cmd
from interlock.domain import events as ev
from interlock.domain.commands import Rejected
from interlock.domain.errors import InvalidField
from interlock.domain.own_rules import RULES, Filter, ModelFacts, NodeFacts, Registry, Score
from interlock.domain.own_rules_contract import MODELS, NODES, breaches
from interlock.domain.units import GIB
from tests.domain.cluster import Cluster, check_invariants, check_replay


def quiet_rack(model: ModelFacts, node: NodeFacts) -> bool:
    """An example: models of priority 1 and more stay out of racks that are marked as noisy."""
    return model.priority < 1 or node.label("rack") != "noisy"


def few_models(model: ModelFacts, node: NodeFacts) -> int:
    """An example: the fewer different models run there, the better."""
    return max(0, 100 - 25 * len(node.models))


EXAMPLES = {"quiet_rack": Filter(quiet_rack), "few_models": Score(few_models)}


@pytest.fixture(autouse=True)
def rules() -> Iterator[Registry]:
    heard = RULES.abstained
    yield RULES
    for name in [*RULES.filters, *RULES.scores]:
        RULES.remove(name)
    RULES.abstained = heard


def cluster_with(profiles: str, **rules: Filter | Score) -> Cluster:
    for name, rule in rules.items():
        RULES.add(name, rule)
    cluster = Cluster()
    cluster.node("loud", vram=80, slots=3, labels={"rack": "noisy"})
    cluster.node("calm", vram=24, slots=3)
    reply = cluster.send(cmd.ChangeSettings(values={"placement_profiles": profiles})).reply
    assert not isinstance(reply, Rejected)
    return cluster


def node_of(cluster: Cluster, model: str) -> str:
    return [e.node for e in cluster.events if isinstance(e, ev.ReplicaReserved) and e.model == model][-1]


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_the_examples_keep_the_contract(name: str) -> None:
    assert breaches(EXAMPLES[name]) == []


def test_an_own_filter_keeps_a_model_off_a_node_and_says_so() -> None:
    cluster = cluster_with("calm: only quiet_rack", **EXAMPLES)
    cluster.model("m", vram=4, priority=1, placement="calm")
    cluster.model("free", vram=4)
    cluster.loaded("m")
    cluster.loaded("free")
    assert (node_of(cluster, "m"), node_of(cluster, "free")) == ("calm", "loud")
    why = next(e.explanation for e in cluster.events if isinstance(e, ev.ReplicaReserved))
    rows = {row.node: (row.outcome, row.filter) for row in why.considered}
    assert rows == {"loud": ("rejected", "own:quiet_rack"), "calm": ("chosen", "")}
    check_invariants(cluster)
    check_replay(cluster)


def test_an_own_filter_holds_for_eviction_too_and_what_it_waits_for_wakes_it() -> None:
    cluster = cluster_with("calm: only quiet_rack", **EXAMPLES)
    cluster.send(cmd.ChangeSettings(values={"min_residency": 0}))
    cluster.model("other", vram=60)
    cluster.loaded("other")
    cluster.model("m", vram=30, priority=1, placement="calm")
    assert cluster.request("r1", "m").kind == "capacity", "it would fit on the noisy node, were that evicted"
    assert cluster.count("ReplicaEvicted") == 0
    cluster.send(cmd.SetNodeLabels(node="loud", labels={"rack": "hushed"}))
    assert cluster.count("ReplicaEvicted") == 1
    cluster.settle()
    assert cluster.state.requests["r1"].replica


def test_an_own_score_is_weighed_like_any_other() -> None:
    cluster = cluster_with("few: few_models 2, locality 1", **EXAMPLES)
    cluster.model("a", vram=4)
    cluster.loaded("a")
    cluster.model("m", vram=4, placement="few")
    cluster.loaded("m")
    reserved = [e for e in cluster.events if isinstance(e, ev.ReplicaReserved)][-1]
    assert (node_of(cluster, "a"), reserved.node) == ("loud", "calm")
    rows = {row.node: row.detail.split("; ")[1] for row in reserved.explanation.considered}
    assert rows == {"loud": "few_models 75×2 + locality 100×1", "calm": "few_models 100×2 + locality 100×1"}
    assert "its score few_models is the best" in reserved.explanation.note


def test_an_own_score_sees_a_node_without_the_victims_that_make_room_there() -> None:
    seen: dict[str, NodeFacts] = {}

    def looks(model: ModelFacts, node: NodeFacts) -> int:
        seen[node.name] = node
        return few_models(model, node)

    cluster = cluster_with("few: few_models 1", few_models=Score(looks))
    cluster.send(cmd.ChangeSettings(values={"min_residency": 0}))
    cluster.model("large", vram=70)
    cluster.model("small", vram=20)
    cluster.loaded("large")
    cluster.loaded("small")
    cluster.model("m", vram=22, placement="few")
    cluster.request("r1", "m")
    assert cluster.count("ReplicaEvicted") == 1
    assert seen["calm"].models == ()
    assert seen["calm"].free == (24 * GIB,)


def _raises(model: ModelFacts, node: NodeFacts) -> int:
    raise RuntimeError("boom")


@pytest.mark.parametrize(
    ("call", "words"),
    [(_raises, "boom"), (lambda m, n: 101, "101"), (lambda m, n: -1, "-1"), (lambda m, n: 0.5, "0.5"),
     (lambda m, n: True, "True"), (lambda m, n: None, "None")],
)  # fmt: skip
def test_a_score_that_is_wrong_abstains_and_is_heard_of(call: Callable[..., int], words: str) -> None:
    heard: list[tuple[str, str]] = []
    RULES.abstained = lambda name, why: heard.append((name, why))
    cluster = cluster_with("odd: wrong 1", wrong=Score(call))
    cluster.model("m", vram=4, placement="odd")
    cluster.loaded("m")
    assert node_of(cluster, "m") == "loud", "equals then: the most free memory"
    assert heard
    assert all(name == "wrong" and words in why for name, why in heard)


@pytest.mark.parametrize("call", [_raises, lambda m, n: 1, lambda m, n: None])
def test_a_filter_that_is_wrong_lets_every_node_pass(call: Callable[..., bool]) -> None:
    cluster = cluster_with("odd: only wrong", wrong=Filter(call))
    cluster.model("m", vram=4, placement="odd")
    cluster.loaded("m")
    assert node_of(cluster, "m") == "loud"


def test_a_log_replays_where_no_rule_is_installed() -> None:
    cluster = cluster_with("few: few_models 1, only quiet_rack", **EXAMPLES)
    cluster.model("m", vram=4, priority=1, placement="few")
    cluster.loaded("m")
    for name in EXAMPLES:
        RULES.remove(name)
    check_replay(cluster)
    cluster.model("m2", vram=4, priority=1, placement="few")
    cluster.loaded("m2")
    assert node_of(cluster, "m2") == "loud", "rules that are not here abstain"


def test_rules_look_and_cannot_touch() -> None:
    with pytest.raises(AttributeError):
        NODES[1].free = (1,)  # type: ignore[misc]  # because it must not be possible


def test_a_name_is_given_once() -> None:
    RULES.add("mine", Score(few_models))
    for name, rule in (("mine", Filter(quiet_rack)), ("pack", Score(few_models)), ("other", few_models)):
        with pytest.raises(InvalidField, match=r"interlock\.placement"):
            RULES.add(name, rule)


_count = itertools.count()


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Score(_raises), "raises RuntimeError: boom"),
        (Score(lambda m, n: 101), "answers 101"),
        (Score(lambda m, n: n.free[0] % 2), "raises IndexError"),
        (Score(lambda m, n: next(_count) % 100), "and later"),
        (Score(lambda m, n: id(n) % 97), "and later"),
        (Filter(lambda m, n: 1), "answers 1, not true or false"),
    ],
)
def test_the_contract_finds_what_a_rule_must_not_do(rule: Filter | Score, words: str) -> None:
    assert any(words in breach for breach in breaches(rule))


def test_the_contracts_facts_are_those_that_rules_are_given() -> None:
    for facts in (*MODELS, *NODES):
        assert msgspec.convert(msgspec.to_builtins(facts), type(facts)) == facts

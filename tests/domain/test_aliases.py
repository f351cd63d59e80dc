"""Aliases that move between models of one file: every turn is allowed, and whoever is stopped can begin again."""

from __future__ import annotations

import random

import pytest

from interlock.domain.aliases import turns
from interlock.domain.commands import DeclareModel, Rejected
from interlock.domain.entities import LoadSpec
from tests.domain.cluster import Cluster


def _model(name: str, *aliases: str) -> DeclareModel:
    return DeclareModel(model=name, aliases=aliases, spec=LoadSpec(backend="echo", vram=1))


def _told(declared: list[DeclareModel], owners: dict[str, str]) -> list[str]:
    return [
        f"{turn.command.model}:{','.join(turn.command.aliases)}" + ("" if not turn.without else " first")
        for turn in turns(declared, owners)
    ]


def test_who_gives_an_alias_away_goes_before_who_takes_it() -> None:
    assert _told([_model("a", "x"), _model("b", "y")], {"x": "a", "y": "b"}) == ["a:x", "b:y"]
    assert _told([_model("a", "x"), _model("b")], {"x": "b"}) == ["b:", "a:x"]
    assert _told([_model("x"), _model("b")], {"x": "b"}) == ["b:", "x:"], "an alias becomes a model's own name"


def test_two_that_exchange_aliases_are_told_in_three_turns() -> None:
    exchanged = [_model("a", "kept", "y"), _model("b", "x")]
    assert _told(exchanged, {"x": "a", "y": "b", "kept": "a"}) == ["a:kept first", "b:x", "a:kept,y"]


def test_a_circle_is_cut_open_once_and_whoever_waits_behind_it_goes_as_it_stands() -> None:
    chain = [_model("a", "x"), _model("b", "y"), _model("c", "z"), _model("d", "new")]
    assert _told(chain, {"w": "a", "x": "b", "y": "c", "z": "d"}) == ["d:new", "c:z", "b:y", "a:x"]
    circle = [_model("behind", "w"), _model("b", "y"), _model("c", "x")]
    assert _told(circle, {"w": "b", "x": "b", "y": "c"}) == ["b: first", "behind:w", "c:x", "b:y"]
    three = [_model("a", "x"), _model("b", "y"), _model("c", "w")]
    assert _told(three, {"w": "a", "x": "b", "y": "c"}) == ["a: first", "c:w", "b:y", "a:x"]


def test_what_no_order_allows_comes_as_it_stands() -> None:
    assert _told([_model("a", "x"), _model("b", "x")], {"x": "b"}) == ["a:x", "b:x"]
    assert _told([_model("a", "x")], {"x": "elsewhere"}) == ["a:x"]


@pytest.mark.parametrize("seed", range(60))
def test_every_turn_is_taken_and_one_who_is_stopped_between_two_begins_again(seed: int) -> None:
    rng = random.Random(f"aliases-{seed}")
    names, aliases = [f"m{n}" for n in range(rng.randint(2, 6))], [f"alias-{n}" for n in range(8)]

    def file() -> list[DeclareModel]:
        owners = {alias: rng.choice(names) for alias in aliases}
        made = [_model(name, *(alias for alias in aliases if owners[alias] == name)) for name in names]
        rng.shuffle(made)
        return made

    cluster = Cluster()
    for command in file():
        cluster.send(command)
    wanted = file()
    for stopped_after in (rng.randint(0, len(wanted)), 99):
        for turn in turns(wanted, cluster.state.aliases)[:stopped_after]:
            assert not isinstance(cluster.send(turn.command).reply, Rejected)
    assert {name: model.aliases for name, model in cluster.state.models.items()} == {
        command.model: command.aliases for command in wanted
    }
    assert len(turns(wanted, cluster.state.aliases)) == len(wanted)

"""The writer's protocol: each promise that is broken on purpose is seen to be."""

from __future__ import annotations

import pytest

from interlock.simulation.mutants.catalogue import activate
from interlock.simulation.prove import protocol, prove
from interlock.simulation.prove.html import page
from interlock.simulation.prove.scopes import PROTOCOL


@pytest.mark.parametrize(
    ("name", "broken", "words"),
    [
        ("is_fenced", lambda taken, epoch: False, "after epoch 2 had begun"),
        ("leaves_when_decided", lambda: True, "before the events that cause it were stored"),
    ],
)
def test_a_broken_promise_is_found(monkeypatch: pytest.MonkeyPatch, name: str, broken: object, words: str) -> None:
    monkeypatch.setattr(protocol, name, broken)
    result = protocol.explore(20_000)
    found = [violation for violation in result.violations if words in violation.words]
    assert found
    assert found[0].property == "S"
    assert found[0].moves


def test_a_worker_that_forgets_epochs_obeys_a_writer_that_was_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = protocol.world.begin
    monkeypatch.setattr(
        protocol.world, "begin", lambda worker, effect, epoch: begin(worker, effect, worker.epoch or epoch)
    )
    heard = protocol.world.perform

    def forgetful(worker, effect, epoch, failure=""):
        after, answers = heard(worker, effect, epoch, failure)
        newest = max(worker.epoch, epoch)
        return protocol.replace(after, epoch=newest), answers

    monkeypatch.setattr(protocol.world, "perform", forgetful)
    result = protocol.explore(60_000)
    assert any("a worker obeys epoch" in violation.words for violation in result.violations)


@pytest.mark.parametrize(
    ("mutant", "words"),
    [("epoch-unchecked", "epoch"), ("effect-before-commit", "before the events that cause it were stored")],
)
def test_the_protocols_mutants_are_found_by_exploring(mutant: str, words: str) -> None:
    with activate(mutant):
        report = prove(PROTOCOL, mutant=mutant)
    assert report.verdict == "fail"
    assert not report.properties["S"].holds
    assert any(words in line for line in report.violations)
    assert report.counterexample is not None
    assert report.counterexample.stem


def test_a_broken_protocol_is_drawn_step_by_step() -> None:
    with activate("epoch-unchecked"):
        report = prove(PROTOCOL, mutant="epoch-unchecked")
    shown = report.counterexample
    assert shown is not None
    assert [move.did for move in shown.moves] == shown.stem
    assert any("stored" in line for line in shown.start)
    assert all(move.changed for move in shown.moves), "each step of the shortest way changes something"
    drawn = page([report])
    assert "<svg" in drawn
    assert drawn.count("writer B") > 1
    assert "real durations" not in drawn, "the protocol has no durations"

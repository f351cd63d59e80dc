"""The page of an exploration: one file that holds every step, the cycle as a loop, and nothing that is not text."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

from click.testing import CliRunner
from msgspec.structs import replace

from interlock.simulation.mutants.catalogue import activate
from interlock.simulation.prove import Report, prove
from interlock.simulation.prove.cli import prove_command
from interlock.simulation.prove.counterexample import Counterexample, Move
from interlock.simulation.prove.diagram import draw
from interlock.simulation.prove.html import page

VOID = {"meta", "br", "rect", "path"}


class Tags(HTMLParser):
    """Wants every element closed in order, and notes what each refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "data", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(text: str) -> Tags:
    tags = Tags()
    tags.feed(text)
    tags.close()
    assert tags.open == []
    return tags


def words_of(text: str) -> str:
    """What a reader sees, on one line."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", text)).split())


def found(mutant: str, scope: str) -> Report:
    with activate(mutant):
        return prove(scope, mutant=mutant)


def test_the_page_of_a_livelock_is_one_file_with_every_step_and_its_cycle_as_a_loop(tmp_path: Path) -> None:
    path = tmp_path / "found.html"
    args = ["--scope", "orin-thor", "--mutant", "selector-ignored-in-lookup", "--html", str(path)]
    result = CliRunner().invoke(prove_command, args, standalone_mode=False, catch_exceptions=False)
    text = path.read_text(encoding="utf-8")
    tags = parsed(text)
    assert result.return_value == 1
    assert tags.references == []
    assert not {"script", "link", "img", "iframe"} & tags.seen
    assert "svg" in tags.seen
    assert "@import" not in text
    assert "url(http" not in text
    told = words_of(text)
    assert "orin-thor under the mutant selector-ignored-in-lookup fail" in told
    assert "a request is decided on again and again" in told
    assert "2. request 1 looks again at its instant" in told
    assert "after step 1, and after each round" in told
    assert "a worker that hears answers what it is asked" in told
    assert "run again with real durations, it shows the same states" in told


def test_every_step_and_every_effect_is_in_the_list_and_on_the_drawing() -> None:
    report = found("unpark-on-anything", "doomed-floor")
    shown = report.counterexample
    assert shown is not None
    assert len(shown.moves) == len(shown.stem) + len(shown.cycle)
    assert [move.line for move in shown.moves] == [*shown.stem, *shown.cycle]
    told, drawn = words_of(page([report])), words_of(draw(shown))
    for number, move in enumerate(shown.moves, start=1):
        assert move.did in told
        assert all(line in told for line in move.told)
        assert f"{number}. {move.did}" in drawn
    effects = [effect for move in shown.moves for effect in move.effects]
    assert any(effect.startswith("backend.install of broken") for effect in effects)
    assert all(f"⚡ {effect}" in told and f"⚡ {effect}" in drawn for effect in effects)
    assert all(move.changed for move in shown.moves)
    assert draw(shown).count('rect x="') == len(shown.moves) + 1 - bool(shown.cycle)


def test_a_scope_that_holds_gets_a_summary() -> None:
    report = prove("backend-gone")
    text = page([report])
    parsed(text)
    told = words_of(text)
    assert f"{report.states:,} states" in told
    assert f"{report.edges:,} steps between them" in told
    assert f"{report.bound} own steps of a request at most" in told
    assert told.count("holds") == 5
    assert "<svg" not in text
    assert parsed(page([report, report])).references == []


def test_what_it_prints_is_escaped_wherever_it_stands() -> None:
    evil = '<script>alert("x")</script> & co'
    report = prove("backend-gone")
    move = Move(("arrive",), f"a request for {evil} arrives", [f"{evil} told"], [f"{evil} sent"], [f"{evil}: loaded"])
    for cycle in ([], [move], [move] * 2, [move] * 5):
        shown = Counterexample(
            "Q", evil, [evil], [evil for _ in cycle], True, [f"{evil}: parked"], [move, *cycle]
        )  # fmt: skip
        text = page(
            [
                replace(
                    report,
                    scope=evil,
                    mutant=evil,
                    verdict="fail",
                    violations=[evil],
                    fairness=[evil],
                    counterexample=shown,
                )
            ]
        )
        assert "script" not in parsed(text).seen
        assert evil in words_of(text)
        assert "it is spurious" in words_of(text)
    bare = Counterexample("S", evil, [evil], [], False)
    assert "script" not in parsed(page([replace(report, counterexample=bare)])).seen


def test_the_drawing_stays_inside_its_frame_and_cards_do_not_overlap() -> None:
    move = Move(("arrive",), "something happens", [], ["model.load of alpha on solo"], ["alpha on solo: loading"])
    for stem in (0, 1, 4):
        for cycle in (0, 1, 2, 3, 7):
            moves = [move] * (stem + cycle)
            drawn = draw(Counterexample("Q", "for ever", [""] * stem, [""] * cycle, False, [], moves))
            width, height = map(int, re.search(r'viewBox="0 0 (\d+) (\d+)"', drawn).groups())
            boxes = [tuple(map(int, box)) for box in re.findall(
                r'<rect x="(\d+)" y="(\d+)" width="(\d+)" height="(\d+)"', drawn)]  # fmt: skip
            assert len(boxes) == stem + max(cycle, 1)
            assert all(x + across <= width and y + down <= height for x, y, across, down in boxes)
            assert all(int(y) <= height for y in re.findall(r'<text x="\d+" y="(\d+)"', drawn))
            for place, (x, y, across, down) in enumerate(boxes):
                for x2, y2, across2, down2 in boxes[place + 1 :]:
                    assert x + across <= x2 or x2 + across2 <= x or y + down <= y2 or y2 + down2 <= y

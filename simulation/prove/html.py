"""The page that shows what exploring has found: one self-contained HTML file, without scripts.

For a counterexample its diagram and its steps as a list, for a scope that holds what was looked at and how far.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from interlock.domain.units import SECOND, format_duration

from .counterexample import Counterexample, Move
from .diagram import draw
from .report import Report

_TEMPLATE = Path(__file__).with_name("page.html")
PROPERTIES = {
    "T": "every request ends after a bounded number of its own steps",
    "U": "no refusal while a usable replica exists, no wait while a warm candidate has room",
    "S": "no route, load or eviction breaks selector, cap, budget, floor, pin, revision or lock",
    "Q": "without new input the system goes quiet",
    "W": "every unfinished request, job and parked wish has a concrete future wake-up",
    "invariant": "locks, slots, memory and holds are what they are counted as, and the core does not break",
}


def page(reports: Sequence[Report]) -> str:
    """One page of these reports."""
    title = f"{reports[0].scope}: {reports[0].verdict}" if len(reports) == 1 else f"{len(reports)} scopes explored"
    body = "".join(_section(report) for report in reports)
    return _TEMPLATE.read_text(encoding="utf-8").replace("{{TITLE}}", escape(title)).replace("{{BODY}}", body)


def _section(report: Report) -> str:
    under = f" <small>under the mutant {escape(report.mutant)}</small>" if report.mutant else ""
    rate = f"{report.states / report.seconds:,.0f} states a second" if report.seconds else ""
    numbers = [
        (f"{report.states:,}", "states"), (f"{report.edges:,}", "steps between them"),
        (f"{report.pictures:,}", "pictures"), (str(report.bound), "own steps of a request at most"),
        (f"{report.seconds:.1f} s", rate),
    ]  # fmt: skip
    shown = report.counterexample
    return (
        f"<section><h1>{escape(report.scope)}{under} "
        f'<span class="verdict {escape(report.verdict)}">{escape(report.verdict)}</span></h1>'
        f'<div class="numbers">{"".join(f"<div><b>{value}</b> {what}</div>" for value, what in numbers)}</div>'
        f"{_counterexample(shown) if shown is not None else ''}"
        f'<div class="panels">{_properties(report)}{_list("Fairness assumed", report.fairness)}</div>'
        f"{_list('All that was seen', report.violations) if report.violations else ''}"
        f"{_list('Not tried', report.untried) if report.untried else ''}</section>"
    )


def _counterexample(shown: Counterexample) -> str:
    real = (
        "Real durations rule this way out: it is <b>spurious</b>, and another way to the same place may be real."
        if shown.spurious
        else "It can happen: run again with real durations, it shows the same states."
        if any(move.at is not None for move in shown.moves)
        else ""
    )
    diagram = f'<div class="drawing">{draw(shown)}</div>' if shown.moves else ""
    first = len(shown.stem) + 1
    stem, cycle = shown.moves[: len(shown.stem)], shown.moves[len(shown.stem) :]
    steps = _steps(stem, shown.stem, 1)
    if shown.cycle:
        steps += f'<h3>↻ and then, again and again</h3><div class="cycle">{_steps(cycle, shown.cycle, first)}</div>'
    means = PROPERTIES.get(shown.property, "")
    return (
        f'<div class="broken"><p><b class="letter">{escape(shown.property)}</b> {escape(shown.words)}</p>'
        f'<p class="soft">What does not hold: {means}. {real}</p></div>{diagram}'
        f'<div class="panel"><h2>Step by step</h2>{_start(shown)}{steps}</div>'
    )


def _start(shown: Counterexample) -> str:
    return f'<p class="soft">In the beginning — {escape("; ".join(shown.start))}.</p>' if shown.start else ""


def _steps(moves: Sequence[Move], lines: Sequence[str], first: int) -> str:
    """The steps as a list; as plain lines, where no more is known of them."""
    if not moves:
        return f'<ol start="{first}">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ol>'
    return f'<ol start="{first}">{"".join(_step(move) for move in moves)}</ol>'


def _step(move: Move) -> str:
    at = f' <span class="at">{format_instant_of(move.at)}</span>' if move.at is not None else ""
    told = "".join(f"<li>{escape(line)}</li>" for line in move.told)
    effects = "".join(f'<span class="effect">⚡ {escape(effect)}</span>' for effect in move.effects)
    return f"<li><b>{escape(move.did)}</b>{at} {effects}{f'<ul>{told}</ul>' if told else ''}</li>"


def format_instant_of(at: int) -> str:
    """How long after the start, to the second; the microseconds between steps mean nothing."""
    return f"at {format_duration(at // SECOND * SECOND)}" if at >= SECOND else "at the start"


def _properties(report: Report) -> str:
    rows = []
    for name, holds in report.properties.items():
        mark = '<td class="good">holds</td>' if holds.holds else '<td class="bad">fails</td>'
        if holds.holds and holds.detail:
            mark = '<td class="soft wide">not seen to fail</td>'
        detail = f'<br><span class="{"soft" if holds.holds else "bad"}">{escape(holds.detail)}</span>'
        rows.append(
            f"<tr><th>{escape(name)}</th>{mark}<td>{PROPERTIES[name]}{detail if holds.detail else ''}</td></tr>"
        )
    return f'<div class="panel"><h2>Properties</h2><table>{"".join(rows)}</table></div>'


def _list(title: str, lines: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="panel"><h2>{title}</h2><ul>{items}</ul></div>'

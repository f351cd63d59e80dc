"""Reports: one scope explored, its cycles searched, its first counterexample explained; as JSON and for people."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import msgspec

from . import protocol
from .counterexample import Counterexample, explain_finding, explain_lasso
from .cycles import Lasso, find_lassos
from .explore import STATES_MAX, Exploration
from .properties import PROPERTIES
from .protocol import Holds
from .scope import Scope
from .scopes import PROTOCOL, load_scope
from .start import begin


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What exploring one scope has shown. ``verdict`` is ``pass``, ``fail``, or ``incomplete`` without a violation."""

    scope: str
    mutant: str | None = None
    verdict: str
    states: int
    edges: int
    pictures: int
    seconds: float
    bound: int
    properties: dict[str, Holds]
    violations: list[str]
    fairness: list[str]
    untried: list[str] = []
    """What the scope asks for or leaves out so that it was not tried at all."""
    counterexample: Counterexample | None = None

    def plain(self) -> dict[str, Any]:
        """As the contract writes it."""
        built: dict[str, Any] = msgspec.to_builtins(self)
        return built


def fairness_of(scope: Scope) -> list[str]:
    """What is assumed to happen in the end if it stays possible; nothing else is."""
    assumed = [
        "a worker that hears answers what it is asked",
        "an instant that is to come comes",
        "a message that is late arrives",
        "the silence of a node is noticed, and a worker that hears says what it runs",
        "a holder whose replica was lost says so",
    ]
    if scope.fragile:
        assumed.append("the death of an unused copy is heard before its trial ends")
    if scope.completions_fair:
        assumed.append("a request that is being served is over in the end")
    return assumed


def prove(
    scope: Scope | str, *, mutant: str | None = None, states_max: int = STATES_MAX, until_broken: str = ""
) -> Report:
    """Explore a scope, given or by name or file. The mutant, if any, is in place already: here it is only named.

    Once the property ``until_broken`` is seen to break it is enough, and that is the counterexample.
    """
    if scope == PROTOCOL:
        return _of_protocol(protocol.explore(until_broken=mutant is not None), mutant)
    if isinstance(scope, str):
        scope = load_scope(scope)
    enough = partial(_shows, until_broken) if until_broken else _is_caught if mutant is not None else _never
    exploration = Exploration(scope, begin(scope)).run(states_max, enough)
    lassos = find_lassos(exploration)
    return Report(
        scope=scope.name,
        mutant=mutant,
        verdict=_verdict(bool(lassos or exploration.violations), complete=exploration.complete),
        states=len(exploration.parents),
        edges=exploration.edge_count,
        pictures=len(exploration.cores),
        seconds=round(exploration.seconds, 3),
        bound=exploration.bound,
        properties=_properties(exploration, lassos),
        violations=[
            *dict.fromkeys(f"{lasso.property}: {lasso.words}" for lasso in lassos),
            *(f"{name}: {words}" for name, words in exploration.violations),
        ],
        fairness=fairness_of(scope),
        untried=list(scope.untried),
        counterexample=_counterexample(exploration, lassos, until_broken),
    )


LASSOS_TRIED = 20
"""So many cycles are run again with real durations, to show one that can happen."""
CAUGHT_AT = 5_000
"""Under a mutant, that many states are looked at for a cycle before a violation of another kind is enough."""


def _is_caught(exploration: Exploration) -> bool:
    return bool(find_lassos(exploration)) or (bool(exploration.violations) and len(exploration.parents) > CAUGHT_AT)


def _shows(prop: str, exploration: Exploration) -> bool:
    return _breaks(prop, find_lassos(exploration), exploration.violations)


def _breaks(prop: str, lassos: Iterable[Lasso], findings: Iterable[tuple[str, str]]) -> bool:
    return prop in {*(lasso.property for lasso in lassos), *map(_property_of, findings)}


def _property_of(finding: tuple[str, str]) -> str:
    return "S" if finding[0] == "invariant" else finding[0]


def _never(exploration: Exploration) -> bool:
    return False


def _verdict(broken: bool, *, complete: bool) -> str:
    return "fail" if broken else "pass" if complete else "incomplete"


def _properties(exploration: Exploration, lassos: list[Lasso]) -> dict[str, Holds]:
    seen = {lasso.property: lasso.words for lasso in lassos}
    for finding in exploration.violations:
        seen.setdefault(_property_of(finding), finding[1])
    bound = exploration.bound
    fine = "" if exploration.complete else "not explored to the end"
    return {name: Holds(name not in seen, seen.get(name, fine), bound if name == "T" else None) for name in PROPERTIES}


def _counterexample(exploration: Exploration, lassos: list[Lasso], wanted: str) -> Counterexample | None:
    """A cycle before anything else; then a step that never settles; then what was seen first.

    Of the property that is wanted, where it breaks.
    """
    findings = list(exploration.violations)
    if _breaks(wanted, lassos, findings):
        lassos = [lasso for lasso in lassos if lasso.property == wanted]
        findings = [finding for finding in findings if _property_of(finding) == wanted]
    for lasso in lassos[:LASSOS_TRIED]:
        shown = explain_lasso(exploration, lasso)
        if not shown.spurious:
            return shown
    if lassos:
        return explain_lasso(exploration, lassos[0])
    if not findings:
        return None
    first = min(findings, key=lambda finding: finding[0] != "T")
    return explain_finding(exploration, *first)


def _of_protocol(result: protocol.Result, mutant: str | None) -> Report:
    first = result.violations[0] if result.violations else None
    counterexample = None
    if first is not None:
        start = protocol.stands(protocol.Moment())
        stem = [move.did for move in first.moves]
        counterexample = Counterexample(first.property, first.words, stem, [], False, start, first.moves)
    return Report(
        scope=PROTOCOL,
        mutant=mutant,
        verdict=_verdict(bool(first), complete=result.complete),
        states=result.states,
        edges=result.edges,
        pictures=result.states,
        seconds=round(result.seconds, 3),
        bound=result.bound,
        properties=result.properties(),
        violations=[f"{broken.property}: {broken.words}" for broken in result.violations],
        fairness=["a writer that lives goes on", "a store that is asked answers, or its answer is lost"],
        counterexample=counterexample,
    )


def lines_of(report: Report) -> list[str]:
    """The report for people."""
    rate = f", {report.states / report.seconds:,.0f} states/s" if report.seconds else ""
    lines = [
        f"{report.scope}{f' under {report.mutant}' if report.mutant else ''}: {report.verdict}",
        f"  {report.states:,} states, {report.edges:,} steps, {report.seconds:.1f} s{rate};"
        f" own steps at most {report.bound}",
    ]
    holding = "is not refuted" if report.verdict == "incomplete" else "holds"
    for name, holds in report.properties.items():
        lines.append(f"  {name} {holding if holds.holds else 'FAILS'}{f': {holds.detail}' if holds.detail else ''}")
    lines.append(f"  assuming that {'; that '.join(report.fairness)}")
    lines += [f"  but {words}" for words in report.untried]
    shown = report.counterexample
    if shown is not None:
        lines.append(f"  {shown.property}: {shown.words}{' (spurious)' if shown.spurious else ''}")
        lines += [f"    {number:>3}. {line}" for number, line in enumerate(shown.stem, start=1)]
        if shown.cycle:
            lines.append("    and then, again and again:")
            lines += [f"      ↻ {line}" for line in shown.cycle]
    return lines

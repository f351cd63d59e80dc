"""Own placement rules, found through entry points of the group ``interlock.placement``.

An entry point names a :class:`~interlock.domain.own_rules.Filter` or a :class:`~interlock.domain.own_rules.Score`; its
name is the rule's. A rule that cannot be brought in is left out with a warning. One that raises, or answers wrongly,
abstains; one that is slow too often is not asked any more by this process. Nothing can interrupt a rule that never
returns: the checks of :mod:`interlock.domain.own_rules_contract` are for its author to run.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from interlock.domain.own_rules import RULES, Filter, ModelFacts, NodeFacts, Registry, Score

GROUP = "interlock.placement"
SLOW_S = 0.01
"""A rule is asked once for each node that is compared: an answer may take so long."""
SLOW_ANSWERS_MAX = 3
WARNINGS_MAX = 5
"""So many warnings of one rule are written; the metric goes on counting."""

_T = TypeVar("_T")
log = logging.getLogger(__name__)
abstained: Counter[str] = Counter()
"""How often each rule's answer could not be used, since this process began."""


class SlowRule(Exception):
    """A rule that has been slow too often; it is not asked any more."""


def install(registry: Registry = RULES, found: tuple[EntryPoint, ...] | None = None) -> list[str]:
    """Bring in every rule that is installed and not there yet; returns the names of those that came in."""
    registry.abstained = _note
    names = []
    for entry in sorted(entry_points(group=GROUP) if found is None else found, key=lambda entry: entry.name):
        if entry.name in registry.filters or entry.name in registry.scores:
            continue
        try:
            registry.add(entry.name, timed(entry.load()))
        except Exception as error:  # a package that is broken must not keep the scheduler from starting
            log.warning("The placement rule %s (%s) is left out: %s", entry.name, entry.value, error)
            continue
        names.append(entry.name)
    return names


def timed(rule: object, clock: Callable[[], float] = time.perf_counter) -> Filter | Score:
    """The same rule, which raises SlowRule once it has been slow too often."""
    if isinstance(rule, Filter):
        return Filter(_timed(rule.admits, clock))
    if isinstance(rule, Score):
        return Score(_timed(rule.rates, clock))
    raise TypeError(f"{rule!r} is neither a Filter nor a Score")  # told by install, which names the entry point


def _timed(
    call: Callable[[ModelFacts, NodeFacts], _T], clock: Callable[[], float]
) -> Callable[[ModelFacts, NodeFacts], _T]:
    slow = 0

    def ask(model: ModelFacts, node: NodeFacts) -> _T:
        nonlocal slow
        if slow >= SLOW_ANSWERS_MAX:
            why = f"it took longer than {SLOW_S * 1000:g} ms {slow} times"
            raise SlowRule(why)  # the registry takes it, like all that a rule raises, for an abstention
        began_at = clock()
        answer = call(model, node)
        slow += clock() - began_at > SLOW_S
        return answer

    return ask


def _note(name: str, why: str) -> None:
    abstained[name] += 1
    if abstained[name] <= WARNINGS_MAX:
        log.warning("The placement rule %s abstains: %s", name, why)


def counts() -> Iterator[tuple[str, int]]:
    """Each installed rule with how often it has abstained."""
    for name in sorted({*RULES.filters, *RULES.scores, *abstained}):
        yield name, abstained[name]

"""Own rules: filters and scores for placement that operators bring along, beside the built-in ones.

A rule is a function of a :class:`ModelFacts` and a :class:`NodeFacts`, which are frozen, so that it can look and not
touch. It takes part where a placement profile names it: a score with a weight, a filter as ``only NAME``. The registry
is part of the program, like the built-in scores; what a profile names enters by events. What was decided is recorded,
so that a replay asks no rule again.

A rule that raises, or answers with anything but what it must, abstains: a filter lets the node pass, a score gives
nothing. :mod:`interlock.domain.own_rules_contract` has the checks that a rule should pass before it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from .claims import RAM
from .entities import Model, Node
from .errors import InvalidField, UsageError
from .memory import room_after, spec_on
from .profiles import SCORES, Profile, find_profile, profiles_in
from .state import State

BEST = 100


class ModelFacts(msgspec.Struct, frozen=True, gc=False):
    """What a rule sees of the model: its name, backend, needs in bytes, priority and anti-affinity group."""

    name: str
    backend: str
    vram: int
    disk: int
    priority: int
    anti_affinity: str
    ram: int = 0


class NodeFacts(msgspec.Struct, frozen=True, gc=False):
    """What a rule sees of a node. Memory is bytes per pool, ``models`` are those with a replica there, in order.

    ``labels`` are pairs in order of key. ``disk_free`` and ``ram_free`` are None when unknown; rates are 0 when not
    measured.
    """

    name: str
    labels: tuple[tuple[str, str], ...]
    budgets: tuple[int, ...]
    free: tuple[int, ...]
    disk_free: int | None
    ram: int
    gpu_vendor: str
    models: tuple[str, ...]
    load_rate: int = 0
    stage_rate: int = 0
    ram_free: int | None = None

    def label(self, key: str) -> str:
        """The label's value; empty when it has none."""
        return next((value for name, value in self.labels if name == key), "")


class Filter(msgspec.Struct, frozen=True):
    """Whether the model may go to the node at all."""

    admits: Callable[[ModelFacts, NodeFacts], bool]


class Score(msgspec.Struct, frozen=True):
    """What speaks for the node: a whole number from 0 to 100."""

    rates: Callable[[ModelFacts, NodeFacts], int]


class Registry:
    """The rules of this program by name. ``abstained(name, why)`` hears of each answer that could not be used."""

    def __init__(self) -> None:
        self.filters: dict[str, Filter] = {}
        self.scores: dict[str, Score] = {}
        self.abstained: Callable[[str, str], None] = lambda name, why: None

    def add(self, name: str, rule: Filter | Score) -> None:
        """Bring in a rule; raises InvalidField for a name that is taken, or a thing that is no rule."""
        if name in SCORES or name in self.filters or name in self.scores:
            raise InvalidField("interlock.placement", f"the name {name!r} is taken", cure="Give the rule another name.")
        if isinstance(rule, Filter):
            self.filters[name] = rule
        elif isinstance(rule, Score):
            self.scores[name] = rule
        else:
            raise InvalidField("interlock.placement", f"{name} is {rule!r}", cure="Make it a Filter or a Score.")

    def remove(self, name: str) -> None:
        """Take a rule out again, if it is there."""
        self.filters.pop(name, None)
        self.scores.pop(name, None)

    def admits(self, name: str, model: ModelFacts, node: NodeFacts) -> bool:
        """The filter's word; True when it abstains."""
        rule = self.filters.get(name)
        answer = self._ask(name, rule.admits if rule else None, model, node)
        if isinstance(answer, bool):
            return answer
        self.abstained(name, f"it answered {answer!r}, which is not true or false")
        return True

    def rates(self, name: str, model: ModelFacts, node: NodeFacts) -> int:
        """The score's word; 0 when it abstains."""
        rule = self.scores.get(name)
        answer = self._ask(name, rule.rates if rule else None, model, node)
        if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer <= BEST:
            return answer
        self.abstained(name, f"it answered {answer!r}, which is no whole number from 0 to {BEST}")
        return 0

    def _ask(
        self, name: str, call: Callable[[ModelFacts, NodeFacts], object] | None, model: ModelFacts, node: NodeFacts
    ) -> object:
        if call is None:
            return "nothing: it is not installed here"
        try:
            return call(model, node)
        except Exception as error:  # a guest's mistake, whatever it is, must not stop us
            return error


RULES = Registry()
"""The own rules of this process; who starts it fills them in."""


def check_profiles(definitions: str) -> None:
    """Raise InvalidField when one of the profiles asks for a score or a filter that nobody has here."""
    for profile in profiles_in(definitions).values():
        check_terms(profile)


def check_terms(profile: Profile) -> None:
    """Raise InvalidField when the profile names a score or a filter that is neither built in nor installed here."""
    known = [*SCORES, *sorted(RULES.scores)]
    for score, _ in profile.weights:
        if score not in known:
            problem = f"{profile.name}: no score is named {score!r}"
            raise InvalidField("placement_profiles", problem, cure=f"The scores are: {', '.join(known)}.")
    for name in profile.filters:
        if name not in RULES.filters:
            cure = f"Installed filters: {', '.join(sorted(RULES.filters)) or 'none'}."
            raise InvalidField("placement_profiles", f"{profile.name}: no filter is named {name!r}", cure=cure)


def not_installed(profile: Profile) -> list[str]:
    """The own rules that the profile names and this program does not have: it cannot judge as whoever has them does."""
    lacking = [name for name, _ in profile.weights if name not in SCORES and name not in RULES.scores]
    return [*lacking, *(name for name in profile.filters if name not in RULES.filters)]


def check_installed(definitions: str, names: Iterable[str], what: str) -> None:
    """Raise UsageError when one of these profiles needs rules that are not here, so that ``what`` would be wrong."""
    profiles = (find_profile(name, definitions) for name in dict.fromkeys(names))
    lacking = sorted({rule for profile in profiles if profile is not None for rule in not_installed(profile)})
    if lacking:
        rules = f"the placement rule {lacking[0]}" if len(lacking) == 1 else f"the placement rules {', '.join(lacking)}"
        raise UsageError(f"{what} without {rules}: not installed here.", cure=INSTALL)


INSTALL = "Ask where the scheduler's own rules are installed, or install their package here."


def facts_of_model(model: Model, node: Node) -> ModelFacts:
    """The model as rules see it, with what it would take on this node."""
    spec, scheduling = spec_on(node, model.declared_spec), model.scheduling
    return ModelFacts(
        model.name, spec.backend, spec.vram, spec.disk, scheduling.priority, scheduling.anti_affinity, spec.ram
    )


def facts_of_node(state: State, node: Node, leaving: tuple[str, ...] = ()) -> NodeFacts:
    """The node as rules see it; once these replicas have left, where they are to make room."""
    staying = (state.replicas[replica] for replica in state.by_node.get(node.name, ()) if replica not in leaving)
    models = {replica.model for replica in staying}
    room = room_after(state.balance_of_memory(node), [state.replicas[replica] for replica in leaving])
    free = {pool: max(0, size) for pool, size in room.items()}
    in_pools = tuple([size for pool, size in free.items() if pool != RAM])
    return NodeFacts(
        node.name, tuple(sorted(node.labels.items())), node.budgets, in_pools, state.disk_free(node), node.ram,
        node.gpu_vendor, tuple(sorted(models)), node.load_rate, node.stage_rate, free.get(RAM),
    )  # fmt: skip


def refused_by(state: State, model: Model, node: Node, profile: Profile) -> str:
    """The profile's first own filter that the node does not pass; empty when it passes them all."""
    if not profile.filters:
        return ""
    mine, its = facts_of_model(model, node), facts_of_node(state, node)
    return next((name for name in profile.filters if not RULES.admits(name, mine, its)), "")

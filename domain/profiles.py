"""Placement profiles: by which scores, and with which weights, a node is chosen for a new replica.

Some are built in; operators define more in the setting ``placement_profiles``, written as
``"quick: locality 3, load_time 1; tight: pack 2, only own_filter"``. Both the definitions and the choice of a profile
are settings or part of a model's scheduling, so that they enter by events, and a replay chooses as the scheduler did.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

import msgspec

from .errors import InvalidField
from .units import whole_number

SCORES = ("pack", "spread", "balance", "locality", "load_time")
HEAVIEST_WEIGHT = 1000
MOST_PROFILES = 32
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")


class Profile(msgspec.Struct, frozen=True, gc=False):
    """Scores with their weights, both in order of name, and the own filters that a node must pass."""

    name: str
    weights: tuple[tuple[str, int], ...] = ()
    filters: tuple[str, ...] = ()

    def weight(self, score: str) -> int:
        """The weight of a score; 0 when it has none."""
        return next((weight for name, weight in self.weights if name == score), 0)

    @property
    def fills_up(self) -> bool:
        """Whether of two equals the fuller node is taken, as ``pack`` wants, instead of the emptier one."""
        return self.weight("pack") > max(self.weight("balance"), self.weight("spread"))


BUILT_IN = {
    profile.name: profile
    for profile in (
        Profile("default"),
        Profile("pack", (("pack", 1),)),
        Profile("spread", (("spread", 1),)),
        Profile("balance", (("balance", 1),)),
        Profile("fast-start", (("load_time", 2), ("locality", 1))),
    )
}


@lru_cache(64)
def profiles_in(text: str) -> dict[str, Profile]:
    """The profiles that an operator's text defines; raises InvalidField for what is wrong with it."""
    profiles: dict[str, Profile] = {}
    for definition in filter(None, map(str.strip, text.split(";"))):
        name, found, terms = definition.partition(":")
        name = name.strip()
        if not found or not _NAME.fullmatch(name):
            raise _wrong(f"{definition!r} does not begin with a name and a colon")
        if name in BUILT_IN or name in profiles:
            raise _wrong(f"{name!r} is {'built in' if name in BUILT_IN else 'there twice'}")
        profiles[name] = _profile(name, [term.split() for term in terms.split(",")])
    if len(profiles) > MOST_PROFILES:
        raise _wrong(f"{len(profiles)} profiles are more than {MOST_PROFILES}")
    return profiles


def _profile(name: str, terms: Iterable[list[str]]) -> Profile:
    weights: dict[str, int] = {}
    filters: list[str] = []
    for term in terms:
        if len(term) != 2 or not _NAME.fullmatch(term[1] if term[0] == "only" else term[0]):
            raise _wrong(f"{name}: {' '.join(term)!r} is no score with its weight")
        if term[0] == "only":
            filters.append(term[1])
        elif (weight := whole_number(term[1], 1, HEAVIEST_WEIGHT)) is None:
            raise _wrong(f"{name}: {term[1]!r} is no weight from 1 to {HEAVIEST_WEIGHT}")
        elif term[0] in weights:
            raise _wrong(f"{name}: {term[0]} is there twice")
        else:
            weights[term[0]] = weight
    return Profile(name, tuple(sorted(weights.items())), tuple(sorted(set(filters))))


def _wrong(problem: str) -> InvalidField:
    cure = 'Write "NAME: SCORE WEIGHT, SCORE WEIGHT; NAME: ...", or a table of tables.'
    return InvalidField("placement_profiles", problem, cure=cure)


def parse_profiles(value: object) -> str:
    """Definitions as text or as a table of tables, in the one way that they are kept."""
    if isinstance(value, Mapping):
        value = "; ".join(f"{name}: {_terms(name, terms)}" for name, terms in value.items())
    if not isinstance(value, str):
        raise _wrong(f"{value!r} is not text")
    return "; ".join(_format(profile) for _, profile in sorted(profiles_in(value).items()))


def _terms(name: object, terms: object) -> str:
    if not isinstance(terms, Mapping):
        raise _wrong(f"{name}: {terms!r} is no table of scores with their weights")
    only = terms.get("only", [])
    if not isinstance(only, list):
        raise _wrong(f"{name}: {only!r} is no list of filters")
    weights = [f"{score} {weight}" for score, weight in terms.items() if score != "only"]
    return ", ".join([*weights, *(f"only {own}" for own in only)])


def _format(profile: Profile) -> str:
    terms = [f"{score} {weight}" for score, weight in profile.weights]
    return f"{profile.name}: {', '.join([*terms, *(f'only {own}' for own in profile.filters)])}"


def parse_placement(value: object, field: str = "placement") -> str:
    """A profile's name, or nothing for the cluster's; whether there is such a profile is the core's to say."""
    if not isinstance(value, str) or (value and not _NAME.fullmatch(value)):
        raise InvalidField(field, f"{value!r} is not a profile's name", cure=f"Choose one of: {', '.join(BUILT_IN)}.")
    return value


def find_profile(name: str, definitions: str) -> Profile | None:
    """The profile of that name, built in or among the operator's ``definitions``."""
    return BUILT_IN.get(name) or profiles_in(definitions).get(name)


def check_profile(name: str, definitions: str, field: str = "placement") -> None:
    """Raise InvalidField when there is no profile of that name."""
    if find_profile(name, definitions) is None:
        known = ", ".join([*BUILT_IN, *sorted(profiles_in(definitions))])
        raise InvalidField(field, f"no placement profile is named {name!r}", cure=f"Choose one of: {known}.")

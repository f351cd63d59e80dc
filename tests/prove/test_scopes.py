"""The bundled scopes: the real code holds all five properties in each, and the incident's bugs are found."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from msgspec.structs import replace

from interlock.simulation.mutants.catalogue import activate
from interlock.simulation.prove import Report, bundled_scopes, prove
from interlock.simulation.prove.protocol import EPOCHS
from interlock.simulation.prove.scopes import BUNDLED, PROTOCOL, load_scope

OWN_STEPS = {
    "backend-gone": 4,
    "cut-off": 3,
    "declared-anew": 2,
    "dies-at-its-first-call": 6,
    "doomed-floor": 1,
    "edit-taken-back": 0,
    "failed-elsewhere": 2,
    "growth": 1,
    "growth-by-two": 3,
    "impossible": 3,
    "one-name": 2,
    "one-ram-three-models": 3,
    "kept-floor": 3,
    "left-behind": 2,
    "loads-after-all": 0,
    "no-pause-between-tries": 1,
    "one-makes-way": 3,
    "orin-thor": 2,
    "reconciler": 2,
    "room-of-an-old-copy": 2,
    "span-against-two": 3,
    "turn-of-the-refused": 4,
    "two-models-one-slot": 3,
    "two-priorities-one-slot": 3,
    "two-tenants-one-slot": 3,
    PROTOCOL: EPOCHS,
}
"""The scopes that every run of the tests explores, and the most own steps of a request in each."""
LONGER = sorted(set(bundled_scopes()) - set(OWN_STEPS))


def assert_proved(report: Report) -> None:
    assert report.violations == []
    assert report.verdict == "pass"
    assert list(report.properties) == ["T", "U", "S", "Q", "W"]
    assert all(holds.holds for holds in report.properties.values())
    assert report.counterexample is None
    assert report.fairness
    assert report.states > 100
    assert report.edges > report.states


@pytest.mark.parametrize("name", sorted(set(bundled_scopes()) - {PROTOCOL}))
def test_a_bundled_scope_tries_all_that_it_holds(name: str) -> None:
    assert load_scope(name).untried == ()


@pytest.mark.parametrize("name", sorted(OWN_STEPS))
def test_the_real_code_holds_all_five_properties(name: str) -> None:
    report = prove(name)
    assert_proved(report)
    assert report.bound == report.properties["T"].bound == OWN_STEPS[name]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", LONGER)
def test_the_real_code_holds_all_five_properties_in_the_larger_scopes(name: str) -> None:
    assert_proved(prove(name))


@pytest.mark.soak
def test_three_requests_on_three_nodes_break_nothing_as_far_as_they_are_explored() -> None:
    scope = load_scope("three-nodes-three-models")
    scope = replace(scope, name="three-requests", resources=scope.resources | {"requests": 3})
    report = prove(scope, states_max=1_500_000)
    assert report.violations == []
    assert report.states > 1_000_000


def under(mutant: str, scope: str) -> Report:
    with activate(mutant):
        return prove(scope, mutant=mutant)


def test_the_lookup_that_ignores_the_selector_is_found_as_a_livelock() -> None:
    report = under("selector-ignored-in-lookup", "orin-thor")
    assert report.verdict == "fail"
    assert not report.properties["T"].holds
    shown = report.counterexample
    assert shown is not None
    assert (shown.property, shown.spurious) == ("T", False)
    assert shown.stem == ["a request for qwen3-8b arrives → request queued: request 1 qwen3-8b (waits for capacity)"]
    assert len(shown.cycle) == 1
    assert shown.cycle[0].startswith("request 1 looks again at its instant → request queued")


def test_the_empty_backend_name_is_found_as_a_cycle_that_carries_an_effect() -> None:
    report = under("empty-backend-scaleup", "orin-thor")
    assert not report.properties["Q"].holds
    shown = report.counterexample
    assert shown is not None
    assert (shown.property, shown.spurious) == ("Q", False)
    assert "backend.install" in shown.words
    assert any("backend install requested" in line for line in shown.cycle)
    assert any("no backend is named ''" in line for line in shown.cycle)


@pytest.mark.parametrize(
    ("mutant", "scope", "broken", "words"),
    [
        ("busy-taken-for-dead", "cut-off", "S", "busy is not dead"),
        ("deadline-forgotten", "two-models-one-slot", "W", "without a timer for its deadline"),
        ("declare-always-edits", "impossible", "S", "no different"),
        ("edit-taken-back-is-one-more", "edit-taken-back", "S", "as what serves"),
        ("disk-unchecked", "impossible", "S", "more disk than there is"),
        ("evict-and-reserve-apart", "two-models-one-slot", "S", "reserved for nobody"),
        ("evict-outside-candidates", "orin-thor", "S", "does not match"),
        ("group-ignored", "anti-affinity", "S", "of the same anti-affinity group"),
        ("evicts-all-it-can", "impossible", "S", "which it needs not"),
        ("give-up-leaves-running", "orin-thor", "Q", "left running"),
        ("growth-evicts", "growth", "S", "growth evicts"),
        ("hold-forgotten", "two-models-one-slot", "S", "is not held for it"),
        ("join-failed-load", "orin-thor", "W", "waits for a load that is not in progress"),
        ("selector-leaves-loads", "left-behind", "S", "goes on on left, which its selector does not match"),
        ("labels-leave-loads", "left-behind", "S", "goes on on right, which its selector does not match"),
        ("budget-leaves-loads", "left-behind", "S", "above its memory budget"),
        ("load-not-reserved", "orin-thor", "U", "waits while a warm replica has room"),
        ("loading-as-victim", "two-models-one-slot", "S", "while it is loading"),
        ("never-fits-waits", "impossible", "W", "no node can ever have"),
        ("residency-ignored", "two-models-one-slot", "S", "before its residency is over"),
        ("scale-down-at-once", "growth", "S", "idle for its time"),
        ("silence-unwatched", "two-models-one-slot", "W", "no timer for its silence"),
        ("stray-ignored", "cut-off", "Q", "goes on running it"),
        ("unbounded-retry", "backend-gone", "T", "own step that lowered nothing"),
        ("backends-gone-told-as-no-room", "backend-gone", "T", "and its backends were gone"),
        ("unloading-still-warm", "backend-gone", "S", "where it is not loaded"),
        ("unpark-on-anything", "doomed-floor", "Q", "effects go on for ever"),
        ("unreachable-is-lost", "cut-off", "S", "counts as offline without"),
        ("wakeup-forgotten", "two-models-one-slot", "W", "nobody woke it"),
        ("ageing-forgotten", "two-priorities-one-slot", "W", "another has waited longer"),
        ("refused-hands-on-its-turn", "turn-of-the-refused", "W", "has waited longer for"),
        ("cold-before-warm", "two-models-one-slot", "U", "while requests wait for it"),
        ("tenant-never-released", "two-tenants-one-slot", "U", "within its limits"),
        ("tenant-counted-twice", "two-tenants-one-slot", "U", "within its limits"),
        ("rate-forgotten", "two-tenants-one-slot", "S", "takes no note of it"),
        ("place-in-line-kept", "clients-and-goodbyes", "W", "nothing will ever end it"),
        ("spent-without-a-pause", "no-pause-between-tries", "Q", "effects go on for ever"),
        ("early-deaths-count-for-nothing", "dies-at-its-first-call", "Q", "effects go on for ever"),
        ("old-copy-makes-room", "room-of-an-old-copy", "S", "whose room its own floor is to have"),
        ("late-goodbye-believed", "clients-and-goodbyes", "S", "a goodbye that its worker has not said"),
    ],
)
def test_mutants_die_by_the_property_that_must_kill_them(mutant: str, scope: str, broken: str, words: str) -> None:
    report = under(mutant, scope)
    assert report.verdict == "fail"
    assert not report.properties[broken].holds
    assert any(line.startswith(f"{broken}: ") and words in line for line in report.violations), report.violations


def test_whoever_wants_one_property_broken_gets_that_one_and_is_not_made_to_wait_for_more() -> None:
    """The first that this mutant breaks is W; a request that waits for nothing is U as well."""
    with activate("load-not-reserved"):
        first = prove("backend-gone", mutant="load-not-reserved", states_max=400)
        wanted = prove("backend-gone", mutant="load-not-reserved", states_max=400, until_broken="U")
    assert first.counterexample is not None
    assert wanted.counterexample is not None
    assert (first.counterexample.property, wanted.counterexample.property) == ("W", "U")
    with activate("silence-unwatched"):
        whole = prove("two-models-one-slot", mutant="silence-unwatched")
        soon = prove("two-models-one-slot", mutant="silence-unwatched", until_broken="W")
    assert soon.counterexample == whole.counterexample
    assert soon.states < whole.states


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mutant", "scope", "broken", "words"),
    [
        ("affinity-over-load", "prefix-affinity", "S", "one more for its prompt"),
        ("counter-not-lease", "holder-lost-against-release", "S", "live locks"),
        ("double-release", "holder-lost-against-release", "S", "by somebody else's word"),
        ("drain-keeps-routing", "drain-during-load", "S", "which is draining"),
        ("floor-counts-excluded", "drain-during-load", "S", "below its floor"),
        ("floor-evicts-equals", "reconciler", "S", "evicted for"),
        ("found-files-go-all-the-same", "files-found-there-still", "S", "and are not there"),
        ("holder-never-lost", "holder-lost-against-release", "W", "nothing will ever end them"),
        ("mass-loss-believed", "mass-loss", "S", "it is believed that all of them are gone"),
        ("all-gone-at-once", "mass-loss", "S", "in the same moment"),
        ("moved-in-the-dark", "mass-loss", "S", "is moved to"),
        ("call-believed", "mass-loss", "S", "is given up for a call"),
        ("silent-alone", "mass-loss", "S", "nobody waits to see whether others are silent"),
        ("back-with-the-first", "mass-loss", "S", "nobody waits to see whether it is with the others"),
        ("pin-ignored", "reconciler", "S", "is evicted for"),
        ("prefix-kept-after-loss", "prefix-affinity", "S", "holds prompts"),
        ("priority-inverted", "reconciler", "S", "is evicted for"),
        ("stale-revision-served", "revision-under-load", "S", "a revision that does not serve"),
        ("up-and-down-in-one-tick", "reconciler", "Q", "effects go on for ever"),
    ],
)
def test_mutants_die_in_the_larger_scopes_too(mutant: str, scope: str, broken: str, words: str) -> None:
    report = under(mutant, scope)
    assert not report.properties[broken].holds
    assert any(words in line for line in report.violations), report.violations


def test_every_scope_file_is_called_as_its_scope_and_says_what_it_is_about() -> None:
    for path in sorted(Path(BUNDLED).glob("*.toml")):
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        assert (data["schema"], data["name"]) == (1, path.stem)
        assert data["description"]
        assert "scope" in data
        assert load_scope(path.stem).kinds

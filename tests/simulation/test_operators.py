"""What operators do: each step over those before it, from the first instant on, and while nobody leads."""

from __future__ import annotations

import pytest

from interlock.domain.units import GIB
from tests.simulation.support import result_of


@pytest.mark.parametrize(
    "step",
    [
        'action = "set-labels"\nnode = "a"\nlabels = { tier = "x" }',
        'action = "set-budget"\nnode = "a"\nvalue = "80%"',
        'action = "set-max-replicas"\nnode = "a"\nvalue = 3',
        'action = "drain"\nnode = "a"',
        'action = "remove-node"\nnode = "a"',
        'action = "freeze"\nwhat = "evictions"',
        'action = "declare-model"\nname = "n"\nbackend = "echo"',
        'action = "set"\nmin_residency = "1s"',
    ],
)
def test_a_step_at_the_very_beginning_goes_before_the_first_look_at_the_floors(step: str) -> None:
    """Nobody has forgotten a floor that nobody was asked to raise yet."""
    result = result_of(f'[[admin]]\nat = "0s"\n{step}\n[expect]\nreplicas_at_end = {{ m = 1 }}\nloads = 1\n')
    assert result.passed, result.harness.invariants.violations


@pytest.mark.parametrize("kind", ["writer-crash", "store-stall", "store-error"])
def test_a_writer_in_trouble_from_the_beginning_looks_at_the_floors_all_the_same(kind: str) -> None:
    step = '[[admin]]\nat = "0s"\naction = "set"\nmin_residency = "1s"\n'
    result = result_of(f'{step}[[faults]]\nat = "0s"\nkind = "{kind}"\n[expect]\nreplicas_at_end = {{ m = 1 }}\n')
    assert result.passed, result.harness.invariants.violations


def steps(*rows: str) -> str:
    """Steps about the model, the first two seconds after a writer has died, the others half a second apart."""
    crash = '[[faults]]\nat = "10s"\nkind = "writer-crash"\n'
    return crash + "".join(f'[[admin]]\nat = "{12_000 + 500 * place}ms"\n{row}\n' for place, row in enumerate(rows))


SET, EDIT = 'action = "set-scheduling"\nmodel = "m"\n', 'action = "edit-model"\nmodel = "m"\n'


@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("kind", [SET, EDIT], ids=["set-scheduling", "edit-model"])
def test_each_step_while_nobody_leads_is_over_what_those_before_it_have_made(kind: str, seed: int) -> None:
    given = steps(f"{kind}min_replicas = 2", f"{kind}max_replicas = 3", f"{SET}parallel = 7")
    result = result_of(given, seed=seed)
    scheduling = result.harness.engine.state.models["m"].scheduling
    assert (scheduling.min_replicas, scheduling.max_replicas, scheduling.parallel) == (2, 3, 7)
    assert not result.report["rejected_steps"]
    assert result.passed, result.harness.invariants.violations


def test_a_model_that_is_declared_while_nobody_leads_can_be_changed_right_away() -> None:
    declare = 'action = "declare-model"\nname = "n"\nbackend = "echo"\nvram = "1GiB"'
    change = 'action = "set-scheduling"\nmodel = "n"\nmin_replicas = 1'
    result = result_of(steps(declare, change) + "[expect]\nreplicas_at_end = { n = 1 }\n")
    assert result.passed, result.report["rejected_steps"]


def test_steps_about_nodes_keep_their_place_among_those_about_models() -> None:
    result = result_of(
        steps(
            f"{SET}parallel = 2", 'action = "drain"\nnode = "a"', f"{SET}parallel = 3", 'action = "resume"\nnode = "a"'
        )
    )
    wanted = ("ModelSchedulingChanged", "NodeDrainStarted", "NodeResumed")
    kinds = [event["event"] for event in result.events() if event["event"] in wanted]
    assert kinds == ["ModelSchedulingChanged", "NodeDrainStarted", "ModelSchedulingChanged", "NodeResumed"]


def test_steps_that_together_make_sense_are_taken_while_nobody_leads() -> None:
    """Over the model as it was the second one would have a floor above the ceiling."""
    high = steps(f"{SET}min_replicas = 0", f"{SET}max_replicas = 1")
    wide = '[[admin]]\nat = "1s"\n' + f"{SET}min_replicas = 2\nmax_replicas = 3\n"
    result = result_of(wide + high + "[expect]\nreplicas_at_end = { m = { min = 1 } }\n")
    assert not result.report["rejected_steps"]
    assert result.harness.engine.state.models["m"].scheduling.max_replicas == 1


def test_a_step_that_makes_no_sense_after_one_that_was_not_taken_is_not_taken_either() -> None:
    """The file makes sense, were it not for the rejection: the run goes on, and says so."""
    text = (
        '[[models]]\nname = "other"\nbackend = "echo"\nvram = "1GiB"\n'
        f'[[admin]]\nat = "1s"\n{SET}min_replicas = 2\nmax_replicas = 3\n'
        '[[admin]]\nat = "5s"\naction = "declare-model"\nname = "m"\nbackend = "echo"\naliases = ["other"]\n'
        f'[[admin]]\nat = "12s"\n{SET}max_replicas = 1\n'
    )
    result = result_of(text)
    names_another, above = result.report["rejected_steps"]
    assert "names another model" in names_another
    assert "set-scheduling m: " in above
    assert "2 is above max_replicas" in above


GONE = '[[admin]]\nat = "12s"\naction = "remove-model"\nmodel = "m"\n'


def test_a_model_that_was_removed_cannot_be_edited() -> None:
    result = result_of(GONE + f'[[admin]]\nat = "20s"\n{EDIT}vram = "6GiB"\n[[requests]]\nmodel = "m"\nat = "30s"\n')
    assert result.report["rejected_steps"] == ["edit-model m: no model named 'm'."]
    assert result.report["requests"]["refused"] == {"unknown_model": 1}


def test_a_model_can_be_edited_by_its_alias() -> None:
    other = '[[admin]]\nat = "20s"\naction = "declare-model"\nname = "n"\nbackend = "echo"\naliases = ["m"]\n'
    result = result_of(GONE + other + f'[[admin]]\nat = "30s"\n{EDIT}vram = "7GiB"\n')
    assert not result.report["rejected_steps"]
    assert result.harness.engine.state.models["n"].declared_spec.vram == 7 * GIB

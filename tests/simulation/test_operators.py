"""What operators do: each step over those before it, from the first instant on, and while nobody leads."""

from __future__ import annotations

import pytest

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

"""The ranking argument for T, confirmed by z3 on the very functions that production imports, for any numbers."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import z3

from interlock.domain import variant

Left = Callable[[z3.ArithRef, z3.ArithRef], z3.ArithRef]


def larger(first: object, second: object) -> z3.ArithRef:
    """``max`` for z3's numbers."""
    return z3.If(z3.IntVal(0) + first > second, z3.IntVal(0) + first, z3.IntVal(0) + second)


@pytest.fixture
def symbolic(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module itself; only ``max`` is z3's, because Python's asks for a definite answer."""
    monkeypatch.setattr(variant, "max", larger, raising=False)
    return variant


def refutes(claim: z3.BoolRef, *given: z3.BoolRef) -> str:
    """A counterexample to the claim in words; empty when it holds for all numbers."""
    solver = z3.Solver()
    solver.add(*given, z3.Not(claim))
    verdict = solver.check()
    assert verdict != z3.unknown
    return "" if verdict == z3.unsat else str(solver.model())


def what_is_wrong(left: Left, allowed: Callable[[z3.ArithRef], z3.ArithRef]) -> list[str]:
    """What keeps ``left`` from being a variant of which ``allowed`` is the greatest value; empty when nothing does."""
    attempts, used = z3.Ints("load_attempts passes")
    some = used >= 0
    claims = {
        "is a natural number": (left(attempts, used) >= 0, [some]),
        "falls on every own step that may be taken": (
            left(attempts, used + 1) < left(attempts, used),
            [some, left(attempts, used) > 0],
        ),
        "stays spent": (left(attempts, used + 1) == 0, [some, left(attempts, used) == 0]),
        "begins with all that is allowed": (left(attempts, z3.IntVal(0)) == allowed(attempts), []),
        "allows at least one": (allowed(attempts) >= 1, []),
        "leaves one for every try of a load": (allowed(attempts) >= attempts, []),
    }
    return [name for name, (claim, given) in claims.items() if refutes(claim, *given)]


def test_the_number_of_passes_left_is_natural_and_falls_on_every_own_step(symbolic: ModuleType) -> None:
    assert what_is_wrong(symbolic.passes_left, symbolic.passes_allowed) == []


def test_with_any_number_of_requests_a_step_of_one_lowers_the_sum_and_no_other_request(symbolic: ModuleType) -> None:
    """Requests are an uninterpreted function from any number of names to passes; a step changes it at one name."""
    passes, after = z3.Function("passes", z3.IntSort(), z3.IntSort()), z3.Function("after", z3.IntSort(), z3.IntSort())
    attempts, stepping, other = z3.Ints("load_attempts stepping other")
    step = [passes(stepping) >= 0, passes(other) >= 0, after(stepping) == passes(stepping) + 1, other != stepping]
    step += [after(other) == passes(other), symbolic.passes_left(attempts, passes(stepping)) > 0]

    def left(of: z3.FuncDeclRef, name: z3.ArithRef) -> z3.ArithRef:
        result: z3.ArithRef = symbolic.passes_left(attempts, of(name))
        return result

    assert not refutes(left(after, stepping) == left(passes, stepping) - 1, *step)
    assert not refutes(left(after, other) == left(passes, other), *step)


@pytest.mark.parametrize(
    ("broken", "claim"),
    [
        (lambda allowed, used: allowed - used, "is a natural number"),
        (lambda allowed, used: allowed, "falls on every own step that may be taken"),
        (lambda allowed, used: larger(0, allowed - used / 2), "falls on every own step that may be taken"),
        (lambda allowed, used: z3.If(used > 5, z3.IntVal(1), larger(0, allowed - used)), "stays spent"),
        (lambda allowed, used: larger(0, allowed - used - 1), "begins with all that is allowed"),
    ],
    ids=["negative", "constant", "every-second-step", "comes-back", "one-too-few"],
)
def test_a_broken_variant_is_refuted(symbolic: ModuleType, broken: Left, claim: str) -> None:
    def left(attempts: z3.ArithRef, used: z3.ArithRef) -> z3.ArithRef:
        return broken(symbolic.passes_allowed(attempts), used)

    assert claim in what_is_wrong(left, symbolic.passes_allowed)

"""What an own placement rule must keep, as a check that its author runs: ``assert breaches(rule) == []``.

A rule answers for every model and node, with true or false (a filter) or a whole number from 0 to 100 (a score); the
same for equal facts, however often and in whatever order it is asked. It looks at nothing but the facts: no clock, no
randomness, no file, no memory of earlier questions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .own_rules import BEST, Filter, ModelFacts, NodeFacts, Score
from .units import GIB

MODELS = (
    ModelFacts("tiny", "", 0, 0, 0, ""),
    ModelFacts("chat", "llama-cpp", 9 * GIB, 8 * GIB, 1, "assistants"),
    ModelFacts("größtes/Modell", "torch", 400 * GIB, 800 * GIB, -5, ""),
)
NODES = (
    NodeFacts("bare", (), (), (), None, 0, "", ()),
    NodeFacts("full", (("tier", "fast"),), (24 * GIB,), (0,), 0, 64 * GIB, "nvidia", ("chat", "tiny")),
    NodeFacts("over", (("tier", ""),), (24 * GIB,), (-GIB,), -GIB, 64 * GIB, "amd", ("chat",), 1, 1),
    NodeFacts(
        "pair", (("rack", "7"), ("tier", "slow")), (80 * GIB, 80 * GIB), (80 * GIB, 3 * GIB), 900 * GIB, 512 * GIB,
        "nvidia", (), 2 * GIB, GIB,
    ),
)  # fmt: skip
"""Facts at the edges of what a rule may meet."""


def breaches(
    rule: Filter | Score, models: Sequence[ModelFacts] = MODELS, nodes: Sequence[NodeFacts] = NODES
) -> list[str]:
    """What the rule does that it must not, in words; empty when it keeps the contract for these facts."""
    call = rule.admits if isinstance(rule, Filter) else rule.rates
    pairs = [(model, node) for model in models for node in nodes]
    found: dict[str, None] = {}
    first: list[object] = []
    for model, node in pairs:
        answer = _ask(call, model, node)
        first.append(answer)
        problem = _problem(rule, answer)
        if problem:
            found[f"for {model.name} on {node.name} it {problem}"] = None
    again = [_ask(call, *_copies(model, node)) for model, node in reversed(pairs)][::-1]
    for (model, node), once, later in zip(pairs, first, again, strict=True):
        if once != later:
            found[f"for {model.name} on {node.name} it answers {once!r}, and later {later!r}"] = None
    return list(found)


def _ask(call: Callable[[ModelFacts, NodeFacts], object], model: ModelFacts, node: NodeFacts) -> object:
    try:
        return call(model, node)
    except Exception as error:  # whatever it raises is the finding
        return f"raises {type(error).__name__}: {error}"


def _copies(model: ModelFacts, node: NodeFacts) -> tuple[ModelFacts, NodeFacts]:
    """Equal facts that are other objects."""
    return ModelFacts(*(getattr(model, field) for field in ModelFacts.__struct_fields__)), NodeFacts(
        *(getattr(node, field) for field in NodeFacts.__struct_fields__)
    )


def _problem(rule: Filter | Score, answer: object) -> str:
    if isinstance(answer, str):
        return answer if answer.startswith("raises ") else f"answers {answer!r}"
    if isinstance(rule, Filter):
        return "" if isinstance(answer, bool) else f"answers {answer!r}, not true or false"
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer <= BEST:
        return ""
    return f"answers {answer!r}, no whole number from 0 to {BEST}"

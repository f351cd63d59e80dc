"""``bench prove``: distinct canonical states and edges a second, one process, all checks on."""

from __future__ import annotations

from msgspec.structs import replace

from interlock.simulation.prove.explore import Exploration
from interlock.simulation.prove.scope import Scope
from interlock.simulation.prove.scopes import load_scope
from interlock.simulation.prove.start import begin

from .report import Row, Scale, Tell, row

STATES = 60_000
STATES_PER_SECOND = 10_000
_CASES = {
    "orin-thor, more of everything": ("orin-thor", {"requests": 9, "takeovers": 3, "failures": 3}),
    "holder-lost-against-release": ("holder-lost-against-release", {}),
    "three-nodes-three-models": ("three-nodes-three-models", {}),
}


def measure(scale: Scale, tell: Tell) -> list[Row]:
    """Explore so many states of each scope; the bar is on the incident's."""
    rows: list[Row] = []
    for case, (name, more) in _CASES.items():
        scope = load_scope(name)
        scope = replace(scope, resources=scope.resources | more)
        states, edges, pictures = [], [], []
        for number in range(scale.runs):
            tell(f"prove: {case}, run {number + 1}")
            done = _explore(scope, scale.of(STATES, 500))
            states.append(len(done.parents) / done.seconds)
            edges.append(done.edge_count / done.seconds)
            pictures.append(len(done.cores) / done.seconds)
        judged = not rows
        rows += [
            row(
                case,
                states,
                "states/s",
                bar=f">= {STATES_PER_SECOND} states/s" if judged else None,
                holds=(lambda value, ratio: value >= STATES_PER_SECOND) if judged else None,
            ),
            row(f"{case}: edges", edges, "edges/s"),
            row(f"{case}: pictures", pictures, "pictures/s"),
        ]
    return rows


def _explore(scope: Scope, states_max: int) -> Exploration:
    return Exploration(scope, begin(scope)).run(states_max)

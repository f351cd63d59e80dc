"""Nothing is accepted that changes nothing: every setting, key, fault kind and action has a run made for it.

What there is comes from the parser itself and from the core's settings, so a new key without a row fails here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from interlock.adapters.modelfile import MODEL_KEYS
from interlock.domain.errors import UnreadableFile
from interlock.domain.settings import Settings
from interlock.simulation.reading.fields import Table
from interlock.simulation.reading.parse import ACTIONS
from interlock.simulation.reading.scenario import FAULT_KINDS
from tests.simulation.rows import ILL, QUIET, RANDOM_WORLD, ROWS
from tests.simulation.worlds import Row, behaviour, result_of_change, scenario_of

SHARED = {"admin": {"at", "action", "node", "model", "name"}, "faults": {"at", "kind", "target", "model"}}
"""Keys that mean the same whatever the action or the kind."""
EVERY = [
    *ROWS,
    *(
        Row(
            f"random_faults.{kind}",
            {f"random_faults.{kind}": 400.0},
            {},
            {**RANDOM_WORLD, **ILL.get(kind, {})},
            QUIET.get(kind),
        )
        for kind in FAULT_KINDS
    ),
]


@pytest.mark.parametrize("row", EVERY, ids=lambda row: row.key)
def test_a_key_changes_what_happens(row: Row, tmp_path: Path) -> None:
    assert row.one != row.other, "a row needs two values"
    look = row.look or behaviour
    results = [result_of_change(tmp_path, row, change) for change in (row.one, row.other)]
    assert look(results[0]) != look(results[1]), f"{row.key} is accepted and changes nothing in a run made for it"
    for result in results:
        assert not result.harness.invariants.violations
        assert not result.report["rejected_steps"]
    kinds = re.findall(r"^faults\.kind:(.*)|^random_faults\.(?!length|stop_at)(.*)", row.key)
    for kind in ("".join(found) for found in kinds):
        assert results[0].report["faults"][kind]["effective"] >= 1


def test_everything_that_is_accepted_has_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    have = {row.key for row in EVERY} | {"schema"}
    missing = sorted(accepted(tmp_path, monkeypatch) - have)
    assert not missing, (
        f"accepted without a run that shows what for: {', '.join(missing)}. Add a row for each to "
        "tests/simulation/rows.py: its key, two values, and the world in which they matter."
    )


def test_every_row_is_about_something_that_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    idle = sorted({row.key for row in EVERY} - accepted(tmp_path, monkeypatch))
    assert not idle, f"no such key any more: {', '.join(idle)}"


def test_another_schema_is_refused(tmp_path: Path) -> None:
    assert scenario_of(tmp_path, Row("schema", {"schema": 1}), {"schema": 1}).nodes
    with pytest.raises(UnreadableFile, match="schema = 1"):
        scenario_of(tmp_path, Row("schema", {"schema": 2}), {"schema": 2})


def test_a_model_file_knows_no_key_that_a_scenario_does_not() -> None:
    rows = {row.key.removeprefix("models.") for row in EVERY if row.key.startswith("models.")}
    assert set(MODEL_KEYS) <= rows


def accepted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Every key that the parser asks for while it reads the worlds of all rows, and every kind, action and setting."""
    found = {f"scheduler.{name}" for name in Settings.__struct_fields__}
    found |= {f"faults.kind:{kind}" for kind in FAULT_KINDS} | {f"admin.action:{action}" for action in ACTIONS}
    done = Table.done

    def watched(table: Table) -> None:
        found.update(_keys_of(table))
        done(table)

    with monkeypatch.context() as patch:
        patch.setattr(Table, "done", watched)
        for row in EVERY:
            for change in (row.one, row.other):
                scenario_of(folder, row, change)
    return {key for key in found if not any(other.startswith(f"{key}.") for other in found if other != key)} | {
        row.key for row in EVERY if row.key in found
    }


def _keys_of(table: Table) -> Iterator[str]:
    where = re.sub(r"\[\d+\]", "", table.label)
    kind = {"faults": table.data.get("kind"), "admin": table.data.get("action")}.get(where)
    if where == "scheduler" or (where == "admin" and kind is None):
        return  # settings are known by themselves; and this is the model within an action, read as a model is
    if kind in ("declare-model", "edit-model", "set"):
        return  # a model's keys or settings, beside the shared ones
    shared = SHARED.get(where, set())
    for key in table.known:
        if key in shared:
            if key not in ("action", "kind"):
                yield f"{where}.{key}"
        elif kind is not None:
            yield f"{where}.{kind}.{key}"
        else:
            yield f"{where}.{key}" if where else key

"""The tables that say what there is: they name everything that is there, each once, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from interlock.adapters.runtime.config import Configuration
from interlock.domain.settings import Settings
from interlock.simulation.prove.scopes import bundled_scopes
from tests.house.tree import texts

CELL = re.compile(r"(?<!\\)\|")


def rows_under(path: str, header: str) -> Iterator[list[str]]:
    """The rows of the one table of a file whose header begins so, as cells; each has as many as the header."""
    (table,) = re.findall(rf"^(\| {re.escape(header)} \|.*\n\|-.*\n(?:\|.*\n)+)", texts()[path], re.MULTILINE)
    head, _, *rows = table.splitlines()
    for row in rows:
        cells = [cell.strip() for cell in CELL.split(row)[1:-1]]
        assert len(cells) == len(CELL.split(head)) - 2, f"{path}: this row has not the columns of its table: {row}"
        yield cells


def names_under(path: str, header: str) -> list[str]:
    return [cells[0].strip("`") for cells in rows_under(path, header)]


def test_the_table_of_scopes_names_every_bundled_scope_once() -> None:
    assert sorted(names_under("simulation/prove/README.md", "scope")) == sorted(bundled_scopes())


def test_the_table_of_cycles_that_replay_has_whole_rows() -> None:
    scopes = {cells[1].strip("`") for cells in rows_under("simulation/prove/README.md", "mutant")}
    assert scopes <= set(bundled_scopes())


def test_the_map_of_the_adapters_names_every_room_and_every_loose_module_once() -> None:
    inside = {path.split("/")[1] for path in texts() if re.fullmatch(r"adapters/\w+(/__init__)?\.py", path)}
    linked = [cells[0].split("]")[0].strip("[") for cells in rows_under("adapters/README.md", "room")]
    mapped = [*linked, *names_under("adapters/README.md", "module")]
    assert sorted(mapped) == sorted(inside - {"__init__.py"})


def test_the_tables_of_settings_name_every_setting_with_its_default() -> None:
    defaults = {shown.name: shown.value or "none" for shown in Configuration({}).shown()}
    of_the_cluster = names_under("docs/operations.md", "setting")
    assert of_the_cluster == list(Settings.__struct_fields__), "in the order of their definitions"
    of_a_process = names_under("docs/operations.md", "setting of a process")
    assert sorted([*of_the_cluster, *of_a_process]) == sorted(defaults)
    rows = [*rows_under("docs/operations.md", "setting"), *rows_under("docs/operations.md", "setting of a process")]
    assert {cells[0].strip("`"): cells[1] for cells in rows} == defaults
    assert all(cells[2] for cells in rows)


@pytest.mark.parametrize(
    ("readme", "folder"),
    [
        ("domain/README.md", "domain"),
        ("simulation/README.md", "simulation/judging"),
        ("simulation/README.md", "simulation/mutants"),
    ],
)
def test_a_map_names_every_module_of_its_folder(readme: str, folder: str) -> None:
    inside = [path.removeprefix(f"{folder}/") for path in texts() if re.fullmatch(rf"{folder}/(?!__)\w+\.py", path)]
    assert len(inside) > 9
    assert [name for name in inside if not re.search(rf"\b{name}`", texts()[readme])] == []

"""``interlock plan``: on a cluster that runs, on the log of one that does not, and with files that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from interlock.adapters.store import SqliteStore
from tests.cli.conftest import Shell

CHANGE = """
[scheduler]
min_residency = "0s"

[[models]]
name = "new-one"
backend = "echo"
vram = "1GiB"
min_replicas = 1

[[models]]
name = "broken"
remove = true

[[nodes]]
name = "orin"
drain = true
"""


def written(interlock: Shell, text: str) -> str:
    (interlock.folder / "change.toml").write_text(text)
    return "change.toml"


def test_a_plan_on_the_log_leaves_the_log_alone(interlock: Shell, story_data: Path) -> None:
    store = SqliteStore(story_data / "events.db")
    before = store.head()
    ran = interlock("plan", written(interlock, CHANGE), "--data", story_data)
    assert store.head() == before
    store.close()
    assert "planned on the log's end" in ran.err
    lines = [line.split() for line in ran.out.splitlines()]
    assert ["place", "new-one", "thor", "now"] in [line[:4] for line in lines]
    assert ["unload", "embed", "orin", "now"] in [line[:4] for line in lines]
    assert "min_residency: 30s → 0s" in ran.out
    told = interlock("plan", "change.toml", "--data", story_data, "--json").document
    assert (told["holds"], told["position"]) == (True, before.position)
    assert {line["model"] for line in told["placed"]} >= {"new-one", "embed"}


def test_what_has_no_place_exits_1_and_says_what_would_help(interlock: Shell, story_data: Path) -> None:
    file = written(interlock, '[[models]]\nname = "huge"\nbackend = "echo"\nvram = "999GiB"\nmin_replicas = 2\n')
    ran = interlock("plan", file, "--data", story_data, status=1)
    assert "no place for: huge" in ran.out
    assert "2 copies missing: it does not fit on any of its candidates" in ran.out
    assert "Add a larger node" in ran.out
    [parked] = interlock("plan", file, "--data", story_data, "--json", status=1).document["parked"]
    assert (parked["missing"], parked["reason"], parked["lacks"]) == (2, "never_fits", "node")
    typo = written(interlock, '[[nodes]]\nname = "tohr"\ndrain = true\n')
    assert "no node named 'tohr'" in interlock("plan", typo, "--data", story_data, status=1).out.lower()
    only = written(interlock, '[[nodes]]\nname = "orin"\ndrain = true\n')
    ran = interlock("plan", only, "--data", story_data, status=1)
    assert "no place for: broken" in ran.out, "it may use no other node"
    assert "the nodes that it may use are being drained" in ran.out
    taken = '[[models]]\nname = "new"\nbackend = "echo"\naliases = ["embed"]\n'
    ran = interlock("plan", written(interlock, taken), "--data", story_data, status=1)
    assert "names another model already. Choose another alias." in ran.out


def test_a_model_whose_loads_failed_is_planned_with_a_warning(interlock: Shell, story_data: Path) -> None:
    file = written(interlock, '[[models]]\nname = "broken"\nbackend = "other"\nvram = "1GiB"\nmin_replicas = 1\n')
    ran = interlock("plan", file, "--data", story_data)
    assert "Note: broken: its last 3 attempts failed (no such file); here the next one is taken to succeed." in ran.out


def test_nothing_to_do_is_said_in_one_line(interlock: Shell, story_data: Path) -> None:
    ran = interlock("plan", written(interlock, '[[nodes]]\nname = "orin"\ndrain = false\n'), "--data", story_data)
    assert ran.out.splitlines()[0] == "Nothing would change."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models = 3\n", "change.toml:1: models: is not a list"),
        ("[[models]]\nname = 'a'\n\n[[models]]\nname = 'b'\nvrm = '1GiB'\n", "change.toml:6: models[1].vrm"),
        ("[[nodes]]\nname = 'a'\n[[nodes]]\nname = 'b'\ndrain = 1\n", "change.toml:5: nodes[1].drain"),
        ("[[nodes]]\nname = 'a'\n[scheduler]\n\nmin_residency = 'soon'\n", "change.toml:5: scheduler.min_residency"),
        ("[[nodes]]\nname = 'a'\n\n[replicas]\n", "change.toml:4: replicas: no such key"),
        (
            "[[models]]\nname = 'a'\n[[models]]\nname = 'a'\nremove = true\n",
            "change.toml:4: models[1].name: 'a' stands",
        ),
        ("[[nodes]]\nname = 'a'\n[[nodes]]\nname = 'a'\n", "change.toml:4: nodes[1].name: 'a' stands there twice"),
        ("[[nodes]\n", "change.toml: "),
        ("", "names no change"),
    ],
)
def test_a_wrong_file_exits_2_with_key_and_line(interlock: Shell, story_data: Path, text: str, said: str) -> None:
    ran = interlock("plan", written(interlock, text), "--data", story_data, status=2)
    assert said in ran.err
    assert interlock("plan", "nowhere.toml", "--data", story_data, status=2).out == ""


def test_without_a_cluster_and_without_a_store_it_exits_3(interlock: Shell) -> None:
    file = written(interlock, CHANGE)
    assert "no event store" in interlock("plan", file, "--data", "nowhere", status=3).err.lower()
    assert "no cluster answers" in interlock("plan", file, "--url", "http://127.0.0.1:9", status=3).err.lower()

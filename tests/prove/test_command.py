"""``interlock prove``: what it prints, and how it exits."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from interlock.domain.errors import UsageError
from interlock.domain.units import MINUTE
from interlock.simulation.prove.cli import explored, prove_command
from interlock.simulation.prove.html import page
from interlock.simulation.prove.scopes import BUNDLED, PROTOCOL, load_scope
from interlock.simulation.prove.start import begin
from interlock.simulation.spread import spread

FIELDS = {
    "scope", "mutant", "verdict", "states", "edges", "seconds", "bound", "properties", "violations", "fairness",
    "counterexample",
}  # fmt: skip


def invoke(*args: str) -> tuple[object, str, str]:
    """What the command returns, and what it writes to standard output and standard error."""
    result = CliRunner().invoke(prove_command, args, standalone_mode=False, catch_exceptions=False)
    return result.return_value, result.stdout, result.stderr


def test_one_scope_as_json_is_one_object_and_nothing_else() -> None:
    code, out, _ = invoke("--scope", "backend-gone", "--json")
    report = json.loads(out)
    assert code == 0
    assert set(report) >= FIELDS
    assert report["properties"]["T"] == {"holds": True, "bound": 4, "detail": ""}
    assert report["counterexample"] is None


def test_a_counterexample_is_a_stem_and_a_cycle_and_the_command_exits_with_1() -> None:
    code, out, err = invoke("--scope", "orin-thor", "--mutant", "selector-ignored-in-lookup", "--json")
    shown = json.loads(out)["counterexample"]
    assert code == 1
    assert set(shown) >= {"property", "stem", "cycle", "spurious"}
    assert shown["stem"]
    assert shown["cycle"]
    assert "again and again" in err


def test_scopes_that_other_processes_explore_are_reported_alike_and_in_order() -> None:
    scopes = ["orin-thor", PROTOCOL]
    job = partial(explored, mutant="epoch-unchecked")
    here, elsewhere = (
        [replace(report, seconds=1.0) for report in reports]
        for reports in (map(job, scopes), spread(job, scopes, processes=2))
    )
    assert [report.verdict for report in here] == ["pass", "fail"]
    assert [report.plain() for report in here] == [report.plain() for report in elsewhere]
    assert page(here) == page(elsewhere)


def test_a_scope_is_given_by_file_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text((BUNDLED / "backend-gone.toml").read_text(encoding="utf-8"), encoding="utf-8")
    code, out, _ = invoke("--scope", str(path))
    assert code == 0
    assert out.startswith("backend-gone: pass")


@pytest.mark.parametrize("args", [("--scope", "nowhere"), ("--scope", "orin-thor", "--mutant", "nobody")])
def test_a_wrong_name_is_a_usage_error_that_lists_the_right_ones(args: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        invoke(*args)
    assert "orin-thor" in str(caught.value) or "selector-ignored-in-lookup" in str(caught.value)


def test_what_is_not_explored_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    text = (BUNDLED / "backend-gone.toml").read_text(encoding="utf-8")
    path.write_text(f'{text}\n[[faults]]\nat = "1m"\nkind = "clock-jump"\ntarget = "solo"\n', encoding="utf-8")
    line = len(text.splitlines()) + 2
    with pytest.raises(UsageError, match=rf"mine\.toml:{line}: prove does not explore the fault 'clock-jump'"):
        invoke("--scope", str(path))


def test_what_a_scope_asks_for_and_nothing_is_there_to_try_is_said(tmp_path: Path) -> None:
    text = (BUNDLED / "backend-gone.toml").read_text(encoding="utf-8")
    asking = tmp_path / "asking.toml"
    asking.write_text(f"{text}\n".replace("[scope]", "[scope]\nadmin = true"), encoding="utf-8")
    code, out, err = invoke("--scope", str(asking), "--json")
    assert code == 0
    assert json.loads(out)["untried"] == [
        "no step of an operator is tried: [scope] has admin = true, and there is no [[admin]]"
    ]
    assert "but no step of an operator is tried" in err


CLUSTER = '[[nodes]]\nname = "n"\nvram = "10GiB"\n[[models]]\nname = "a"\nbackend = "echo"\nvram = "6GiB"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{CLUSTER}[scope]\nrequests = 2\n", "2 requests may come, and it has no \\[\\[requests\\]\\]"),
        (CLUSTER, "3 requests may come"),
        (CLUSTER.partition("[[models]]")[0], "no \\[\\[models\\]\\]"),
        ("[[models]]\nname = 'a'\n", "no \\[\\[nodes\\]\\]"),
        ("", "no \\[\\[nodes\\]\\]"),
    ],
    ids=["no request", "no scope", "no model", "no node", "empty"],
)
def test_a_scope_in_which_nothing_is_asked_for_is_no_proof(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=said):
        invoke("--scope", str(path))


def test_a_scope_may_say_that_no_request_comes(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    floor = CLUSTER.replace('"6GiB"\n', '"6GiB"\nmin_replicas = 1\n')
    path.write_text(f"{floor}[scope]\nrequests = 0\n", encoding="utf-8")
    code, out, _ = invoke("--scope", str(path), "--json")
    assert (code, json.loads(out)["verdict"]) == (0, "pass")
    assert json.loads(out)["states"] > 3, "the floor is kept"


ASKED = '[[requests]]\nmodel = "a"\n[scope]\nrequests = 2\n'
STANDS = '[[replicas]]\nmodel = "a"\nnode = "n"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (CLUSTER.replace('"10GiB"', '"10GiB"\nup = false') + STANDS, r":9: replica of a on n: the node is not up"),
        (CLUSTER.replace('"6GiB"', '"16GiB"') + STANDS, r":8: replica of a on n: there is no room for it"),
        (CLUSTER + STANDS * 2, r":11: replica of a on n: the node holds as many of it as it may"),
        (f'{CLUSTER}[[models]]\nname = "b"\naliases = ["a"]\n', r":8: model b: aliases: 'a' names another model"),
        (f'{CLUSTER}[[models]]\nname = "b"\naliases = ["a"]\n{STANDS}', r":8: model b: aliases: 'a' names another"),
        (f'{CLUSTER}[[workloads]]\nkind = "poisson"\nmodel = "a"\nrate = "1/s"\n', r":8: prove does not explore w"),
        (f"{CLUSTER}[random_faults]\nheal = 1.0\n", r":8: prove does not explore random_faults"),
    ],
    ids=["down", "room", "slot", "alias", "alias of what stands", "workloads", "random"],
)
def test_a_world_that_cannot_be_is_refused_with_its_line_as_simulate_does(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text + ASKED, encoding="utf-8")
    with pytest.raises(UsageError, match=r"mine\.toml" + said):
        invoke("--scope", str(path))


def explored_as(tmp_path: Path, model: str, more: str = "") -> dict[str, object]:
    path = tmp_path / "mine.toml"
    path.write_text(CLUSTER + more + ASKED.replace('"a"', f'"{model}"'), encoding="utf-8")
    _, out, _ = invoke("--scope", str(path), "--json")
    found: dict[str, object] = json.loads(out)
    return found


@pytest.mark.parametrize("stands", ["", STANDS], ids=["cold", "warm"])
def test_requests_for_an_alias_are_those_for_its_model(tmp_path: Path, stands: str) -> None:
    mine, alias = explored_as(tmp_path, "a", stands), explored_as(tmp_path, "z", f'aliases = ["z"]\n{stands}')
    assert (mine["verdict"], alias["verdict"]) == ("pass", "pass")
    assert mine["states"] == alias["states"]
    assert alias["untried"] == []


def test_requests_for_what_nobody_declares_are_said_to_prove_little(tmp_path: Path) -> None:
    untried = explored_as(tmp_path, "nobody")["untried"]
    assert untried == ["requests for nobody are refused, and nothing else: no model and no alias is called so"]


def test_what_stands_lies_in_its_pools_and_stays_as_long_as_the_file_says(tmp_path: Path) -> None:
    text = CLUSTER.replace('vram = "10GiB"', 'pools = ["10GiB", "10GiB"]')
    path = tmp_path / "mine.toml"
    path.write_text(f'{text}{STANDS}pools = [1]\nevictable_in = "1m"\n{ASKED}', encoding="utf-8")
    (replica,) = begin(load_scope(str(path))).state.replicas.values()
    assert [pool for pool, _ in replica.claim] == [1]
    assert replica.evictable_at - replica.loaded_at == MINUTE


def test_the_report_for_people_says_what_is_assumed() -> None:
    _, out, _ = invoke("--scope", "orin-thor")
    assert "assuming that a worker that hears answers what it is asked; that an instant" in out


def test_a_page_that_cannot_be_written_is_refused_before_anything_is_explored(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        invoke("--html", str(tmp_path / "nowhere" / "page.html"))

"""``interlock simulate`` and ``interlock mutants`` as they are called: output, exit status, files."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from interlock.adapters.cli import app
from interlock.simulation.reading.scenario import read_text

KEYS = {
    "scenario", "seed", "mutant", "verdict", "virtual_seconds", "wall_seconds", "events", "requests", "served_on",
    "loads", "evictions", "unloads", "holders_lost", "effects", "faults", "wait_seconds", "properties", "invariants",
    "expectations", "coverage", "log_hash", "state_hash",
}  # fmt: skip


def call(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = app.run(list(arguments))
    out, err = capfd.readouterr()
    return status, out, err


def test_the_incident_is_served_and_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capfd, "simulate", "orin-thor")
    assert status == 0
    assert "PASS" in out
    assert "10 served" in out


def test_under_its_mutant_the_report_shows_the_loop_in_the_incidents_words(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capfd, "simulate", "orin-thor", "--mutant", "selector-ignored-in-lookup")
    assert status == 1
    words = ["no longer matches selector", "no free replica slot, evicting LRU", "all models have in-flight requests"]
    places = [out.index(word) for word in words]
    assert places == sorted(places)
    assert out.count(words[0]) >= 3
    assert "interlock simulate orin-thor --seed 1 --mutant selector-ignored-in-lookup" in err


def test_a_reconciler_without_load_info_is_found_by_its_effects(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capfd, "simulate", "orin-thor", "--mutant", "empty-backend-scaleup", "--json")
    report = json.loads(out)
    assert status == 1
    assert not report["properties"]["Q"]["holds"]
    assert report["effects"]["backend.install"] > 10
    _, out, _ = call(capfd, "simulate", "orin-thor", "--mutant", "empty-backend-scaleup")
    assert out.count("backend.install of '' → rejected by the worker: backend: no backend is named '' here") == 3


def test_a_failure_prints_the_line_that_runs_it_again_whatever_it_was_run_with(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "my requests.jsonl"
    trace.write_text('{"at": "1s", "model": "nobody"}\n{"at": "80s", "model": "nobody"}\n{"at": "99s", "model": "x"}\n')
    arguments = ("simulate", "orin-thor", "--seed", "3", "--until", "90s", "--requests", str(trace))
    status, _, err = call(capfd, *arguments)
    told = shlex.split(err.strip().splitlines()[-1])
    again, out, _ = call(capfd, *told[1:], "--json")
    assert (status, again, told[0]) == (1, 1, "interlock")
    assert (json.loads(out)["requests"]["submitted"], json.loads(out)["virtual_seconds"]) == (2, 90.0)


@pytest.mark.parametrize(
    "arguments", [("simulate", "orin-thor", "--mutant"), ("mutants", "--only"), ("prove", "--mutant")]
)
def test_a_mutant_that_nobody_knows_is_a_mistake_of_the_caller(
    arguments: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    status, out, err = call(capfd, *arguments, "no-such-bug")
    assert (status, out) == (2, "")
    assert "no-such-bug" in err.lower()
    assert "selector-ignored-in-lookup" in err


def test_json_is_one_document_with_the_contracts_keys(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capfd, "simulate", "store-stalls", "--json")
    report = json.loads(out)
    assert status == 0
    assert not err
    assert report.keys() >= KEYS
    requests = report["requests"]
    ends = requests["served"] + sum(requests["refused"].values()) + sum(requests["failed"].values())
    assert requests["submitted"] == ends + requests["waiting"] + requests["running"]
    assert set(report["properties"]) == set("TUSQW")
    assert report["properties"]["T"]["bound"] == 8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("simulate", "no-such-thing"), "no scenario is named"),
        (("simulate", "orin-thor", "--mutant", "gremlin"), "mutant"),
        (("simulate", "orin-thor", "--until", "soon"), "duration"),
        (("simulate", "orin-thor", "--seeds", "2", "--html", "x.html"), "--seeds"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    status, _, err = call(capfd, *arguments)
    assert status in (1, 2)
    assert words in err.lower()
    assert "Traceback" not in err


def test_events_are_a_store_that_the_audit_reads(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    assert call(capfd, "simulate", "two-leaders", "--events", str(path))[0] == 0
    status, out, _ = call(capfd, "audit", "verify", "--store", f"sqlite:///{path}", "--json")
    assert status == 0, out
    status, out, _ = call(capfd, "audit", "log", "--store", f"sqlite:///{path}", "--limit", "1", "--json")
    assert status == 0
    assert "2026-01-01T00:00:00" in out
    status, _, err = call(capfd, "simulate", "two-leaders", "--events", str(path))
    assert status == 2
    assert "exists already" in err


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ("postgresql://me:secret@db.example/interlock", "postgresql://... is the address of a store"),
        ("no/such/folder/run.db", "there is no folder no/such/folder"),
        ("sqlite:///no/such/run.db", "there is no folder no/such"),
    ],
)
def test_events_that_can_be_written_nowhere_are_refused_before_the_run(
    capfd: pytest.CaptureFixture[str], events: str, words: str
) -> None:
    status, out, err = call(capfd, "simulate", "orin-thor", "--events", events)
    assert (status, out) == (2, "")
    assert words in err
    assert "secret" not in err


@pytest.mark.parametrize("option", ["--html", "--shrink"])
def test_files_that_can_be_written_nowhere_are_refused_before_the_run(
    capfd: pytest.CaptureFixture[str], option: str
) -> None:
    status, out, err = call(capfd, "simulate", "orin-thor", option, "no/such/folder/file")
    assert (status, out) == (2, "")
    assert "there is no folder no/such/folder" in err


@pytest.mark.parametrize("device", ["/dev/stdin", "/dev/fd/0"])
@pytest.mark.parametrize("piped", [True, False], ids=["pipe", "file"])
def test_a_scenario_may_come_through_a_pipe(tmp_path: Path, device: str, piped: bool) -> None:
    text = read_text("two-gpus-one-model")
    (tmp_path / "s.toml").write_text(text)
    program = [sys.executable, "-m", "interlock.adapters.cli", "simulate", device, "--json"]
    with (tmp_path / "s.toml").open() as file:
        given: dict[str, Any] = {"input": text} if piped else {"stdin": file}
        done = subprocess.run(program, capture_output=True, text=True, check=False, **given)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["scenario"] == "two-gpus-one-model"


def test_the_page_stands_alone_and_tells_the_whole_run(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "run.html"
    arguments = ("simulate", "orin-thor", "--mutant", "selector-ignored-in-lookup", "--html", str(path))
    assert call(capfd, *arguments)[0] == 1
    text = path.read_text(encoding="utf-8")
    head, _, rest = text.partition('<script type="application/json" id="data">')
    data = json.loads(rest.partition("</script>")[0])
    assert "http" not in head
    assert [node["name"] for node in data["nodes"]] == ["agx-orin-slow", "nvidia-thor"]
    assert data["violations"][0]["property"] == "T"
    assert any("no longer matches selector" in row[3] for decision in data["decisions"] for row in decision["rows"])


def test_no_name_or_description_keeps_the_page_from_being_read(tmp_path: Path) -> None:
    """After ``<!--<script`` an end of the script element is none, and the data would go on to the end of the page."""
    evil = "<!--<script>, </script> & ]]>"
    asked, path = tmp_path / "asked.toml", tmp_path / "run.html"
    asked.write_text(f'name = "{evil}"\ndescription = "{evil}"\n', encoding="utf-8")
    assert app.run(["simulate", str(asked), "--html", str(path)]) == 0
    _, _, rest = path.read_text(encoding="utf-8").partition('<script type="application/json" id="data">')
    text = rest.partition("</script>")[0]
    assert "<" not in text
    assert (json.loads(text)["name"], json.loads(text)["description"]) == (evil, evil)


def test_a_failing_run_shrinks_to_a_file_that_still_fails(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    arguments = ("--mutant", "drain-keeps-routing")
    assert call(capfd, "simulate", "drain-under-load", *arguments, "--shrink", str(path))[0] == 1
    small = path.read_text(encoding="utf-8")
    assert small.count("[[nodes]]") == 1
    assert small.count("[[admin]]") == 1
    assert call(capfd, "simulate", str(path), *arguments)[0] == 1
    assert call(capfd, "simulate", str(path))[0] == 0


def test_a_run_with_a_trace_shrinks_to_a_file_elsewhere_that_finds_the_trace(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "far" / "there"
    here.mkdir()
    there.mkdir(parents=True)
    (here / "many.jsonl").write_text("".join(f'{{"at": "{at}ms"}}\n' for at in range(500)))
    (here / "asked.toml").write_text(
        'duration = "1m"\n[[nodes]]\nname = "n"\nvram = "24GiB"\n'
        '[[models]]\nname = "m"\nbackend = "echo"\nvram = "1GiB"\nparallel = 0\n'
        '[[workloads]]\nkind = "trace"\nformat = "jsonl"\npath = "many.jsonl"\nmodel = "m"\n'
        "[expect]\nserved = { max = 450 }\n"
    )
    small = there / "small.toml"
    assert call(capfd, "simulate", str(here / "asked.toml"), "--shrink", str(small))[0] == 1
    assert 'path = "../../here/many.jsonl"' in small.read_text(encoding="utf-8")
    status, out, _ = call(capfd, "simulate", str(small), "--json")
    assert (status, json.loads(out)["requests"]["submitted"]) == (1, 500)


def test_what_too_few_were_served_for_stays_when_a_run_shrinks(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One of three requests is too large for the node; without any request as few as one may wish would be served."""
    asked, small = tmp_path / "asked.toml", tmp_path / "small.toml"
    asked.write_text(
        'duration = "5m"\n'
        '[[nodes]]\nname = "one"\nvram = "24GiB"\n[[nodes]]\nname = "other"\nvram = "4GiB"\n'
        '[[models]]\nname = "fits"\nbackend = "echo"\nvram = "8GiB"\n'
        '[[models]]\nname = "too-large"\nbackend = "echo"\nvram = "80GiB"\n'
        '[[requests]]\nmodel = "fits"\nat = "1s"\ncount = 2\n'
        '[[requests]]\nmodel = "too-large"\nat = "2s"\n'
        "[expect]\nserved = 3\n",
        encoding="utf-8",
    )
    assert call(capfd, "simulate", str(asked), "--shrink", str(small))[0] == 1
    text = small.read_text(encoding="utf-8")
    assert text.count("[[nodes]]") == 1
    assert "fits" not in text
    status, out, _ = call(capfd, "simulate", str(small), "--json")
    data = json.loads(out)
    (served,) = [row for row in data["expectations"] if row["name"] == "served"]
    assert (status, served["holds"], data["requests"]["refused"]) == (1, False, {"never_fits": 1})


CROWDED = """
duration = "10m"
[[nodes]]
name = "one"
vram = "24GiB"
[[nodes]]
name = "other"
vram = "24GiB"
[[models]]
name = "m"
backend = "echo"
vram = "20GiB"
service_time = "5s"
min_replicas = 1
max_replicas = 1
"""
"""A model with one copy, which serves a request in five seconds."""


def shrunk(
    capfd: pytest.CaptureFixture[str], folder: Path, text: str, *arguments: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What this scenario shrinks to, as the tables of its file, and the report of the run of that file alone."""
    asked, small = folder / "asked.toml", folder / "small.toml"
    asked.write_text(text, encoding="utf-8")
    assert call(capfd, "simulate", str(asked), *arguments, "--shrink", str(small))[0] == 1
    status, out, _ = call(capfd, "simulate", str(small), "--json")
    assert status == 1, out
    return tomllib.loads(small.read_text(encoding="utf-8")), json.loads(out)


def test_what_too_many_were_refused_for_stays_when_a_run_shrinks(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Of 400 requests at one a second hardly one in five is served: without a node or a model none would be."""
    asked = CROWDED + '[[requests]]\nmodel = "m"\nat = "1s"\ncount = 400\ndeadline = "10s"\n[expect]\nrefused = 0\n'
    small, report = shrunk(capfd, tmp_path, asked)
    assert report["requests"]["refused"].keys() == {"capacity_exhausted"}
    assert (len(small["nodes"]), len(small["models"])) == (1, 1)
    assert report["requests"]["submitted"] <= 3


def test_a_refusal_that_was_not_there_at_first_is_no_reason_to_leave_out_a_model(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    nobodys = '[[requests]]\nmodel = "nobody"\nat = "1s"\n'
    asked = f'{CROWDED}{nobodys}[[requests]]\nmodel = "m"\nat = "1s"\ncount = 60\ndeadline = "10s"\n'
    for expected in ("refused = 0", "refused_as = { capacity_exhausted = 0 }"):
        small, report = shrunk(capfd, tmp_path, f"{asked}[expect]\n{expected}\n")
        assert report["requests"]["refused"].keys() == {"capacity_exhausted"}
        assert {row["model"] for row in small["requests"]} == {"m"}
    small, report = shrunk(capfd, tmp_path, f"{asked}[expect]\nrefused_as = {{ unknown_model = 0 }}\n")
    assert report["requests"]["refused"] == {"unknown_model": 1}
    assert [row["model"] for row in small["requests"]] == ["nobody"]


def test_what_waits_at_the_end_is_not_what_waits_on_the_way(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Whoever comes waits for the copy while it is loaded; at the end only for the one whom it serves for an hour."""
    asked = CROWDED.replace("5s", "1h") + '[[requests]]\nmodel = "m"\ncount = 9\ndeadline = "1h"\n'
    small, report = shrunk(capfd, tmp_path, asked + "[expect]\nwaiting_at_end = 0\n")
    assert (report["virtual_seconds"], report["requests"]["waiting"], report["requests"]["running"]) == (600.0, 1, 1)
    assert [row.get("count", 1) for row in small["requests"]] in ([2], [1, 1])


def test_too_much_of_anything_is_still_too_much_when_a_run_shrinks(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked = CROWDED + '[[requests]]\nmodel = "m"\nat = "20s"\ncount = 60\n[expect]\nserved = { max = 10 }\n'
    small, report = shrunk(capfd, tmp_path, asked)
    assert report["requests"]["served"] == 11
    assert sum(row.get("count", 1) for row in small["requests"]) in (11, 12)
    assert len(small["requests"]) == 1, "a row that stands for many is not written out for nothing"


def test_single_requests_in_the_middle_of_a_row_are_left_out_too(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """For the first the model is loaded; the next find its node down, and for the one after them it is loaded anew."""
    alone = CROWDED.replace('[[nodes]]\nname = "other"\nvram = "24GiB"\n', "").replace("min_replicas = 1\n", "")
    asked = alone + (
        '[[requests]]\nmodel = "m"\ncount = 9\nevery = "1m"\ndeadline = "30s"\n'
        '[[faults]]\nat = "50s"\nkind = "node-crash"\ntarget = "one"\nfor = "2m"\n[expect]\nloads = { max = 1 }\n'
    )
    small, report = shrunk(capfd, tmp_path, asked)
    assert [row.get("at", "0s") for row in small["requests"]] == ["0s", "3m"]
    assert report["loads"] == 2


def test_a_run_of_a_trace_up_to_a_moment_shrinks_to_a_file_that_needs_neither(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    trace = tmp_path / "asked.jsonl"
    lines = [f'{{"at": "{at}s", "model": "m", "deadline": "10s", "priority": {at % 3}}}\n' for at in range(300)]
    trace.write_text("".join(lines), encoding="utf-8")
    asked = CROWDED + '[[requests]]\nmodel = "m"\nat = "1s"\n[expect]\nrefused = 0\n'
    small, report = shrunk(capfd, tmp_path, asked, "--requests", str(trace), "--until", "2m30s")
    assert "workloads" not in small
    assert report["virtual_seconds"] <= 150
    assert report["requests"]["refused"].keys() == {"capacity_exhausted"}
    assert 2 <= report["requests"]["submitted"] <= 3


def test_the_prompts_of_a_trace_are_written_out_where_they_are_what_it_fails_for(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    trace = tmp_path / "asked.jsonl"
    rows = [{"timestamp": 60_000 + 10_000 * at, "hash_ids": [1, 2, 100 + at]} for at in range(30)]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    cached = CROWDED + 'prefill_time = "10ms"\nprefix_cache = 64\n[expect]\ncached_share = 0\n'
    small, report = shrunk(capfd, tmp_path, cached, "--requests", str(trace))
    assert "workloads" not in small
    first, second = small["requests"]
    assert [*first["prompt"]][:2] == [*second["prompt"]][:2]
    assert report["prompts"] == {"blocks": 6, "cached": 2, "cached_share": 0.3333}


def test_a_run_that_fails_only_up_to_a_moment_shrinks(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """In ten minutes all are served, in one not."""
    asked = CROWDED + '[[requests]]\nmodel = "m"\nat = "1s"\ncount = 20\n[expect]\nserved = { min = 20 }\n'
    small, report = shrunk(capfd, tmp_path, asked, "--until", "1m")
    assert report["virtual_seconds"] <= 60
    assert report["requests"]["waiting"] == 11
    assert len(small["nodes"]) == 1


def test_a_sweep_names_the_seeds_that_fail_and_how_to_replay_them(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capfd, "simulate", "in-flight-after-churn", "--seeds", "4", "--json")
    assert status == 0
    assert json.loads(out)["seeds"] == {"first": 1, "count": 4, "failed": 0}
    assert "4/4 seeds" in err
    status, out, _ = call(capfd, "simulate", "priorities", "--seeds", "2", "--mutant", "priority-inverted", "--json")
    data = json.loads(out)
    assert status == 1
    assert [failure["seed"] for failure in data["failures"]] == [1, 2]
    assert data["failures"][1]["replay"] == "interlock simulate priorities --seed 2 --mutant priority-inverted"


def test_a_sweep_with_a_trace_runs_its_requests_under_each_seed_and_names_it_where_it_fails(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "my requests.jsonl"
    trace.write_text('{"at": "1s", "model": "nobody"}\n{"at": "80s", "model": "nobody"}\n', encoding="utf-8")
    arguments = ("simulate", "orin-thor", "--requests", str(trace))
    status, out, _ = call(capfd, *arguments, "--seeds", "2", "--seed", "5", "--json")
    data = json.loads(out)
    assert (status, data["requests"], data["coverage"]["refusals"]["unknown_model"]) == (1, 4, 4)
    told = shlex.split(data["failures"][1]["replay"])
    assert told[1:] == ["simulate", "orin-thor", "--seed", "6", "--requests", str(trace)]
    assert json.loads(call(capfd, *told[1:], "--json")[1])["requests"]["refused"] == {"unknown_model": 2}


def test_hashes_are_the_same_under_any_hash_seed() -> None:
    program = (
        "from interlock.simulation import run; r = run('mixed', until=240_000_000).report;"
        "print(r['log_hash'], r['state_hash'])"
    )
    answers = set()
    for seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
        answers.add(done.stdout)
    assert len(answers) == 1
    assert len(answers.pop().split()) == 2


def test_the_list_of_mutants_has_the_contracts_fields(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capfd, "mutants", "--only", "pin-ignored", "--json")
    rows = json.loads(out)
    assert status == 0
    assert {"name", "killed", "property", "found_by", "witness"} <= rows[0].keys()

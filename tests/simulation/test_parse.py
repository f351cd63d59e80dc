"""Scenario files: everything that may be written is read, and everything else is refused with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from interlock.domain.entities import Scheduling
from interlock.domain.errors import UnreadableFile
from interlock.domain.units import FOREVER, GIB, SECOND
from interlock.simulation import Scenario, run
from interlock.simulation.reading import toml
from interlock.simulation.reading.scenario import bundled_names, read_text
from tests.simulation.support import TWO_NODES, scenario


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('[[nodes]]\nname = "x"\nvrm = "1GiB"', 3, "vrm: is no key here"),
        ('[[nodes]]\nname = "x"\nvram = 24', 3, "24 has no unit"),
        ('[[nodes]]\nname = "x"\nvram = "99999999999TiB"', 3, "larger than any machine"),
        ('[[nodes]]\nname = "x"\npools = [24, 24]', 3, "24 has no unit"),
        ('[[nodes]]\nname = "x"\nvram_budget = 80', 3, "80 has no unit"),
        ('[[nodes]]\nname = "x"\nlabels = { "node.name" = "y" }', 3, "automatic"),
        ('[[nodes]]\nname = "x\\ny"', 1, "no name has"),
        ('[[models]]\nname = "x\\ty"', 1, "no name has"),
        ('[[models]]\nname = "x"\n[[models]]\nname = "y"\naliases = ["x"]', 3, "names another model"),
        (f'[[models]]\nname = "{"x" * 300}"', 1, "too long"),
        ('[[models]]\nname = "x"\nbackend = ""', 3, "backend: is empty"),
        ('[[models]]\nname = "x"\nservice_time = "lognormal 2s 1000"', 3, "not a distribution"),
        (f'[[models]]\nname = "x"\nparallel = {10**30}', 3, "too much"),
        ('[[requests]]\nmodel = "m"\npriority = 5000', 3, "too much"),
        ('[[requests]]\nmodel = "m"\nevery = "0s"\ncount = 3000000', 4, "too much"),
        ('[[replicas]]\nmodel = "m"\nnode = "a"\n[[replicas]]\nmodel = "m"\nnode = "a"', 4, "as many of it as it may"),
        ('[[faults]]\nat = "1s"\nkind = "slow-load"\ntarget = "a"\nfactor = 0', 5, "factor: is 0"),
        ('[[admin]]\nat = "1s"\naction = "set-scheduling"\nmodel = "m"', 1, "changes nothing"),
        ('[[admin]]\nat = "1s"\naction = "set-scheduling"\nmodel = "m"\npined = true', 5, "pined: is no key here"),
        ("[expect]\nserved = { min = 5, max = 1 }", 2, "min is above max"),
        ("[schedular]\nqueue_limit = 1", 1, "schedular: is no key here"),
        ('name = "x"\n\n[[request]]\nmodel = "m"', 3, "request: is no key here"),
        ('[[nodes]]\nname = "x"\nvram = "24 parsecs"', 3, "not a size"),
        ('[[nodes]]\nname = "x"\npools = "24GiB"', 3, "no list of sizes"),
        ('[[nodes]]\nname = "x"\nlabels = { tier = 3 }', 3, "is not text"),
        ('[[nodes]]\nname = "x"\n\n[[nodes]]\nname = "x"', 5, "taken"),
        ('[[models]]\nname = "x"\nreplicas = "some"', 3, "not known"),
        ('[[models]]\nname = "x"\nmin_replicas = 3\nmax_replicas = 2', 3, "above max_replicas"),
        ('[[models]]\nname = "x"\nservice_time = "gauss 2s"', 3, "distribution"),
        ('[[models]]\nname = "x"\nnode_selector = { tier = 1 }', 3, "not a term"),
        ('[scheduler]\nmin_residence = "1s"', 2, "min_residence"),
        ('[scheduler]\nmin_residency = "soon"', 2, "duration"),
        ('[[faults]]\nat = "1s"\nkind = "meteor"', 3, "meteor"),
        ('[[faults]]\nat = "1s"\nkind = "node-crash"', 1, "target: is missing"),
        ('[[faults]]\nat = "1s"\nkind = "heal"\ntarget = "a"\nfor = "3s"', 5, "for: is no key here"),
        ('[[faults]]\nat = "2h"\nkind = "writer-crash"', 2, "after the end"),
        ('[[admin]]\nat = "1s"\naction = "drain"\nnode = "zz"', 4, "not declared"),
        ('[[admin]]\nat = "1s"\naction = "resume"\nnode = "a"\ndeadline = "1m"', 5, "deadline: is no key here"),
        ('[[admin]]\nat = "1s"\naction = "set"\nmin_residncy = "1s"', 4, "min_residncy"),
        ('[[workloads]]\nkind = "poisson"\nmodel = "m"', 1, "rate: is missing"),
        ('[[workloads]]\nkind = "poisson"\nmodel = "m"\nrate = "2"', 4, "not a rate"),
        ('[[workloads]]\nkind = "trace"\nformat = "jsonl"\npath = "nowhere.jsonl"', 4, "is no file"),
        ('[[workloads]]\nkind = "poisson"\nrate = "1/s"\nzipf = { models = 50, s = 1.1 }', 4, "50 models"),
        ('[[workloads]]\nkind = "poisson"\nmodel = "m"\nrate = "90000/s"', 4, "makes about 162,000,000 requests"),
        (
            '[[workloads]]\nkind = "poisson"\nrate = "1/s"\nzipf = { models = 1, s = 1000 }',
            4,
            "zipf.s: 1000 is too much",
        ),
        ('[[workloads]]\nkind = "poisson"\nrate = "1/s"\nmodels = {}', 4, "none has a weight"),
        ('[[workloads]]\nkind = "poisson"\nrate = "1/s"\nmodels = { "" = 1 }', 4, "one has no name"),
        ('[[workloads]]\nkind = "poisson"\nrate = "1/s"\nmodels = { m = 1e308 }', 4, "too much"),
        ('[[workloads]]\nkind = "poisson"\nrate = "1/s"\nmodel = ""', 4, "model: is empty"),
        ('[[requests]]\nmodel = ""', 2, "model: is empty"),
        ('[[faults]]\nat = "1s"\nkind = "slow-load"\ntarget = "a"\nfactor = 1e308', 5, "1e+308 is too much"),
        ('[[workloads]]\nkind = "poisson"\nmodel = "m"\nrate = "2/s"\nfrom = "30m"', 5, "from: is the end of the run"),
        ("[random_faults]\nmeteor = 2.0", 2, "meteor"),
        ("[random_faults]\nheal = 1e9", 2, "heal: makes about 500,000,000 faults"),
        ('[expect]\nserved = "many"', 2, "served"),
        ("[expect]\nrefused_as = { no_luck = 1 }", 2, "no_luck"),
        ('[expect]\nproperties = ["X"]', 2, "properties"),
        ('[scope]\nrequests = "three"', 2, "wrong kind"),
        ("name = 3 4", 1, ""),
        ('[[nodes]]\nname = "x"\n[nodes.labels]\nzone = "z"\ntier = 3', 5, "labels.tier: 3 is not text"),
        ('[[nodes]]\nname = "x"\nlabels.tier = 3', 3, "labels.tier: 3 is not text"),
        ('[[nodes]]\nname = "x"\n[nodes.labels]\na = "1"\n[[nodes]]\nname = "y"\nvram = 3', 7, "3 has no unit"),
        ('[[models]]\nname = "x"\n[models.node_selector]\ntier = 1', 4, "not a term"),
        ("[expect.refused_as]\nno_luck = 1", 1, "no_luck"),
        ("[expect]\nserved = 1\n[expect.refused_as]\nno_luck = 1", 3, "no_luck"),
        ('[[workloads]]\nkind = "poisson"\nrate = "1/s"\n[workloads.zipf]\nmodels = 1\ns = 1000', 6, "too much"),
        ('name = "x"\nnodes = [\n  { name = "a", vram = "1GiB" },\n  { name = "b", vram = 24 },\n]', 4, "no unit"),
        ('name = "x"\nnodes = [\n  {name = "a"},\n  {labels = {}, name = "b", vrm = "1GiB"},\n]', 4, "vrm: is no key"),
        ('name = "x"\nnodes = [{ name = "a" }, { name = "a" }]', 2, "taken"),
    ],
)
def test_what_is_wrong_is_named_with_its_key_and_line(text: str, line: int, words: str) -> None:
    whole = text if text.startswith(("[[nodes]]", "name")) else f"{text}\n{TWO_NODES}"
    with pytest.raises(UnreadableFile) as caught:
        run(scenario(whole))
    assert words in str(caught.value)
    assert f"line {line}" in str(caught.value) or f"test:{line}:" in str(caught.value)


def test_defaults_are_the_contracts() -> None:
    read = scenario('[[nodes]]\nname = "n"\n[[models]]\nname = "m"\n[[requests]]\nmodel = "m"')
    node, model, request = read.nodes[0], read.models[0], read.requests[0]
    assert (node.max_replicas_per_model, node.approved, node.up, node.load_rate) == (1, True, True, GIB)
    assert (node.install_time, node.unload_time, node.stage_rate) == (0, 0, 0)
    assert (model.scheduling.parallel, model.scheduling.max_replicas, model.spec.backend) == (1, 0, "")
    assert (request.at, request.count, request.every, request.deadline) == (0, 1, SECOND, 0)
    assert read.expect.properties == ("T", "U", "S", "Q", "W")


def test_a_file_may_begin_with_the_mark_of_its_order(tmp_path: Path) -> None:
    path = tmp_path / "from-an-editor.toml"
    path.write_bytes(b"\xef\xbb\xbf" + TWO_NODES.encode())
    assert [node.name for node in Scenario.load(path).nodes] == ["a", "b"]


def test_no_time_at_all_to_wait_is_no_default() -> None:
    """A deadline of nothing is served where a copy is warm, and told so at once where none is."""
    asked = '[[requests]]\nmodel = "m"\nat = "{at}"\ndeadline = "0s"\n'
    counts = run(scenario(TWO_NODES + asked.format(at="1s") + asked.format(at="1m"))).report["requests"]
    assert (counts["served"], counts["refused"]) == (1, {"loading": 1})


def test_everything_that_the_contract_shows_is_read(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"at": "1s", "model": "m"}\n')
    text = (
        TWO_NODES
        + """
[[nodes]]
name = "c"
pools = ["24GiB", "24GiB"]
vram_budget = "80%"
ram = "64GiB"
disk = "900GiB"
stage_rate = "1GiB/s"
up = false
[[replicas]]
model = "m"
node = "a"
in_flight = 1
busy_for = "forever"
[[workloads]]
kind = "trace"
path = "t.jsonl"
format = "jsonl"
[[faults]]
at = "5m"
kind = "clock-jump"
target = "a"
by = "-1h"
for = "forever"
[[admin]]
at = "1m"
action = "set-scheduling"
model = "m"
node_selector = { "!tier" = ["x", "y"] }
idle_unload = "2m"
[random_faults]
node-crash = 2.0
length = "exp 20s"
stop_at = "20m"
[expect]
served = { min = 1, max = 3 }
effects = { "backend.install" = { max = 9 } }
quiet_after = "5m"
"""
    )
    read = Scenario.parse(text, "whole", tmp_path)
    assert read.nodes[2].pools == (24 * GIB, 24 * GIB)
    assert read.faults[0].by == -3600 * SECOND
    assert read.faults[0].length == FOREVER
    assert read.admin[0].values["merge"](Scheduling(pinned=True)).idle_unload == 120 * SECOND
    assert read.replicas[0].busy_for == FOREVER
    assert str(read.expect.numbers["served"]) == "min 1 max 3"


LATER = '[[admin]]\nat = "2m"\naction = "edit-model"\nname = "x"\nmin_replicas = 1\n'
EARLIER = '[[admin]]\nat = "1m"\naction = "declare-model"\nname = "x"\nbackend = "echo"\nvram = "1GiB"\n'


@pytest.mark.parametrize("steps", [LATER + EARLIER, EARLIER + LATER], ids=["later-first", "in-order"])
def test_the_steps_of_an_operator_may_be_written_in_any_order(steps: str) -> None:
    """They are read, and judged, in the order in which they are taken."""
    asked = '[[requests]]\nmodel = "x"\nat = "3m"\n[[requests]]\nmodel = "x"\nat = "150s"\n'
    fault = '[[faults]]\nat = "5m"\nkind = "process-kill"\nmodel = "x"\n'
    result = run(scenario(fault + steps + asked + TWO_NODES + "[expect]\nreplicas_at_end = { x = 1 }\n"))
    assert result.passed
    assert result.harness.operators.rejected == []
    assert [step.action for step in result.harness.scenario.admin] == ["declare-model", "edit-model"]


def test_a_step_is_judged_over_those_before_it_in_time_and_blamed_at_its_own_line() -> None:
    low = '[[admin]]\nat = "2m"\naction = "edit-model"\nname = "x"\nmax_replicas = 2\n'
    high = '[[admin]]\nat = "3m"\naction = "edit-model"\nname = "x"\nmin_replicas = 3\n'
    with pytest.raises(UnreadableFile, match=r"test:5: admin\[0\]\.min_replicas: 3 is above max_replicas"):
        scenario(high + low + EARLIER + TWO_NODES)


def test_a_step_before_its_model_is_declared_is_refused_wherever_it_stands() -> None:
    too_early = EARLIER.replace("1m", "3m") + LATER
    with pytest.raises(UnreadableFile, match=r"test:10: admin\[1\]\.name: no model is named 'x'"):
        scenario(too_early + TWO_NODES)


@pytest.mark.parametrize("name", bundled_names())
def test_what_is_written_again_reads_the_same(name: str) -> None:
    text = read_text(name)
    first = Scenario.parse(text, name)
    assert Scenario.parse(toml.dump(first.raw), name).raw == first.raw

"""Orders to workers go out as in production: one of an operation at a time, and again when it was lost.

And files come once for all orders that want them.
"""

from __future__ import annotations

from collections import Counter

import pytest

from interlock.domain.units import GIB, SECOND
from interlock.simulation import Scenario
from interlock.simulation.api import Result, run

WORLD = """
duration = "10m"
[[nodes]]
name = "n"
vram = "24GiB"
{node}
[[models]]
name = "m"
backend = "echo"
vram = "9GiB"
min_replicas = 1
"""
CRASH = '[[faults]]\nkind = "node-crash"\nat = "1m"\ntarget = "n"\nfor = "1m"\n'


def run_of(text: str, node: str = "") -> Result:
    result = run(Scenario.parse(WORLD.format(node=node) + text))
    assert result.passed, (result.report["violations"], result.report["expectations"])
    return result


def sent(result: Result, name: str) -> list[float]:
    """When orders of this name went out, in seconds."""
    return [at / SECOND for at, effect in result.harness.effect_times if effect.name == name]


@pytest.mark.parametrize("install_time", ["2s", "3m"])
def test_a_machine_that_comes_back_is_sent_each_order_once_however_long_it_takes(install_time: str) -> None:
    expected = '[expect]\neffects = { "backend.install" = { max = 2 } }\nreplicas_at_end = { m = 1 }\n'
    assert sent(run_of(CRASH + expected, f'install_time = "{install_time}"'), "backend.install") == [0, 120]


def test_a_machine_that_comes_up_late_is_sent_each_order_once() -> None:
    result = run_of('[[faults]]\nkind = "node-recover"\nat = "1m"\ntarget = "n"\n', 'install_time = "5s"\nup = false')
    assert sent(result, "backend.install") == [60]


def test_an_order_that_nobody_heard_is_sent_again() -> None:
    cut = '[[faults]]\nkind = "partition"\nat = "3s"\ntarget = "n"\nfor = "10s"\n'
    result = run_of(cut, 'install_time = "5s"')
    assert sent(result, "model.load")[-1] > 13
    assert result.report["loads"] == 1


@pytest.mark.parametrize("kind", ["drop-messages", "partition"])
def test_an_order_that_was_lost_on_its_way_or_whose_answer_was_is_sent_again(kind: str) -> None:
    certain = "p = 1.0\n" if kind == "drop-messages" else ""
    lost = f'[[faults]]\nkind = "{kind}"\nat = "3s"\ntarget = "n"\nfor = "4s"\n{certain}'
    result = run_of(lost, 'install_time = "5s"')
    assert len(sent(result, "backend.install")) == 2, "it was installed at 5 s, and nobody heard of it"


@pytest.mark.parametrize(
    "name",
    ["all-follows-the-nodes", "operators-word-stays", "orphans-after-partition", "placement-under-faults",
     "turn-not-handed-on"],
)  # fmt: skip
def test_no_order_goes_out_twice_in_one_instant(name: str) -> None:
    orders = Counter((at, effect.op) for at, effect in run(name).harness.effect_times)
    assert [order for order, times in orders.items() if times > 1] == []


SHARED = """
duration = "1m"
[[nodes]]
name = "n"
vram = "24GiB"
disk = "{disk}"
stage_rate = "1GiB/s"
max_replicas_per_model = 2
[[models]]
name = "m"
backend = "echo"
vram = "9GiB"
disk = "10GiB"
min_replicas = 1
[[admin]]
at = "5s"
action = "set-scheduling"
model = "m"
min_replicas = 2
"""


def loads_begun(text: str, seed: int = 1) -> dict[str, float]:
    result = run(Scenario.parse(text), seed=seed)
    assert result.passed, result.report["violations"]
    assert result.harness.engine.state.nodes["n"].stage_rate in (0, GIB), "what was joined measures nothing"
    return {row["data"]["replica"]: row["seconds"] for row in result.events() if row["event"] == "LoadStarted"}


@pytest.mark.parametrize("disk", ["15GiB", "100GiB"])
def test_files_that_are_on_their_way_are_there_for_all_orders_at_once(disk: str) -> None:
    assert loads_begun(SHARED.format(disk=disk)) == {"r-000001": 10, "r-000002": 10}


def test_files_that_others_wait_for_come_though_the_order_that_began_has_ended() -> None:
    step = '[[faults]]\nkind = "process-kill"\nat = "8s"\nmodel = "m"\n'
    assert loads_begun(SHARED.format(disk="100GiB") + step, seed=4) == {"r-000002": 10, "r-000003": 10}

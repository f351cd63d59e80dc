"""Prompts in virtual time: what a cache saves, what conversations are, and that affinity pays."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from interlock.domain.errors import UnreadableFile
from interlock.simulation.harness import Harness
from interlock.simulation.prompts import PrefixCache, Talk, chain_of, chain_of_parts, conversation
from interlock.simulation.reading.scenario import Scenario
from interlock.simulation.report import report

WORLD = """
duration = "{minutes}m"
[scheduler]
prefix_affinity = {affinity}
[[nodes]]
name = "a"
vram = "24GiB"
[[nodes]]
name = "b"
vram = "24GiB"
[[nodes]]
name = "c"
vram = "24GiB"
[[models]]
name = "m"
backend = "echo"
vram = "20GiB"
replicas = "all"
parallel = 8
service_time = "1s"
prefill_time = "{prefill}"
{more}
[[replicas]]
model = "m"
node = "a"
[[replicas]]
model = "m"
node = "b"
[[replicas]]
model = "m"
node = "c"
{asked}
"""
TALK = """
[[workloads]]
kind = "conversations"
model = "m"
rate = "20/m"
systems = 6
turns = 6
"""
CACHE = "prefix_cache = 1500"


def _run(asked: str, *, affinity: object = 4, prefill: str = "50ms", more: str = CACHE, minutes: int = 10) -> dict:
    text = WORLD.format(asked=asked, affinity=json.dumps(affinity), prefill=prefill, more=more, minutes=minutes)
    found = report(Harness(Scenario.parse(text)).run())
    assert found["verdict"] == "pass", found["violations"]
    return found


def test_a_cache_saves_the_beginning_that_it_has_and_forgets_the_ends_first() -> None:
    cache = PrefixCache(6)
    one, other = chain_of_parts([("rules", 3), ("one", 2)]), chain_of_parts([("rules", 3), ("other", 2)])
    assert one[:3] == other[:3]
    assert [cache.serve(one), cache.serve(other), cache.serve(other)] == [0, 3, 5]
    assert cache.serve(one) == 4, "its last block was the first to leave"
    assert PrefixCache(0).serve(one) == 0


def test_a_block_is_another_one_after_another_beginning() -> None:
    assert chain_of([1, 2, 3])[:2] == chain_of([1, 2])
    assert chain_of([7, 2])[1] != chain_of([1, 2])[1]
    assert chain_of([3], before=chain_of([1, 2])) == chain_of([1, 2, 3])


def test_each_turn_of_a_conversation_begins_with_the_one_before() -> None:
    turns = [prompt for _, prompt in conversation(Talk(turns=50), Random(3))]
    assert len(turns) > 5
    assert all(later[: len(sooner)] == sooner for sooner, later in pairwise(turns))
    assert turns == [prompt for _, prompt in conversation(Talk(turns=50), Random(3))]


def test_affinity_finds_more_in_the_caches_than_the_plain_rule_and_serves_sooner() -> None:
    plain, near = _run(TALK, affinity="off"), _run(TALK)
    assert near["requests"]["submitted"] == plain["requests"]["submitted"]
    assert near["prompts"]["blocks"] == plain["prompts"]["blocks"]
    assert near["prompts"]["cached_share"] > plain["prompts"]["cached_share"] + 0.1
    assert near["service_seconds"]["p95"] < plain["service_seconds"]["p95"]


@pytest.mark.parametrize(
    "other",
    [
        {"more": "prefix_cache = 200"}, {"prefill": "100ms"}, {"asked": TALK + "system_blocks = 60"},
        {"asked": TALK.replace("systems = 6", "systems = 60")}, {"asked": TALK.replace("turns = 6", "turns = 2")},
        {"asked": TALK + "turn_blocks = 20"}, {"asked": TALK + 'pause = "2s"'},
        {"more": CACHE + "\nprefix_affinity = 0"},
    ],
)  # fmt: skip
def test_every_key_about_prompts_changes_the_run(other: dict[str, str]) -> None:
    usual, changed = _run(TALK), _run(**{"asked": TALK, **other})
    assert changed["service_seconds"] != usual["service_seconds"]


def test_what_is_cached_is_not_computed_again() -> None:
    asked = '[[requests]]\nmodel = "m"\ncount = 2\nevery = "30s"\nprompt = { rules = 40, question = 10 }'
    served = _run(asked, prefill="100ms")
    assert (served["prompts"]["blocks"], served["prompts"]["cached"]) == (100, 50)
    assert (served["service_seconds"]["max"], served["service_seconds"]["p50"]) == (6.0, 1.0)
    assert _run(asked, prefill="100ms", affinity="off")["prompts"]["cached"] == 0


def test_the_hash_ids_of_a_mooncake_trace_are_prompts(tmp_path: Path) -> None:
    rows = [{"timestamp": 20_000 * n, "input_length": 9, "output_length": 1, "hash_ids": [1, 2, n]} for n in range(9)]
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    asked = f'[[workloads]]\nkind = "trace"\nformat = "mooncake"\nmodel = "m"\npath = "{path}"'
    assert _run(asked)["prompts"] == {"blocks": 27, "cached": 16, "cached_share": round(16 / 27, 4)}
    path.write_text(json.dumps(rows[0] | {"hash_ids": ["x"]}))
    with pytest.raises(UnreadableFile, match="hash_ids"):
        _run(asked)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("{more}", 'prefix_cache = 9\nname_of = "x"'), "name_of"),
        (('prefill_time = "{prefill}"', ""), "prefix_cache"),
        (("{asked}", '[[requests]]\nmodel = "m"\nprompt = {{ a = 0 }}'), "prompt"),
        (("{asked}", '[[requests]]\nmodel = "m"\nprompt = {{ a = 9999 }}'), "prompt"),
        (("{asked}", TALK.replace("systems = 6", "systems = 0")), "systems"),
        (("{asked}", TALK.replace("conversations", "poisson")), "systems"),
        (("{more}", "prefix_affinity = -1"), "prefix_affinity"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(change: tuple[str, str], named: str) -> None:
    text = WORLD.replace(*change).format(asked="", affinity=4, prefill="1ms", more=CACHE, minutes=1)
    with pytest.raises(UnreadableFile, match=named):
        Scenario.parse(text)

"""Traces: what each format says is read as it is meant, and what is wrong with a file is named with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from interlock.adapters.cli import app
from interlock.domain.errors import UnreadableFile
from interlock.domain.units import MILLISECOND, SECOND
from interlock.simulation import Scenario
from interlock.simulation.api import run
from interlock.simulation.reading.fields import Distribution
from interlock.simulation.reading.traces import FORMATS, guess_format, read_trace
from tests.simulation.support import TWO_NODES

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-17 00:15:46.6805900,879,55
"""
MOONCAKE = """{"timestamp": 0, "input_length": 512, "output_length": 20, "hash_ids": [1, 2]}
{"timestamp": 2500.5, "input_length": 512, "output_length": 20, "hash_ids": [1, 3]}

{"timestamp": 9000, "input_length": 512, "output_length": 20}
"""
JSONL = """{"at": "1.5s", "model": "m"}
{"at": "3s", "model": "m", "service_time": "exp 4s", "deadline": "20s", "priority": 2}
"""


def written(folder: Path, text: str | bytes, name: str = "trace") -> str:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


# --- what is read ---------------------------------------------------------------------------------------------------


def test_azures_time_stamps_count_from_the_first_to_the_microsecond(tmp_path: Path) -> None:
    rows = read_trace(written(tmp_path, AZURE), "azure-llm")
    assert [row.at for row in rows] == [0, 4_314_579, 6 * 3600 * SECOND]
    assert {row.model for row in rows} == {""}


@pytest.mark.parametrize(
    "stamp",
    ["2024-05-10 00:00:01", "2024-05-10T00:00:01Z", "2024-05-10 00:00:01.0+00:00", " 2024-05-10 02:00:01+02:00 "],
)
def test_time_stamps_may_be_written_with_a_zone_or_without_a_fraction(stamp: str, tmp_path: Path) -> None:
    text = f"timestamp,other\n2024-05-10 00:00:00,1\n{stamp},1\n"
    assert [row.at for row in read_trace(written(tmp_path, text), "azure-llm")] == [0, SECOND]


def test_rows_out_of_order_count_from_the_earliest(tmp_path: Path) -> None:
    text = "TIMESTAMP\n2024-05-10 00:00:09\n2024-05-10 00:00:04\n2024-05-10 00:00:06\n"
    assert [row.at for row in read_trace(written(tmp_path, text), "azure-llm")] == [0, 2 * SECOND, 5 * SECOND]


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    path = written(tmp_path, b"\xef\xbb\xbf" + AZURE.replace("\n", "\r\n").encode())
    assert len(read_trace(path, "azure-llm")) == 3


def test_mooncakes_milliseconds_are_from_the_start_and_blank_lines_are_nothing(tmp_path: Path) -> None:
    rows = read_trace(written(tmp_path, MOONCAKE), "mooncake")
    assert [row.at for row in rows] == [0, 2_500_500, 9_000 * MILLISECOND]
    assert [len(row.prompt) for row in rows] == [2, 2, 0]
    assert rows[0].prompt[0] == rows[1].prompt[0]


def test_a_line_of_ours_may_say_how_long_how_urgent_and_how_soon(tmp_path: Path) -> None:
    plain, full = read_trace(written(tmp_path, JSONL), "jsonl")
    assert (plain.at, plain.model, plain.service_time) == (1_500 * MILLISECOND, "m", None)
    assert (full.service_time, full.deadline, full.priority) == (Distribution("exp", 4 * SECOND), 20 * SECOND, 2)


@pytest.mark.parametrize(
    ("name", "text", "form"),
    [("t.csv", AZURE, "azure-llm"), ("t.jsonl", MOONCAKE, "mooncake"), ("t.jsonl", JSONL, "jsonl")],
)
def test_the_format_shows_in_the_file(name: str, text: str, form: str, tmp_path: Path) -> None:
    assert guess_format(written(tmp_path, text, name)) == form
    assert form in FORMATS


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "text", "words"),
    [
        ("azure-llm", AZURE + "yesterday,1,1\n", ":5: 'yesterday' is no time stamp"),
        ("azure-llm", AZURE + "2023-13-40 18:15:46,1,1\n", ":5: '2023-13-40 18:15:46' is no time stamp"),
        ("azure-llm", "when,ContextTokens\n2023-11-16 18:15:46,1\n", ":2: None is no time stamp"),
        ("azure-llm", "TIMESTAMP,ContextTokens\n", "holds no requests"),
        ("azure-llm", b"TIMESTAMP\n2023-11-16 18:15:46\xff\xfe\n", "can't decode"),
        ("mooncake", MOONCAKE + "{", ":5: no JSON"),
        ("mooncake", MOONCAKE + '{"timestamp": -1}', ":5: timestamp is -1"),
        ("mooncake", '{"timestamp": "0"}', ":1: timestamp is '0'"),
        ("mooncake", '{"timestamp": true}', ":1: timestamp is True"),
        ("mooncake", '{"timestamp": NaN}', ":1: timestamp is nan"),
        ("mooncake", '{"timestamp": Infinity}', ":1: timestamp is inf"),
        ("mooncake", '{"timestamp": 1, "hash_ids": ["a"]}', ":1: hash_ids is no list"),
        ("mooncake", "", "holds no requests"),
        ("jsonl", "[]", ":1: no JSON object"),
        ("jsonl", "[" * 100_000, ":1: no JSON"),
        ("jsonl", JSONL + '{"model": "m"}', ":3: at"),
        ("jsonl", JSONL + '{"at": "soon", "model": "m"}', ":3: at: 'soon'"),
        ("jsonl", JSONL + '{"at": 5, "model": "m"}', ":3: at"),
        ("jsonl", JSONL + '{"at": "5s", "model": 5}', ":3: model"),
        ("jsonl", JSONL + '{"at": "5s", "priority": true}', ":3: priority"),
        ("jsonl", JSONL + '{"at": "5s", "service_time": "gauss"}', ":3: service_time"),
        ("jsonl", JSONL + '{"at": "5s", "modle": "m"}', ":3: modle is no key here"),
    ],
)
def test_what_is_wrong_with_a_trace_is_named_with_its_line(
    form: str, text: str | bytes, words: str, tmp_path: Path
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UnreadableFile) as caught:
        read_trace(path, form)
    assert words in caught.value.message
    assert caught.value.message.startswith(path)
    assert caught.value.cure


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match="nowhere"):
        read_trace(str(tmp_path / "nowhere.csv"), "azure-llm")


# --- in a run -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "text", "count"), [("azure-llm", AZURE, 2), ("mooncake", MOONCAKE, 3)])
def test_a_trace_without_models_asks_for_the_workloads(form: str, text: str, count: int, tmp_path: Path) -> None:
    """The third of Azure's comes six hours later, which is after the end."""
    written(tmp_path, text)
    asked = f'[[workloads]]\nkind = "trace"\nformat = "{form}"\npath = "trace"\nmodel = "m"\nfrom = "1m"\n'
    result = run(Scenario.parse(TWO_NODES + asked, "test", tmp_path))
    arrived = result.harness.gateways.arrived
    assert len(arrived) == count
    assert arrived[0][:2] == (60 * SECOND, "m")
    assert result.report["requests"]["served"] == count


def test_a_line_names_its_model_and_its_own_lengths_win(tmp_path: Path) -> None:
    written(tmp_path, JSONL)
    asked = '[[workloads]]\nkind = "trace"\nformat = "jsonl"\npath = "trace"\ndeadline = "9s"\nservice_time = "1s"\n'
    result = run(Scenario.parse(TWO_NODES + asked, "test", tmp_path))
    first, second = result.harness.gateways.arrived
    assert first[:4] == (1_500 * MILLISECOND, "m", SECOND, 9 * SECOND)
    assert second.deadline == 20 * SECOND


def test_a_line_without_a_model_needs_one_from_the_workload(tmp_path: Path) -> None:
    written(tmp_path, '{"at": "1s", "model": "m"}\n{"at": "2s"}\n')
    asked = '[[workloads]]\nkind = "trace"\nformat = "jsonl"\npath = "trace"\n'
    with pytest.raises(UnreadableFile, match="the request at 2s names no model"):
        run(Scenario.parse(TWO_NODES + asked, "test", tmp_path))
    result = run(Scenario.parse(TWO_NODES + asked + 'model = "m"\n', "test", tmp_path))
    assert result.report["requests"]["served"] == 2


@pytest.mark.parametrize(
    ("name", "text", "count"), [("t.csv", AZURE, 2), ("m.jsonl", MOONCAKE, 3), ("o.jsonl", JSONL, 2)]
)
def test_requests_of_a_trace_take_the_place_of_the_scenarios(
    name: str, text: str, count: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trace = written(tmp_path, text, name)
    file = written(tmp_path, TWO_NODES + '[[requests]]\nmodel = "m"\ncount = 50\n', "world.toml")
    status = app.run(["simulate", file, "--requests", trace, "--json"])
    report = json.loads(capfd.readouterr().out)
    assert status == 0
    assert report["requests"]["submitted"] == report["requests"]["served"] == count


def test_a_bad_trace_on_the_command_line_is_a_usage_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trace = written(tmp_path, JSONL + "{", "t.jsonl")
    file = written(tmp_path, TWO_NODES, "world.toml")
    assert app.run(["simulate", file, "--requests", trace]) == 2
    assert f"{trace}:3: no JSON" in capfd.readouterr().err

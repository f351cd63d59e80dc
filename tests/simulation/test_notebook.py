"""The API for notebooks: what one imports, calls and makes a table of."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from interlock.domain.errors import InvalidField, NotFound, UsageError
from interlock.simulation import Scenario, api, prove, run
from interlock.simulation.prove.scopes import scope_of
from interlock.simulation.reading.scenario import BUNDLED
from tests.simulation.support import result_of

FIRST_CELL = """
from interlock.simulation import Scenario, run, prove
from interlock.simulation import Scenario, run, prove
import json
print(json.dumps([run(Scenario.load("one-load-evicts-one")).verdict, prove("backend-gone").verdict]))
"""


def test_the_first_cell_of_a_notebook_runs_and_runs_again() -> None:
    done = subprocess.run([sys.executable, "-c", FIRST_CELL], capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout) == ["pass", "pass"]


def test_prove_puts_the_mutant_in_place_that_it_names_and_takes_it_away_again() -> None:
    broken = prove("orin-thor", mutant="empty-backend-scaleup")
    assert (broken.verdict, broken.mutant) == ("fail", "empty-backend-scaleup")
    assert broken.counterexample is not None
    assert broken.counterexample.cycle
    assert prove("orin-thor").verdict == "pass"
    with pytest.raises(NotFound):
        prove("orin-thor", mutant="no-such-bug")


def test_a_scenario_is_given_by_its_name_as_a_file_or_as_a_text() -> None:
    by_file = run(BUNDLED / "orin-thor.toml")
    assert by_file.report["log_hash"] == run("orin-thor").report["log_hash"]
    text = Path(BUNDLED / "orin-thor.toml").read_text(encoding="utf-8")
    assert run(Scenario.parse(text)).report["log_hash"] == by_file.report["log_hash"]


REQUESTS = """
[[models]]
name = "giant"
backend = "echo"
vram = "100GiB"
[[replicas]]
model = "m"
node = "a"
in_flight = 4
busy_for = "20s"
[[requests]]
model = "m"
at = "10s"
[[requests]]
model = "giant"
at = "2s"
[[requests]]
model = "m"
at = "3m"
service_time = "1h"
[[faults]]
at = "1s"
kind = "load-hangs"
target = "b"
"""


def test_each_request_is_a_row_with_its_waiting_and_how_it_ended() -> None:
    refused, waited, running = result_of(REQUESTS, until=240_000_000).requests()
    assert (refused["model"], refused["outcome"], refused["reason"], refused["node"]) == (
        "giant", "refused", "never_fits", None,
    )  # fmt: skip
    assert (waited["arrival"], waited["waited"], waited["node"], waited["outcome"]) == (10.0, 10.0, "a", "served")
    assert waited["ended"] == 20.0 + 5.0
    assert (running["waited"], running["ended"], running["outcome"]) == (0.0, None, None)


def test_the_rows_are_as_many_as_the_report_counts() -> None:
    result = run("in-flight-after-churn")
    counts = result.report["requests"]
    rows = list(result.requests())
    assert sum(row["outcome"] == "served" for row in rows) == counts["served"]
    assert sum(row["outcome"] == "refused" for row in rows) == sum(counts["refused"].values())


def test_events_and_requests_become_arrow_tables_or_it_is_said_what_is_missing() -> None:
    result = run("orin-thor")
    if importlib.util.find_spec("pyarrow") is None:
        with pytest.raises(UsageError, match=r"pip install 'interlock\[parquet\]'"):
            result.to_arrow("requests")
        return
    table, nobody = result.to_arrow("requests"), run("floor-where-it-has-not-failed").to_arrow("requests")
    assert nobody.schema == table.schema, "also where no request came"
    assert run("larger-than-any-node").to_arrow("requests").schema == table.schema
    assert result.to_arrow("requests").num_rows == result.report["requests"]["submitted"]
    assert result.to_arrow().num_rows == len(list(result.events()))


@pytest.mark.parametrize("scenario", ["orin-thor", "larger-than-any-node", "noisy-tenant"])
def test_the_columns_of_both_tables_and_their_kinds_are_the_same_for_every_run(scenario: str) -> None:
    result = run(scenario, until=120_000_000)
    for rows, columns in ((result.requests(), api._OF_A_REQUEST), (result.events(), api._OF_AN_EVENT)):
        for row in rows:
            assert list(row) == list(columns)
            for name, value in row.items():
                assert value is None or isinstance(value, columns[name]) or name == "data", name


def test_a_run_ends_after_a_length_in_words_as_after_one_in_microseconds() -> None:
    in_words, in_microseconds = run("orin-thor", until="1m30s").report, run("orin-thor", until=90_000_000).report
    assert in_words["virtual_seconds"] == 90.0
    assert in_words["log_hash"] == in_microseconds["log_hash"]


@pytest.mark.parametrize("until", ["soon", "", 0, -1, "0s", 2.5, True])
def test_what_is_no_length_is_refused_by_the_name_of_its_field(until: object) -> None:
    with pytest.raises(InvalidField, match="until") as refused:
        run("orin-thor", until=until)  # type: ignore[arg-type]  # because that is the mistake
    assert refused.value.cure


def test_a_table_that_there_is_not_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="'nope' is no table"):
        run("orin-thor", until=1_000_000).to_arrow("nope")  # type: ignore[arg-type]  # because that is the mistake


def test_a_scenario_is_explored_as_its_file_is() -> None:
    scenario = Scenario.load("orin-thor")
    assert prove(scenario, states_max=50).states == prove(scope_of(scenario), states_max=50).states

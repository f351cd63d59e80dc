"""Reading and changing: through a running cluster, and without one on the embedded log."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from interlock.adapters.cli import doctor
from interlock.adapters.cli.direct import decide_here
from interlock.adapters.cli.options import Place
from interlock.adapters.store import SqliteStore
from interlock.domain.commands import ChangeSettings, ReportCapacity, StartEpoch
from interlock.domain.units import MINUTE
from tests.cli.conftest import Shell
from tests.domain.cluster import Cluster as Core

MODELS = """
[[models]]
name = "new-one"
backend = "echo"
vram = "1GiB"
ram = "2GiB"
node_selector = { tier = ["fast", "slow"] }
aliases = ["newest"]

[[models]]
name = "everywhere"
backend = "echo"
replicas = "all"
"""


# --- Without a cluster ----------------------------------------------------------------------------------------------


def test_lists_come_from_the_log_and_say_so(interlock: Shell, story_data: Path) -> None:
    ran = interlock("nodes", "--data", story_data, "--json")
    assert [node["name"] for node in ran.document] == ["narrow", "orin", "thor"]
    assert "the log's end at position" in ran.err
    assert "thor" in interlock("nodes", "--data", story_data).out
    assert interlock("requests", "--data", story_data, "--json").document[0]["id"] == "q-11"


def test_a_tenant_is_limited_and_the_table_shows_its_use(interlock: Shell, story_data: Path) -> None:
    words = ("tenants", "limit", "batch", "--at-once", "2", "--rate", "30/m", "--burst", "5", "--data", story_data)
    assert "batch has limits of its own" in interlock(*words).out
    rows = interlock("tenants", "--data", story_data, "--json").document
    assert [row["name"] for row in rows] == ["batch", "research"]
    assert (rows[0]["at_once"], rows[0]["rate"], rows[0]["burst"]) == ("2", "30/m", 5)
    assert "30/m" in interlock("tenants", "--data", story_data).out
    row = interlock("audit", "log", "--event", "TenantLimitsSet", "--data", story_data, "--json").document["rows"][-1]
    assert row["summary"] == (
        "Tenant batch may have 2 requests at once, 30/m in the long run, 5 in a burst from now on."
    )
    assert "settings hold" in interlock("tenants", "limit", "batch", "--data", story_data).out
    assert "batch" not in interlock("tenants", "--data", story_data).out
    interlock("tenants", "limit", "shut", "--at-once", "0", "--data", story_data)
    table = interlock("tenants", "--data", story_data).out
    assert next(line for line in table.splitlines() if line.startswith("shut")).endswith("never")
    assert "--at-once" not in interlock("tenants", "limit", "t", "--rate", "much", "--data", story_data, status=2).out


def test_applying_a_file_twice_changes_the_log_once(interlock: Shell, story_data: Path) -> None:
    (interlock.folder / "models.toml").write_text(MODELS)
    first = interlock("models", "apply", "models.toml", "--data", story_data, "--json").document
    assert first["models"] == ["new-one", "everywhere"]
    assert [answer["events"][0] for answer in first["answers"]] == ["ModelDeclared", "ModelDeclared"]
    again = interlock("models", "apply", "models.toml", "--data", story_data, "--json").document
    assert [answer["events"] for answer in again["answers"]] == [[], []]
    names = {model["name"] for model in interlock("models", "--data", story_data, "--json").document}
    assert {"new-one", "everywhere"} <= names
    interlock("audit", "verify", "--data", story_data)


def test_a_file_that_names_a_model_twice_is_refused_and_changes_nothing(interlock: Shell, story_data: Path) -> None:
    (interlock.folder / "models.toml").write_text(MODELS + MODELS)
    refused = interlock("models", "apply", "models.toml", "--data", story_data, status=2)
    assert "'new-one' stands there twice" in refused.err
    assert "new-one" not in interlock("models", "--data", story_data).out


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_an_option_that_is_no_number_is_named_with_its_line(interlock: Shell, number: str) -> None:
    (interlock.folder / "models.toml").write_text(f'[[models]]\nname = "m"\noptions = {{ x = {number} }}\n')
    refused = interlock("models", "apply", "models.toml", "--url", "http://127.0.0.1:9", status=2)
    assert f"models.toml:3: models[0].options.x: {number} is no number that a log can keep" in refused.err


def test_a_change_is_in_the_log_with_who_made_it(interlock: Shell, story_data: Path) -> None:
    interlock("nodes", "drain", "thor", "--data", story_data)
    row = interlock("audit", "log", "--event", "NodeDrainStarted", "--data", story_data, "--json").document["rows"][-1]
    assert row["data"]["node"] == "thor"
    assert row["actor"].startswith("operator")
    interlock("nodes", "resume", "thor", "--data", story_data)
    interlock("nodes", "label", "thor", "room=a", "tier=", "--data", story_data)
    labels = interlock("audit", "log", "--event", "NodeLabelsChanged", "--data", story_data, "--json").document["rows"]
    assert labels[-1]["data"]["labels"] == {"room": "a", "tier": ""}


def test_the_table_says_what_a_drain_has_left_and_until_when(interlock: Shell, story_data: Path) -> None:
    interlock("nodes", "drain", "thor", "--deadline", "10m", "--data", story_data)
    table = interlock("nodes", "--data", story_data).out
    row = next(line for line in table.splitlines() if line.startswith("thor"))
    assert "draining: " in row
    assert re.search(r": \d+ replicas?, \d+ requests? left, until 20", row)
    assert "10q" in interlock("nodes", "drain", "thor", "--deadline", "10q", "--data", story_data, status=2).err


def test_a_drain_s_deadline_may_be_at_once_or_never_and_is_told_as_what_it_is(
    interlock: Shell, story_data: Path
) -> None:
    here = ("--data", str(story_data))
    assert "What is left after 10m is taken" in interlock("nodes", "drain", "thor", "--deadline", "10m", *here).out
    told = interlock("nodes", "drain", "thor", "--deadline", "forever", *here).out
    assert "No deadline is set" in told
    assert "taken away" not in told
    assert ", until" not in interlock("nodes", *here).out
    assert "What is left after 0s is taken" in interlock("nodes", "drain", "thor", "--deadline", "0s", *here).out
    assert ", until 20" in interlock("nodes", *here).out
    interlock("nodes", "drain", "thor", "--deadline", "", *here, status=2)


def test_the_log_shows_its_end_and_says_how_to_see_the_rest(interlock: Shell, story_data: Path) -> None:
    every = interlock("audit", "log", "--limit", "1000", "--data", story_data).out.splitlines()
    newest = interlock("audit", "log", "--limit", "5", "--data", story_data)
    assert (newest.out.splitlines(), "--after 0" in newest.err) == (every[-5:], True)
    first = interlock("audit", "log", "--limit", "5", "--after", "0", "--data", story_data)
    assert (first.out.splitlines(), "There is more: --after 5" in first.err) == (every[:5], True)
    paged = interlock("audit", "log", "--limit", "5", "--json", "--data", story_data).document
    assert ([row["position"] for row in paged["rows"]], paged["cursor"]) == ([1, 2, 3, 4, 5], 5)


def test_every_other_change_works_too(interlock: Shell, story_data: Path) -> None:
    here = ("--data", str(story_data))
    interlock("freeze", *here)
    interlock("thaw", *here)
    interlock("models", "unload", "embed", *here)
    interlock("models", "remove", "llama", *here)
    interlock("nodes", "approve", "thor", *here)
    interlock("locks", "release", "q-11", *here)
    interlock("nodes", "remove", "orin", *here)
    left = {node["name"] for node in interlock("nodes", *here, "--json").document}
    assert left == {"narrow", "thor"}


def test_an_unload_says_whether_there_is_anything_to_unload_and_who_will_load_it_again(
    interlock: Shell, story_data: Path
) -> None:
    (interlock.folder / "models.toml").write_text(MODELS)
    here = ("--data", str(story_data))
    interlock("models", "apply", "models.toml", *here)
    loaded = {model["name"]: model["loaded"] for model in interlock("models", *here, "--json").document}
    assert (loaded["embed"], loaded["new-one"]) == (1, 0)
    assert interlock("models", "unload", "embed", *here).out == (
        "Model embed is being unloaded. Its floor of 1 will load it again: set `min_replicas` to 0 to keep it away.\n"
    )
    for name in ("new-one", "newest"):
        told = interlock("models", "unload", name, *here, "--json").document
        assert (told["message"], told["answers"]) == ("Nothing of model new-one is loaded.", [{"events": []}])
    assert 'Its `replicas = "all"` will load it again' in interlock("models", "unload", "everywhere", *here).out


def test_what_is_frozen_is_said_beside_every_table(
    interlock: Shell, story_data: Path, cluster: tuple[str, type[_Cluster]]
) -> None:
    assert "Frozen" not in interlock("models", "--data", story_data).err
    interlock("freeze", "reconciler", "--data", story_data)
    for table in ("nodes", "models", "replicas", "requests"):
        ran = interlock(table, "--data", story_data)
        assert "Frozen: reconciler. `interlock thaw` lets it go on." in ran.err
    interlock("freeze", "evictions", "--data", story_data)
    assert "Frozen: evictions and reconciler." in interlock("audit", "state", "--data", story_data).out
    assert interlock("models", "--data", story_data, "--json").document
    url, asked = cluster
    asked.answers = {"GET /api/freeze": (200, {"frozen": ["evictions"]}), "GET /api/nodes": (200, [])}
    assert "Frozen: evictions." in interlock("nodes", "--url", url).err


def test_a_store_that_another_writer_holds_is_left_alone(interlock: Shell, story_data: Path) -> None:
    store = SqliteStore(story_data / "events.db")
    try:
        store.take_epoch("another", 1)
        head = store.head()
        ran = interlock("nodes", "drain", "thor", "--data", story_data, status=3)
        assert "another" in ran.err
        assert store.head() == head
        assert interlock("nodes", "--data", story_data, "--json").document
    finally:
        store.close()


def test_migrate_makes_a_store_that_commands_can_work_on(interlock: Shell) -> None:
    assert interlock("migrate", "--data", "fresh", "--json").document["schema_version"] >= 1
    (interlock.folder / "models.toml").write_text(MODELS)
    interlock("models", "apply", "models.toml", "--data", "fresh")
    assert len(interlock("models", "--data", "fresh", "--json").document) == 2


def test_the_configuration_file_says_where_the_data_is(interlock: Shell, story_data: Path) -> None:
    (interlock.folder / "interlock.toml").write_text('data = "data"\nqueue_limit = 7\n')
    assert story_data.name == "data"
    assert interlock("nodes", "--json").document
    assert interlock("audit", "verify", "--json").document["holds"]
    shown = {line["name"]: line for line in interlock("config", "show", "--json", INTERLOCK_HTTP="[::1]:1").document}
    assert (shown["queue_limit"]["value"], shown["queue_limit"]["origin"]) == ("7", "interlock.toml")
    assert (shown["http"]["value"], shown["http"]["origin"]) == ("[::1]:1", "environment")
    assert shown["min_residency"]["origin"] == "default"


def test_settings_that_hardly_go_together_are_told_of_where_they_are_shown_and_by_the_doctor(
    interlock: Shell, story_data: Path
) -> None:
    doubt = "longest_residency (9m) is not less than request_deadline (5m)"
    told = interlock("config", "show", "--json", INTERLOCK_LONGEST_RESIDENCY="9m")
    assert doubt in told.err
    assert {line["name"]: line["value"] for line in told.document}["longest_residency"] == "9m"
    assert interlock("config", "show").err == ""
    place = Place(None, str(story_data))
    assert doctor._settings(place).line().endswith("they go together")
    decide_here(place, [ChangeSettings(values={"longest_residency": 9 * MINUTE})], "operator")
    found = doctor._settings(place)
    assert (found.ok, doubt in found.detail) == (True, True), "it is a doubt, and no fault"
    assert doctor._settings(Place(None, str(interlock.folder / "none"))).ok


def test_a_placement_that_a_start_would_refuse_is_refused_when_it_is_shown(interlock: Shell) -> None:
    (interlock.folder / "near.toml").write_text('placement = "near"\n')
    known = "default, pack, spread, balance, fast-start"
    for words, environment in (((), {"INTERLOCK_PLACEMENT": "near"}), (("--config", "near.toml"), {})):
        told = interlock("config", "show", *words, status=2, **environment)
        assert f"placement: no placement profile is named 'near'. Choose one of: {known}." in told.err
        assert told.out == ""
    assert interlock("config", "show", INTERLOCK_PLACEMENT="pack").out
    unreachable = "postgresql://nobody@127.0.0.1:1/none"
    told = interlock("config", "show", INTERLOCK_PLACEMENT="near", INTERLOCK_STORE=unreachable)
    assert "cannot be told without the log" in told.err
    assert "near" in told.out


def test_a_placement_profile_of_the_running_cluster_is_known_to_config_show(interlock: Shell) -> None:
    cluster = Core()
    cluster.send(StartEpoch(epoch=1, writer="w"))
    cluster.send(ChangeSettings(values={"placement_profiles": "near: pack 3"}))
    cluster.model("m", placement="near")
    (interlock.folder / "data").mkdir()
    store = SqliteStore(interlock.folder / "data" / "events.db")
    store.append(cluster.log, store.take_epoch("w", 1))
    store.close()
    assert interlock("config", "show", INTERLOCK_DATA="data", INTERLOCK_PLACEMENT="near").out
    told = interlock("config", "show", status=2, INTERLOCK_DATA="data", INTERLOCK_PLACEMENT_PROFILES="far: pack 3").err
    assert "placement_profiles: no placement profile is named 'near'" in told, "a model names it"
    for flag in (("--data", "data"), ("--store", "sqlite:///data/events.db")):
        lines = interlock("config", "show", *flag, "--json", INTERLOCK_PLACEMENT="near").document
        assert {line["origin"] for line in lines if line["name"] == flag[0].removeprefix("--")} == {"flag"}


@pytest.mark.parametrize("table", ["", "[gateway]\n", "[scheduler]\n"])
def test_every_command_finds_what_the_file_says_in_whichever_table(
    interlock: Shell, story_data: Path, table: str
) -> None:
    file = interlock.folder / "interlock.toml"
    file.write_text(f'{table}data = "data"\nnats = "nats://127.0.0.1:9"\nhttp = "127.0.0.1:none"\n')
    assert interlock("nodes", "--json").document
    told = interlock("doctor", status=1).out
    assert re.search(r"FAIL  broker .*127\.0\.0\.1:9", told)
    assert "'127.0.0.1:none' is not HOST:PORT" in told
    file.write_text(f"{table}data = 7\n")
    assert "data: 7 is not text" in interlock("nodes", status=2).err


def test_the_doctor_is_content_with_a_sound_place(interlock: Shell, story_data: Path) -> None:
    ran = interlock("doctor", "--data", story_data, "--http", "127.0.0.1:0", "--json", status=None)
    checks = {check["name"]: check for check in ran.document["checks"]}
    assert {"python", "store", "chain head", "data folder", "broker", "backend echo", "port", "nvml"} <= set(checks)
    for name in ("python", "store", "chain head", "data folder", "broker", "backend echo", "port"):
        assert checks[name]["ok"], checks[name]
    assert ran.status == (0 if ran.document["holds"] else 1)


RUN = "4f1d"
"""What the gateway at the address says of itself, as its ``endpoint.json`` does."""


# --- With a cluster -------------------------------------------------------------------------------------------------


class _Cluster(BaseHTTPRequestHandler):
    """Answers as told, and remembers what it was asked."""

    asked: list[tuple[str, str, Any, str]]
    answer: tuple[int, Any]
    answers: dict[str, tuple[int, Any]]
    """What a method and a path get that is not the usual ``answer``."""
    alive: tuple[int, Any]

    def _any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.asked.append((self.command, self.path, body, self.headers.get("Authorization", "")))
        usual = self.alive if self.path == "/livez" else self.answer
        status, document = self.answers.get(f"{self.command} {self.path}", usual)
        said = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def cluster() -> Iterator[tuple[str, type[_Cluster]]]:
    """A cluster's HTTP surface, and what it was asked."""
    handler = type(
        "Handler",
        (_Cluster,),
        {"asked": [], "answer": (200, {}), "answers": {}, "alive": (200, {"live": True, "run": RUN})},
    )
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_doctor_says_why_a_running_cluster_is_not_ready(
    interlock: Shell, story_data: Path, cluster: tuple[str, type[_Cluster]]
) -> None:
    url, asked = cluster
    (story_data / "endpoint.json").write_text(json.dumps({"url": url, "pid": 1, "run": RUN, "admin_token": ""}))
    asked.answer = (503, {"ready": False, "reasons": ["no writer here: the disk is full."]})
    ran = interlock("doctor", "--data", story_data, status=1)
    assert "FAIL  port" in ran.out
    assert "no writer here: the disk is full." in ran.out


def test_a_clock_that_is_off_is_shown_beside_its_node_and_the_doctor_names_the_cure(
    interlock: Shell, story_data: Path
) -> None:
    place = Place(f"sqlite:///{story_data / 'events.db'}", None)
    assert doctor._clocks(place).ok
    assert "clock" not in interlock("nodes", "--data", story_data).out
    decide_here(place, [ReportCapacity(node="thor", clock=time.time_ns() // 1000 + 3_600_000_000)], "worker:thor")
    assert re.search(r"thor +healthy, clock (1h|59m59s) ahead", interlock("nodes", "--data", story_data).out)
    told = interlock("doctor", "--data", story_data, status=1).out
    assert re.search(r"FAIL  clocks +thor is (1h|59m59s) ahead\..* chrony .* that machine\.", told)
    decide_here(place, [ReportCapacity(node="thor", clock=time.time_ns() // 1000)], "worker:thor")
    assert doctor._clocks(place).ok


def test_the_doctor_finds_no_clock_wrong_where_there_is_no_node_yet(interlock: Shell, tmp_path: Path) -> None:
    assert doctor._clocks(Place(None, str(tmp_path / "none"))).ok
    interlock("migrate", "--data", tmp_path / "fresh")
    assert doctor._clocks(Place(None, str(tmp_path / "fresh"))).ok


def test_the_doctor_looks_at_the_disk_under_the_log(story_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(f"sqlite:///{story_data / 'events.db'}", None)
    assert doctor._store(place).ok
    monkeypatch.setattr(doctor, "_free", lambda folder: 4096 if folder == story_data else 2**40)
    found = doctor._store(place)
    assert not found.ok
    assert "4KiB free on its disk" in found.line()


@pytest.mark.parametrize(
    ("words", "method", "path", "body"),
    [
        (("nodes", "approve", "thor"), "POST", "/api/nodes/thor/approve", None),
        (("nodes", "drain", "thor"), "POST", "/api/nodes/thor/drain", None),
        (("nodes", "drain", "thor", "--deadline", "9m"), "POST", "/api/nodes/thor/drain", {"deadline": "9m"}),
        (("nodes", "resume", "thor"), "POST", "/api/nodes/thor/resume", None),
        (("nodes", "remove", "thor"), "DELETE", "/api/nodes/thor", None),
        (("nodes", "label", "thor", "a=b", "c="), "PATCH", "/api/nodes/thor/labels", {"a": "b", "c": ""}),
        (("models", "load", "org/name"), "POST", "/api/models/org%2Fname/load", None),
        (("models", "unload", "qwen"), "POST", "/api/models/qwen/unload", None),
        (("models", "remove", "qwen"), "DELETE", "/api/models/qwen", None),
        (("replicas", "evict", "r-1"), "POST", "/api/replicas/r-1/evict", None),
        (("freeze",), "POST", "/api/freeze", {"what": "evictions"}),
        (("thaw", "reconciler"), "POST", "/api/thaw", {"what": "reconciler"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_changes_go_to_the_cluster_that_runs(
    interlock: Shell, cluster: tuple[str, type[_Cluster]], words: tuple[str, ...], method: str, path: str, body: Any
) -> None:
    url, asked = cluster
    assert interlock(*words, "--url", url, "--json", INTERLOCK_ADMIN_TOKEN="secret").document["message"]
    assert asked.asked == [(method, path, body, "Bearer secret")]


def test_a_running_cluster_says_itself_what_becomes_of_an_unload(
    interlock: Shell, cluster: tuple[str, type[_Cluster]]
) -> None:
    url, asked = cluster
    assert interlock("models", "unload", "m", "--url", url).out == "Model m is being unloaded.\n", "an older one"
    asked.answer = (202, {"model": "m", "state": "absent", "message": "Nothing of model m is loaded."})
    assert interlock("models", "unload", "m", "--url", url).out == "Nothing of model m is loaded.\n"


def test_the_token_in_the_configuration_file_opens_the_cluster_and_the_environments_goes_before_it(
    interlock: Shell, cluster: tuple[str, type[_Cluster]], tmp_path: Path
) -> None:
    url, asked = cluster
    file = tmp_path / "interlock.toml"
    file.write_text('[gateway]\nadmin_token = "from the file"')
    given = {"INTERLOCK_CONFIG": str(file)}
    interlock("freeze", "--url", url, **given)
    interlock("freeze", "--url", url, **given, INTERLOCK_ADMIN_TOKEN="from outside")
    assert [token for _, _, _, token in asked.asked] == ["Bearer from the file", "Bearer from outside"]


def test_the_endpoint_in_the_data_folder_is_found_with_its_token(
    interlock: Shell, story_data: Path, cluster: tuple[str, type[_Cluster]]
) -> None:
    url, asked = cluster
    asked.answer = (200, [{"name": "far-away", "status": "healthy"}])
    (story_data / "endpoint.json").write_text(json.dumps({"url": url, "pid": 1, "run": RUN, "admin_token": "folder"}))
    ran = interlock("nodes", "--data", story_data, "--json")
    assert [node["name"] for node in ran.document] == ["far-away"]
    assert asked.asked[-1] == ("GET", "/api/nodes", None, "Bearer folder")


@pytest.mark.parametrize(
    "alive",
    [
        (200, {"live": True, "run": "another"}),
        (200, {"live": True}),
        (404, {}),
        (200, "It works!"),
        (200, {"run": RUN}),
    ],
    ids=["another cluster", "an older one", "no Interlock", "a page", "something else"],
)
def test_an_endpoint_where_somebody_else_answers_by_now_is_passed_over(
    interlock: Shell, story_data: Path, cluster: tuple[str, type[_Cluster]], alive: tuple[int, Any]
) -> None:
    url, asked = cluster
    asked.alive = alive
    (story_data / "endpoint.json").write_text(json.dumps({"url": url, "pid": 1, "run": RUN}))
    ran = interlock("nodes", "--data", story_data, "--json")
    assert [node["name"] for node in ran.document] == ["narrow", "orin", "thor"]
    interlock("nodes", "label", "orin", "stale=yes", "--data", story_data)
    assert "a cluster runs" not in interlock("doctor", "--data", story_data, status=None).out
    assert {path for _, path, _, _ in asked.asked} == {"/livez"}


@pytest.mark.parametrize("before", [True, False], ids=["before the subcommand", "after it"])
@pytest.mark.parametrize("flag", ["--data", "--store"])
def test_a_place_on_the_command_line_goes_before_the_url_in_the_environment(
    interlock: Shell, story_data: Path, cluster: tuple[str, type[_Cluster]], flag: str, before: bool
) -> None:
    url, asked = cluster
    place = (flag, str(story_data) if flag == "--data" else f"sqlite:///{story_data / 'events.db'}")
    words = ("nodes", *place, "drain", "thor") if before else ("nodes", "drain", "thor", *place)
    assert "written to the log" in interlock(*words, INTERLOCK_URL=url).err
    assert asked.asked == []
    interlock("nodes", "drain", "thor", INTERLOCK_URL=url, INTERLOCK_DATA=str(story_data))
    interlock("nodes", "drain", "thor", "--url", url, *place)
    assert [path for _, path, _, _ in asked.asked] == ["/api/nodes/thor/drain"] * 2


def test_a_data_folder_on_the_command_line_goes_before_a_store_in_the_environment(
    interlock: Shell, story_data: Path
) -> None:
    elsewhere = {"INTERLOCK_STORE": f"sqlite:///{interlock.folder / 'elsewhere.db'}"}
    assert interlock("nodes", "--data", story_data, "--json", **elsewhere).document
    interlock("nodes", "--json", status=3, **elsewhere)


def test_an_endpoint_that_nobody_answers_at_is_passed_over(interlock: Shell, story_data: Path) -> None:
    (story_data / "endpoint.json").write_text('{"url": "http://127.0.0.1:9", "pid": 1}')
    ran = interlock("nodes", "--data", story_data, "--json")
    assert [node["name"] for node in ran.document] == ["narrow", "orin", "thor"]


def test_a_file_is_applied_over_http_as_the_tables_it_has(
    interlock: Shell, cluster: tuple[str, type[_Cluster]]
) -> None:
    url, asked = cluster
    (interlock.folder / "models.toml").write_text(MODELS)
    interlock("models", "apply", "models.toml", "--url", url)
    (_, first_path, first, _), (_, _, second, _) = [one for one in asked.asked if one[0] == "PUT"]
    assert first_path == "/api/models/new-one"
    assert first["node_selector"] == {"tier": ["fast", "slow"]}
    assert (first["vram"], first["ram"], first["aliases"]) == (2**30, 2**31, ["newest"])
    assert second["replicas"] == "all"
    assert "min_replicas" not in second


THREE = """
[[models]]
name = "one"
backend = "echo"

[[models]]
name = "two"
backend = "echo"
aliases = ["one"]

[[models]]
name = "three"
backend = "echo"
"""


def test_a_file_that_is_refused_in_the_middle_says_what_was_applied_and_where_it_stopped(
    interlock: Shell, story_data: Path, cluster: tuple[str, type[_Cluster]]
) -> None:
    url, asked = cluster
    error = {
        "message": "aliases: 'one' names another model already.",
        "type": "invalid_request_error",
        "code": "invalid",
    }
    asked.answers["PUT /api/models/two"] = (400, {"error": error})
    (interlock.folder / "models.toml").write_text(THREE)
    told = interlock("models", "apply", "models.toml", "--url", url, status=2).err
    assert "models.toml:7: two: aliases: 'one' names another model already." in told
    assert "Applied: one. Not applied: two, three." in told
    assert [path for method, path, _, _ in asked.asked if method == "PUT"] == ["/api/models/one", "/api/models/two"]
    told = interlock("models", "apply", "models.toml", "--data", story_data, status=2).err
    assert "models.toml:7: two: aliases: 'one' names another model already." in told
    assert "Applied: nothing. Not applied: two, one, three. Choose another alias." in told
    assert "one" not in {row["name"] for row in interlock("models", "--data", story_data, "--json").document}


def test_an_alias_moves_within_a_file_whichever_model_stands_first(
    interlock: Shell, story_data: Path, cluster: tuple[str, type[_Cluster]]
) -> None:
    giver, taker = '[[models]]\nname = "giver"\nbackend = "echo"\n', '[[models]]\nname = "taker"\nbackend = "echo"\n'
    file, alias = interlock.folder / "models.toml", 'aliases = ["moving"]\n'
    url, asked = cluster
    asked.answers["GET /api/models"] = (
        200,
        [{"name": "giver", "aliases": ["moving"]}, {"name": "taker", "aliases": []}],
    )
    file.write_text(giver + alias + taker)
    interlock("models", "apply", "models.toml", "--data", story_data)
    file.write_text(taker + alias + giver)
    moved = interlock("models", "apply", "models.toml", "--data", story_data, "--json").document
    assert moved["models"] == ["taker", "giver"]
    rows = {row["name"]: row["aliases"] for row in interlock("models", "--data", story_data, "--json").document}
    assert (rows["giver"], rows["taker"]) == ([], ["moving"])
    interlock("models", "apply", "models.toml", "--url", url)
    put = [path for method, path, _, _ in asked.asked if method == "PUT"]
    assert put == ["/api/models/giver", "/api/models/taker"]


EXCHANGED = """
[[models]]
name = "a"
backend = "echo"
aliases = ["y"]

[[models]]
name = "b"
backend = "echo"
aliases = ["x"]
"""
BEFORE = EXCHANGED.replace("y", "?").replace("x", "y").replace("?", "x")


def test_two_models_exchange_their_aliases_in_one_go(interlock: Shell, story_data: Path) -> None:
    file = interlock.folder / "models.toml"
    file.write_text(BEFORE)
    interlock("models", "apply", "models.toml", "--data", story_data)
    file.write_text(EXCHANGED)
    planned = interlock("plan", "models.toml", "--data", story_data, "--json").document
    assert planned["holds"]
    assert planned["rejected"] == []
    told = interlock("models", "apply", "models.toml", "--data", story_data, "--json").document
    assert told["message"] == "2 models applied: a, b. a was applied without y first, and with y once that was free."
    assert [(step["model"], step["without"]) for step in told["steps"]] == [("a", ["y"]), ("b", []), ("a", [])]
    assert all(step["answer"]["events"] == ["ModelSchedulingChanged"] for step in told["steps"])
    rows = {row["name"]: row["aliases"] for row in interlock("models", "--data", story_data, "--json").document}
    assert (rows["a"], rows["b"]) == (["y"], ["x"])
    again = interlock("models", "apply", "models.toml", "--data", story_data, "--json").document
    assert [step["answer"]["events"] for step in again["steps"]] == [[], []]


def test_an_alias_takes_no_model_out_and_the_refusal_names_the_model(interlock: Shell, story_data: Path) -> None:
    (interlock.folder / "models.toml").write_text('[[models]]\nname = "v1"\nbackend = "echo"\naliases = ["prod"]\n')
    interlock("models", "apply", "models.toml", "--data", story_data)
    ran = interlock("models", "remove", "prod", "--data", story_data, status=1)
    assert "'prod' is an alias of v1, and no model. Name the model to take it out: v1." in ran.err
    assert "v1" in {row["name"] for row in interlock("models", "--data", story_data, "--json").document}
    interlock("models", "remove", "v1", "--data", story_data)


def test_an_exchange_of_aliases_over_http_takes_away_before_it_gives_and_tells_how_far_it_came(
    interlock: Shell, cluster: tuple[str, type[_Cluster]]
) -> None:
    url, asked = cluster
    (interlock.folder / "models.toml").write_text(EXCHANGED)
    asked.answers["GET /api/models"] = (200, [{"name": "a", "aliases": ["x"]}, {"name": "b", "aliases": ["y"]}])
    told = interlock("models", "apply", "models.toml", "--url", url).out
    assert told.strip() == "2 models applied: a, b. a was applied without y first, and with y once that was free."
    put = [(path, body["aliases"]) for method, path, body, _ in asked.asked if method == "PUT"]
    assert put == [("/api/models/a", []), ("/api/models/b", ["x"]), ("/api/models/a", ["y"])]
    asked.answers["PUT /api/models/b"] = (503, {"error": {"message": "No writer.", "type": "t", "code": "no_writer"}})
    stopped = interlock("models", "apply", "models.toml", "--url", url, status=3).err
    assert "Applied: a without y. Not applied in full: b, a." in stopped


@pytest.mark.parametrize(
    ("status", "kind", "code", "exits"),
    [
        (404, "not_found_error", "not_found", 1),
        (404, "misconfigured", "unknown_model", 1),
        (413, "invalid_request_error", "too_large", 1),
        (409, "conflict_error", "conflict", 1),
        (422, "misconfigured", "never_fits", 1),
        (503, "waiting", "capacity_exhausted", 1),
        (400, "invalid_request_error", "invalid", 2),
        (401, "authentication_error", "unauthorized", 2),
        (503, "unavailable", "no_writer", 3),
    ],
)
def test_the_clusters_answers_become_exit_statuses(
    interlock: Shell, cluster: tuple[str, type[_Cluster]], status: int, kind: str, code: str, exits: int
) -> None:
    url, asked = cluster
    asked.answer = (status, {"error": {"message": "its own words.", "type": kind, "code": code}})
    ran = interlock("models", "load", "qwen", "--url", url, "--json", status=exits)
    assert "Its own words." in ran.document["error"]["message"]
    assert ran.document["error"]["code"] == code

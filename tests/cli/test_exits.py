"""Exit statuses, purity of JSON, and no traceback, whatever goes wrong."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from interlock.adapters.cli.output import print_json
from interlock.adapters.store import SqliteStore
from tests.cli.conftest import Shell

COMMANDS = [
    ("up",), ("serve",), ("worker",), ("migrate",), ("doctor",), ("config",), ("config", "show"), ("nodes",),
    ("nodes", "approve"), ("nodes", "drain"), ("nodes", "resume"), ("nodes", "label"), ("nodes", "remove"), ("models",),
    ("models", "apply"), ("models", "load"), ("models", "unload"), ("models", "remove"), ("replicas",),
    ("replicas", "evict"), ("requests",), ("locks",), ("locks", "release"), ("freeze",), ("thaw",), ("audit",),
    ("audit", "log"), ("audit", "why"), ("audit", "state"), ("audit", "diff"), ("audit", "verify"),
    ("audit", "export"), ("audit", "sql"), ("simulate",), ("prove",), ("mutants",),
    ("bench",), ("plan",),
]  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_shows_an_example(interlock: Shell, words: tuple[str, ...]) -> None:
    assert "example: interlock" in interlock(*words, "--help").out.lower()


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from interlock.adapters.cli.app import run\n"
        "assert run(['--help']) == 0\n"
        "heavy = {'msgspec', 'aiohttp', 'grpc', 'nats', 'psycopg', 'eventsourcing', 'rich', 'sqlite3', 'asyncio'}\n"
        "print(sorted(heavy & set(sys.modules)), [n for n in sys.modules if n.startswith('interlock.domain')])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] []"


@pytest.mark.parametrize(
    "words",
    [
        ("frob",),
        ("nodes", "frob"),
        ("nodes", "--frob"),
        ("audit", "why"),
        ("audit", "export", "--format", "xml"),
        ("freeze", "everything"),
        ("nodes", "label", "thor", "fast"),
        ("bench", "everything"),
        ("audit", "log", "--event", "NodePraised"),
        ("audit", "log", "--limit", "0"),
        ("audit", "log", "--since", "yesterday"),
        ("audit", "state", "--at", "soon"),
        ("audit", "sql", "DROP TABLE stored_events"),
        ("audit", "verify", "--anchor", "missing.json"),
        ("nodes", "--url", "ftp://somewhere"),
        ("replicas", "evict", ""),
        ("nodes", "label", "", "a=b"),
        ("models", "load", ".."),
        ("nodes", "--url", "http://[::1"),
        ("nodes", "--url", "http://.."),
        ("nodes", "--url", "http://127.0.0.1:99999"),
        ("nodes", "--url", "http://127.0.0.1:9?x=1"),
        ("nodes", "--url", "http://127.0.0.1:9/é"),
        ("nodes", "--url", "http://user:word@127.0.0.1:9"),
        ("nodes", "--url", "http://a b"),
        ("migrate", "--store", "sqlite:///:memory:"),
        ("audit", "log", "--after", "9" * 5000),
        ("audit", "log", "--limit", "²"),
        ("audit", "state", "--at", "9" * 5000),
        ("audit", "why", "position:" + "9" * 5000),
        ("audit", "diff", "9" * 25, "²"),
        ("audit", "whatif", "--from", "9" * 5000, "--set", "queue_limit=5"),
        ("tenants", "limit", "batch", "--at-once", "9" * 5000),
        ("tenants", "limit", "batch", "--rate", "9" * 5000 + "/s"),
        ("up", "--workers", "9" * 5000),
        ("up", "--workers", "²"),
        ("up", "--http", "127.0.0.1:²"),
        ("simulate", "orin-thor", "--seed", "9" * 5000),
        ("simulate", "orin-thor", "--seeds", "9" * 30),
        ("worker", "--nats", "nats://127.0.0.1:9", "--slots", "²"),
        ("worker", "--nats", "nats://127.0.0.1:9", "--ports", "²-" + "9" * 5000),
    ],
    ids=lambda words: " ".join(words)[:60],
)
def test_wrong_usage_exits_2(interlock: Shell, story_data: Path, words: tuple[str, ...]) -> None:
    ran = interlock(*words, status=2, INTERLOCK_DATA=str(story_data))
    assert ran.out == ""
    assert "Error" in ran.err or words[0] == "worker"


@pytest.mark.parametrize(
    "words",
    [
        ("audit", "log", "--data", "nowhere"),
        ("audit", "verify", "--data", "nowhere"),
        ("nodes", "--data", "nowhere"),
        ("nodes", "drain", "thor", "--data", "nowhere"),
        ("nodes", "--url", "http://127.0.0.1:9"),
        ("nodes", "drain", "thor", "--url", "http://127.0.0.1:9"),
        ("audit", "log", "--store", "postgresql://127.0.0.1:9/none"),
        ("audit", "verify", "--store", "postgresql://127.0.0.1:9/none"),
        ("migrate", "--store", "postgresql://127.0.0.1:9/none"),
        ("freeze", "--store", "postgresql://127.0.0.1:9/none"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_reached_exits_3_and_says_what_helps(interlock: Shell, words: tuple[str, ...]) -> None:
    ran = interlock(*words, "--json", status=3)
    assert ran.document["error"]["message"] in ran.err
    assert set(ran.document["error"]) == {"message", "type", "code"}
    assert len(ran.err.splitlines()[-1]) > 40


@pytest.mark.parametrize(
    "words",
    [
        ("audit", "why", "nobody"),
        ("nodes", "drain", "nobody"),
        ("models", "load", "nobody"),
        ("models", "unload", "nobody"),
        ("replicas", "evict", "r-999999"),
        ("locks", "release", "q-999"),
    ],
    ids=" ".join,
)
def test_a_no_exits_1(interlock: Shell, story_data: Path, words: tuple[str, ...]) -> None:
    before = _rows(story_data)
    ran = interlock(*words, "--data", story_data, "--json", status=1)
    assert ran.document["error"]["code"] == ("unknown_model" if words[0] == "models" else "not_found")
    assert _rows(story_data) == before


def test_a_load_that_can_never_fit_is_refused_with_its_code(interlock: Shell, story_data: Path) -> None:
    (interlock.folder / "whale.toml").write_text('[[models]]\nname = "whale"\nbackend = "echo"\nvram = "900GiB"\n')
    interlock("models", "apply", "whale.toml", "--data", story_data)
    ran = interlock("models", "load", "whale", "--data", story_data, "--json", status=1)
    assert ran.document["error"]["code"] == "never_fits"


def _rows(data: Path) -> int:
    store = SqliteStore(data / "events.db", read_only=True)
    try:
        return store.head().position
    finally:
        store.close()


@pytest.mark.parametrize(
    "words",
    [
        ("nodes",), ("models",), ("replicas",), ("requests",), ("tenants",), ("audit", "log"),
        ("audit", "why", "q-3", "--full"),
        ("audit", "state", "--at", "12"), ("audit", "diff", "12", "40"), ("audit", "verify"),
        ("audit", "sql", "SELECT position, data FROM events LIMIT 3"), ("config", "show"), ("migrate",),
    ],
    ids=" ".join,
)  # fmt: skip
def test_json_is_one_document_and_nothing_else(interlock: Shell, story_data: Path, words: tuple[str, ...]) -> None:
    place = () if words[0] == "config" else ("--data", str(story_data))
    ran = interlock(*words, *place, "--json")
    assert isinstance(ran.document, dict | list)
    assert interlock(*words, *place).out


def test_options_before_a_subcommand_count_for_it(interlock: Shell, story_data: Path) -> None:
    assert interlock("nodes", "--json", "--data", story_data, "drain", "thor").document["message"]


# --- Files and folders ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[[models]\n", "models.toml"),
        ('[[models]]\nname = "a"\n\n[[models]]\nname = "b"\nvrm = "1GiB"\n', ":6"),
        ('[[models]]\nname = "a"\nparallel = "two"\n', ":3"),
        ('[[model]]\nname = "a"\n', "models.toml"),
        ("", "models.toml"),
        ('[[models]]\nname = "a"\nvram = 0x' + "f" * 9000, "models.toml: vram: its number is too long"),
        ('[[models]]\nname = "a"\nparallel = ' + "9" * 5000, "models.toml"),
    ],
    ids=lambda text: text[:30],
)
def test_a_model_file_that_does_not_parse_exits_2_and_names_the_place(
    interlock: Shell, story_data: Path, text: str, named: str
) -> None:
    (interlock.folder / "models.toml").write_text(text)
    assert named in interlock("models", "apply", "models.toml", "--data", story_data, status=2).err


def test_a_missing_model_file_exits_2(interlock: Shell, story_data: Path) -> None:
    assert "missing.toml" in interlock("models", "apply", "missing.toml", "--data", story_data, status=2).err


def test_a_command_talks_to_the_cluster_that_the_file_names(interlock: Shell, story_data: Path) -> None:
    (interlock.folder / "interlock.toml").write_text('url = "http://127.0.0.1:9"\n')
    assert "127.0.0.1:9" in interlock("nodes", status=3).err
    assert interlock("nodes", "--data", story_data).out


@pytest.mark.parametrize("number", ["0x" + "f" * 9000, "9" * 5000], ids=["hex", "decimal"])
def test_a_number_of_thousands_of_digits_in_any_file_exits_2(interlock: Shell, story_data: Path, number: str) -> None:
    (interlock.folder / "file.toml").write_text(f"ram = {number}\n")
    (interlock.folder / "workers.toml").write_text(f'[[workers]]\nname = "a"\nslots = {number}\n')
    for words in (
        ("simulate", "file.toml"),
        ("prove", "--scope", "file.toml"),
        ("plan", "file.toml", "--data", story_data),
        ("config", "show", "--config", "file.toml"),
        ("up", "--workers", "workers.toml"),
        ("audit", "whatif", "--from", "1", "--policy", "file.toml", "--data", story_data),
    ):
        assert ".toml" in interlock(*words, status=2).err


@pytest.mark.parametrize("words", [("nodes",), ("config", "show"), ("audit", "verify")], ids=" ".join)
def test_a_configuration_that_does_not_parse_exits_2(interlock: Shell, words: tuple[str, ...]) -> None:
    (interlock.folder / "interlock.toml").write_text("store = [")
    assert "interlock.toml" in interlock(*words, status=2).err


def test_a_data_folder_that_is_a_file_exits_3(interlock: Shell) -> None:
    (interlock.folder / "file").write_text("not a folder")
    interlock("migrate", "--data", "file/inside", status=3)
    ran = interlock("doctor", "--data", "file/inside", status=1)
    assert "FAIL  data folder" in ran.err + ran.out


def test_a_folder_that_may_only_be_read_is_still_read(interlock: Shell, story_data: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("for root every folder may be written")
    story_data.chmod(0o500)
    try:
        assert interlock("audit", "log", "--data", story_data, "--json").document["rows"]
        assert interlock("audit", "verify", "--data", story_data, "--json").document["holds"]
        interlock("nodes", "drain", "thor", "--data", story_data, status=3)
    finally:
        story_data.chmod(0o700)


@pytest.mark.parametrize(
    "words",
    [
        ("audit", "export", "--data", "data", "-o", "no/such/file"),
        ("audit", "whatif", "--data", "data", "--from", "1", "--scenario", "no/such/file"),
        ("audit", "whatif", "--data", "nowhere", "--from", "1", "--scenario", "no/such/file"),
        ("simulate", "orin-thor", "--html", "no/such/file"),
        ("prove", "--scope", "orin-thor", "--html", "no/such/file"),
    ],
    ids=lambda words: " ".join(words),
)
def test_a_file_in_a_folder_that_is_missing_is_refused_before_anything_is_done_for_it(
    interlock: Shell, story_data: Path, words: tuple[str, ...]
) -> None:
    refused = interlock(*words, status=2)
    assert "no/such/file: there is no folder no/such. Make it, or name a file in another." in refused.err


def test_an_export_that_is_refused_leaves_the_file_that_is_there(interlock: Shell, story_data: Path) -> None:
    (interlock.folder / "log.jsonl").write_text("kept")
    for wrong in (("--redact", "hodler"), ("--event", "NodePraised"), ("--after", "9" * 30), ("--since", "soon")):
        refused = interlock("audit", "export", *wrong, "-o", "log.jsonl", "--data", story_data, status=2)
        assert wrong[1] in refused.err
    assert (interlock.folder / "log.jsonl").read_text() == "kept"


@pytest.mark.parametrize(
    "words",
    [
        ("audit", "export", "--data", "data", "-o", "data/events.db"),
        ("audit", "export", "--data", "data", "-o", "link"),
        ("audit", "export", "--data", "data", "-o", "data/events.db-wal"),
        ("audit", "export", "--store", "sqlite:///data/events.db", "--format", "csv", "-o", "data/events.db"),
        ("audit", "export", "--store", "sqlite:///other.db", "-o", "data/events.db"),
        ("audit", "verify", "--store", "data/events.db", "--write-anchor", "data/events.db"),
        ("audit", "verify", "--data", "data", "--write-anchor", "data/events.db.lease"),
        ("audit", "whatif", "--data", "data", "--from", "1", "--scenario", "data/events.db.lease"),
        ("simulate", "orin-thor", "--html", "data/events.db"),
        ("simulate", "orin-thor", "--shrink", "data/events.db"),
        ("simulate", "orin-thor", "--events", "data/events.db-wal"),
        ("prove", "--scope", "orin-thor", "--html", "data/events.db"),
    ],
    ids=lambda words: " ".join(words),
)
def test_no_output_is_written_over_an_event_store(interlock: Shell, story_data: Path, words: tuple[str, ...]) -> None:
    log = story_data / "events.db"
    (interlock.folder / "link").symlink_to(log)
    shutil.copy(log, interlock.folder / "other.db")
    before = log.read_bytes()
    refused = interlock(*words, status=2)
    assert "Name another file" in refused.err or "to another file" in refused.err
    assert log.read_bytes() == before
    assert interlock("audit", "verify", "--data", story_data, "--json").document["holds"]


def test_an_output_may_be_a_pipe(interlock: Shell, story_data: Path) -> None:
    assert interlock("audit", "export", "--data", story_data, "-o", "/dev/stdout").out.startswith('{"position":1,')


def test_two_columns_of_one_name_are_shown_as_a_table_and_refused_as_json(interlock: Shell, story_data: Path) -> None:
    twins = "SELECT 1 AS a, 2 AS b, 3 AS a"
    assert interlock("audit", "sql", twins, "--data", story_data).out.split() == ["a", "b", "a", "1", "2", "3"]
    refused = interlock("audit", "sql", twins, "--data", story_data, "--json", status=2)
    assert "Two columns of the answer are named 'a'" in refused.document["error"]["message"]
    assert " AS " in refused.err


def test_a_file_that_is_no_database_exits_3(interlock: Shell) -> None:
    (interlock.folder / "events.db").write_text("this is no database, though it is long enough to look like one" * 20)
    for words in (("audit", "log"), ("audit", "verify")):
        assert "events.db" in interlock(*words, "--store", "sqlite:///events.db", status=3).err


# --- Verify ---------------------------------------------------------------------------------------------------------


def test_a_row_that_was_altered_exits_1_and_is_named(interlock: Shell, story_data: Path) -> None:
    with sqlite3.connect(story_data / "events.db") as db:
        db.execute("UPDATE stored_events SET state = replace(state, 'thor', 'orin') WHERE rowid = 10")
    db.close()
    ran = interlock("audit", "verify", "--data", story_data, "--json", status=1)
    assert ran.document["bad_position"] == 10
    assert "10" in interlock("audit", "verify", "--data", story_data, status=1).out


def test_a_tail_that_was_cut_is_found_by_its_anchor(interlock: Shell, story_data: Path) -> None:
    interlock("audit", "verify", "--data", story_data, "--write-anchor", "anchor.json")
    with sqlite3.connect(story_data / "events.db") as db:
        db.execute("DELETE FROM stored_events WHERE rowid > 100")
    db.close()
    assert interlock("audit", "verify", "--data", story_data, "--json").document["holds"]
    ran = interlock("audit", "verify", "--data", story_data, "--anchor", "anchor.json", "--json", status=1)
    assert ran.document["bad_position"] == 101


# --- Ends that are not ours -----------------------------------------------------------------------------------------


def test_a_reader_that_has_seen_enough_is_no_error(interlock: Shell, story_data: Path) -> None:
    # More than a pipe holds, so that the writer does notice.
    many = (
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 9999) SELECT x, hex(zeroblob(99)) FROM n"
    )
    program = [sys.executable, "-m", "interlock.adapters.cli", "audit", "sql", many, "--data", str(story_data)]
    with subprocess.Popen(
        program, env=interlock.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
        assert process.wait(30) == 0
    assert err == ""


def _ended(interlock: Shell, output: int, *words: object) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "interlock.adapters.cli", *map(str, words)], cwd=interlock.folder,
        env=interlock.environment, stdout=output, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


FIGURES = [
    ("audit", "state", "--json"),
    ("audit", "verify", "--json"),
    ("audit", "diff", "12", "40"),
    ("audit", "sql", "SELECT 1"),
    ("nodes", "-h"),
]


@pytest.mark.parametrize("words", FIGURES, ids=" ".join)
def test_a_full_disk_behind_standard_output_is_one_line_and_exits_3(
    interlock: Shell, story_data: Path, words: tuple[str, ...]
) -> None:
    with open("/dev/full", "w") as full:
        status, err = _ended(interlock, full.fileno(), *words, *(() if "-h" in words else ("--data", story_data)))
    # What is longer than a buffer fails as it is written, where nobody knows any more what it was written to.
    assert err.replace("Standard output: ", "") == "Error: No space left on device. Free space on that disk.\n"
    assert status == 3


def test_an_error_that_cannot_be_written_as_json_keeps_its_status_and_its_line(interlock: Shell) -> None:
    with open("/dev/full", "w") as full:
        status, err = _ended(interlock, full.fileno(), "nodes", "--json", "--data", "nowhere")
    assert (status, err.count("\n"), "nowhere" in err) == (3, 1, True)


@pytest.mark.parametrize("words", [*FIGURES, ("--help",)], ids=" ".join)
def test_a_pipe_that_nobody_reads_is_no_error(interlock: Shell, story_data: Path, words: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        place = () if words[-1] in ("-h", "--help") else ("--data", story_data)
        assert _ended(interlock, writer, *words, *place) == (0, "")
    finally:
        os.close(writer)


def test_ctrl_c_ends_following_in_order(interlock: Shell, story_data: Path) -> None:
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "interlock.adapters.cli",
            "audit",
            "log",
            "--follow",
            "--after",
            "0",
            "--data",
            str(story_data),
        ],
        env={**interlock.environment, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert "EpochStarted" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in err


def test_a_defect_is_one_line_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from interlock.adapters.cli import app

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(app.interlock, "main", broken)
    assert app.run(["nodes", "--json"]) == 1
    told = capsys.readouterr()
    assert "ZeroDivisionError" in told.err
    assert "Traceback" not in told.err
    assert told.out.count("\n") == 1


def test_a_value_that_json_has_no_kind_for_is_printed_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"address": ipaddress.ip_address("10.0.0.1")})
    assert json.loads(capsys.readouterr().out) == {"address": "10.0.0.1"}

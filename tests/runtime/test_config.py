"""Settings: flags, then the environment, then the file, then defaults; each with its origin, wrong ones by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from interlock.adapters.runtime.config import load_config
from interlock.adapters.runtime.fleet import local_workers
from interlock.domain.errors import InvalidField, InvalidSetting, UnreadableFile
from interlock.domain.units import MIB, SECOND

FILE = """
http = "127.0.0.1:9001"
body_limit = "1MiB"
[scheduler]
min_residency = "7s"
queue_limit = 5
[gateway]
admin_token = "hidden"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An ``interlock.toml``."""
    path = tmp_path / "interlock.toml"
    path.write_text(FILE)
    return path


def test_flags_win_over_the_environment_which_wins_over_the_file(file: Path) -> None:
    environment = {"INTERLOCK_QUEUE_LIMIT": "6", "INTERLOCK_HTTP": "127.0.0.1:9002"}
    config = load_config({"http": "127.0.0.1:9003", "store": None}, environment=environment, file=file)
    shown = {line.name: (line.value, line.origin) for line in config.shown()}
    assert shown["http"] == ("127.0.0.1:9003", "flag")
    assert shown["queue_limit"] == ("6", "environment")
    assert shown["min_residency"] == ("7s", str(file))
    assert shown["load_attempts"] == ("3", "default")
    assert shown["store"] == ("./.interlock", "default") or shown["store"] == (".interlock", "default")
    assert config.scheduler() == {"min_residency": 7 * SECOND, "queue_limit": 6}
    assert config.address() == ("127.0.0.1", 9003)


def test_the_cluster_that_commands_talk_to_is_shown_too(tmp_path: Path) -> None:
    file = tmp_path / "interlock.toml"
    file.write_text('url = "http://gateway:8700"\n')
    shown = {line.name: (line.value, line.origin) for line in load_config(environment={}, file=file).shown()}
    assert shown["url"] == ("http://gateway:8700", str(file))
    [line] = [line for line in load_config(environment={"INTERLOCK_URL": "http://x"}).shown() if line.name == "url"]
    assert (line.value, line.origin) == ("http://x", "environment")


def test_secrets_are_never_shown(file: Path) -> None:
    config = load_config({}, environment={}, file=file)
    assert config.gateway().admin_token == "hidden"
    shown = {line.name: line.value for line in config.shown()}
    assert shown["admin_token"] == "set"
    assert shown["client_token"] == "not set"
    assert "hidden" not in str(shown)


def test_tenants_are_a_table_of_tokens_or_pairs_in_the_environment_and_only_their_names_are_shown(
    tmp_path: Path,
) -> None:
    file = tmp_path / "interlock.toml"
    file.write_text('tenant_limit = 5\ntenant_rate = "2/s"\n[tenants]\nresearch = "sk-1"\nweb = "sk-2"\n')
    config = load_config(environment={}, file=file)
    assert config.gateway().tenants == {"research": "sk-1", "web": "sk-2"}
    assert config.scheduler() == {"tenant_limit": 5, "tenant_rate": 500_000}
    shown = {line.name: line.value for line in config.shown()}
    assert (shown["tenants"], shown["tenant_rate"], shown["tenant_burst"]) == ("research, web", "2/s", "10")
    config = load_config(environment={"INTERLOCK_TENANTS": "a=x, b=y=z"}, file=file)
    assert config.gateway().tenants == {"a": "x", "b": "y=z"}
    for wrong in ("sk-secret", "a=x,a=sk-secret"):
        with pytest.raises(InvalidSetting, match="tenants") as told:
            load_config(environment={"INTERLOCK_TENANTS": wrong}, file=file).gateway()
        assert "sk-secret" not in str(told.value)


def test_the_gateway_s_settings_have_their_own_kinds(file: Path) -> None:
    environment = {"INTERLOCK_INSECURE": "true", "INTERLOCK_HOLDER_LEASE": "9s", "INTERLOCK_WAIT_LIMIT": "2m"}
    gateway = load_config({}, environment=environment, file=file).gateway(auto_approve=True)
    assert (gateway.body_limit, gateway.insecure, gateway.auto_approve) == (MIB, True, True)
    assert (gateway.holder_lease, gateway.wait_limit) == (9 * SECOND, 120 * SECOND)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"INTERLOCK_HTTP": "8700"}, "http"),
        ({"INTERLOCK_HTTP": "localhost:99999"}, "http"),
        ({"INTERLOCK_SNAPSHOT_EVENTS": "0"}, "snapshot_events"),
        ({"INTERLOCK_INSECURE": "perhaps"}, "insecure"),
        ({"INTERLOCK_QUEUE_LIMIT": "many"}, "queue_limit"),
        ({"INTERLOCK_MIN_RESIDENCY": "soon"}, "min_residency"),
        ({"INTERLOCK_BODY_LIMIT": "big"}, "body_limit"),
    ],
)
def test_a_wrong_value_is_named(environment: dict[str, str], words: str) -> None:
    config = load_config({}, environment=environment)
    with pytest.raises((InvalidSetting, InvalidField), match=words):
        _ = (config.address(), config.snapshot_events, config.settings(), config.gateway())


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"INTERLOCK_HTTP": "garbage"}, "http"),
        ({"INTERLOCK_NATS": "nats://[::1"}, "nats"),
        ({"INTERLOCK_STORE": "mysql://host/log"}, "names no event store"),
        ({"INTERLOCK_SNAPSHOT_EVENTS": "garbage"}, "snapshot_events"),
        ({"INTERLOCK_HTTP": "0.0.0.0:8700"}, "admin_token: not set"),
        ({"INTERLOCK_ADMIN_TOKEN": "abc "}, "admin_token.*begins or ends with a blank"),
        ({"INTERLOCK_ADMIN_TOKEN": "s", "INTERLOCK_CLIENT_TOKEN": "s"}, "both are the same"),
        ({"INTERLOCK_PLACEMENT_PROFILES": "near: nosuch 3"}, "no score is named 'nosuch'"),
        ({"INTERLOCK_PLACEMENT_PROFILES": "near: pack 3, only nosuch"}, "no filter is named 'nosuch'"),
        ({"INTERLOCK_PLACEMENT_PROFILES": "near: pack 3", "INTERLOCK_PLACEMENT": "far"}, "placement: .*named 'far'"),
    ],
)
def test_a_check_finds_what_could_not_be_used(environment: dict[str, str], words: str) -> None:
    with pytest.raises((InvalidSetting, InvalidField), match=words):
        load_config(environment=environment).check()


def test_a_check_lets_pass_what_may_be_in_the_log() -> None:
    sound = {"INTERLOCK_PLACEMENT_PROFILES": "near: pack 3", "INTERLOCK_PLACEMENT": "near"}
    assert load_config(environment=sound).check().settings().placement == "near"
    assert load_config(environment={"INTERLOCK_PLACEMENT": "near"}).check().settings().placement == "near"


@pytest.mark.parametrize("line", ["http = 8700", "nats = true", 'data = ["x"]', "workers = true", "store = 1.5"])
def test_a_place_in_the_file_that_is_no_text_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "interlock.toml"
    path.write_text(line)
    with pytest.raises(InvalidSetting, match=rf"{line.split()[0]}: .*text"):
        load_config(environment={}, file=path).check()
    path.write_text("workers = 3\nsnapshot_events = 500\n")
    config = load_config(environment={}, file=path).check()
    assert (config.text("workers"), config.snapshot_events) == ("3", 500)


@pytest.mark.parametrize("text", ["invented = 1", "[scheduler]\ninvented = 1", "scheduler = 3", "= nonsense"])
def test_a_wrong_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(UnreadableFile, match=str(path)):
        load_config({}, environment={}, file=path)


def test_an_unknown_flag_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="invented"):
        load_config({"invented": "x"}, environment={})


def test_local_workers_have_names_and_tiers(tmp_path: Path) -> None:
    assert [(one.name, one.labels) for one in local_workers("3")] == [
        ("orin", {"tier": "slow"}),
        ("thor", {"tier": "fast"}),
        ("worker-3", {}),
    ]
    assert local_workers("0") == []
    path = tmp_path / "workers.toml"
    path.write_text('[[workers]]\nname = "a"\nvram = "8GiB"\nram = "64GiB"\n')
    assert [(one.name, one.vram, one.ram) for one in local_workers(str(path))] == [("a", "8GiB", "64GiB")]
    path.write_text('[[workers]]\nname = "a"\nmemory = "8GiB"\n')
    with pytest.raises(UnreadableFile, match="memory"):
        local_workers(str(path))
    with pytest.raises(InvalidSetting):
        local_workers("1000")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[worker]]\nname = "a"\n', "worker"),
        ("", "no worker"),
        ('[[workers]]\nname = "a b"\n', "a b"),
        ('[[workers]]\nname = ".."\n', "name: '..' means something else in a path"),
        ('[[workers]]\nname = "register"\n', "name: 'register' means"),
        ('[[workers]]\nname = "a"\nvram = "lots"\n', "lots"),
        ('[[workers]]\nname = "a"\nram = "lots"\n', "lots"),
        ('[[workers]]\nname = "a"\nvram_budget = "most"\n', "most"),
        ('[[workers]]\nname = "a"\nslots = 0\n', "slots"),
        ("[[workers", "workers.toml"),
    ],
)
def test_a_workers_file_that_means_nothing_starts_no_cluster(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "workers.toml"
    path.write_text(text)
    with pytest.raises(UnreadableFile, match=said) as refused:
        local_workers(str(path))
    assert "docs/operations.md" in str(refused.value)


def test_placement_profiles_are_a_table_in_the_file_and_a_line_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "interlock.toml"
    path.write_text('placement = "near"\n[placement_profiles]\nnear = { locality = 3, only = ["quiet"] }\n')
    config = load_config(environment={}, file=path)
    assert config.scheduler() == {"placement": "near", "placement_profiles": "near: locality 3, only quiet"}
    environment = {"INTERLOCK_PLACEMENT_PROFILES": "far: spread 1"}
    assert load_config(environment=environment, file=path).settings().placement_profiles == "far: spread 1"
    with pytest.raises(InvalidField, match="no weight from 1 to 1000"):
        load_config(environment={"INTERLOCK_PLACEMENT_PROFILES": "far: spread 0"}, file=path).scheduler()

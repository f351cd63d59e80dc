"""Every setting with its value and where that comes from: flags, then ``INTERLOCK_*``, then ``interlock.toml``, then
defaults.

The file holds settings by name, at its top or, as one likes, under ``[scheduler]`` and ``[gateway]``. ``config show``
prints what :meth:`Configuration.shown` lists.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from interlock.adapters import own_rules
from interlock.adapters.http.config import KINDS, GatewayConfig, Kind, check_bind
from interlock.adapters.nats.connection import NatsConfig
from interlock.adapters.store import check_store
from interlock.domain.documents import parse_toml
from interlock.domain.errors import InvalidSetting, UnreadableFile
from interlock.domain.own_rules import check_profiles
from interlock.domain.profiles import check_profile
from interlock.domain.settings import Settings, SettingValue, format_setting, parse_setting
from interlock.domain.units import format_duration, format_size, parse_duration, parse_size, whole_number

FILE_NAME = "interlock.toml"
_PREFIX = "INTERLOCK_"
_TABLES = ("scheduler", "gateway")


class Place(msgspec.Struct, frozen=True):
    """A setting that is neither the scheduler's nor the gateway's: text, or a number where ``number`` says so."""

    default: str
    number: bool = False
    """A file may write it as a number."""


_PLACES = {
    "data": Place("./.interlock"),
    "store": Place(""),
    "nats": Place(""),
    "http": Place("127.0.0.1:8700"),
    "url": Place(""),
    "workers": Place("2", number=True),
    "snapshot_events": Place("10000", number=True),
}
"""What else can be set. An empty ``store`` is SQLite in ``data``, an empty ``nats`` our own broker, and an empty
``url``, the cluster that commands talk to, whichever runs in ``data``."""


class Given(msgspec.Struct, frozen=True):
    """A value as somebody wrote it. ``origin`` is ``flag``, ``environment``, a file's path or ``default``."""

    value: object
    origin: str


class Shown(msgspec.Struct, frozen=True):
    """One line of ``config show``; secrets are not shown, only whether they are set."""

    name: str
    value: str
    origin: str


class Configuration:
    """All settings of a process; reading a wrong one raises InvalidSetting that names it and where it was set."""

    def __init__(self, given: Mapping[str, Given]) -> None:
        self._given = given

    def check(self) -> Configuration:
        """Itself, once everything has been read: raises what is wrong with the first that is.

        Whether there is a profile that ``placement`` names may be for the log to say: ``placement_profiles`` can have
        been set in the running cluster.
        """
        own_rules.install()
        for place in _PLACES:
            self.text(place)
        host, _port = self.address()
        _ = self.snapshot_events
        check_store(self.store)
        check_bind(self.gateway(), host)
        if self.text("nats"):
            NatsConfig.parse(self.text("nats"))
        wanted = self.settings()
        check_profiles(wanted.placement_profiles)
        if "placement_profiles" in self._given:
            check_profile(wanted.placement, wanted.placement_profiles)
        return self

    def text(self, name: str) -> str:
        """What one of the places is set to."""
        place = _PLACES[name]
        if name not in self._given:
            return place.default
        value = self._given[name].value
        counts = place.number and isinstance(value, int) and not isinstance(value, bool)
        if not counts and not isinstance(value, str | Path):
            raise self._wrong(name, "is neither text nor a whole number" if place.number else "is not text")
        return str(value)

    @property
    def data(self) -> Path:
        """The data folder."""
        return Path(self.text("data"))

    @property
    def store(self) -> str:
        """The event store's address."""
        return self.text("store") or str(self.data)

    @property
    def snapshot_events(self) -> int:
        """A snapshot is taken after so many events."""
        events = whole_number(self.text("snapshot_events"), 1)
        if events is None:
            raise self._wrong("snapshot_events", "is not 1 or more")
        return events

    def scheduler(self) -> dict[str, SettingValue]:
        """The scheduler's settings that somebody set, as the core counts them."""
        return {name: self._scheduler(name) for name in Settings.__struct_fields__ if name in self._given}

    def settings(self) -> Settings:
        """The scheduler's settings with defaults for the rest."""
        return msgspec.structs.replace(Settings(), **self.scheduler())

    def gateway(self, **defaults: object) -> GatewayConfig:
        """The gateway's settings; ``defaults`` stand in for what nobody set."""
        own = [name for name in KINDS if name in self._given and name not in Settings.__struct_fields__]
        values = {name: self._gateway(name) for name in own}
        values["holder_lease"] = self.settings().holder_lease
        return GatewayConfig(**{**defaults, **values})  # type: ignore[arg-type]  # each was parsed for its field

    def address(self) -> tuple[str, int]:
        """Where to listen: host and port."""
        host, found, text = self.text("http").rpartition(":")
        port = whole_number(text, most=65535)
        if not found or port is None or not host:
            raise self._wrong("http", "is not HOST:PORT")
        return host.strip("[]"), port

    def shown(self) -> list[Shown]:
        """Every setting with its value and origin, by name."""
        lines = []
        for name in sorted(known_names()):
            origin = self._given[name].origin if name in self._given else "default"
            lines.append(Shown(name, self._show(name), origin))
        return lines

    def _show(self, name: str) -> str:
        if name in _PLACES:
            return self.store if name == "store" else self.text(name)
        if name in Settings.__struct_fields__:
            return format_setting(name, getattr(self.settings(), name))
        value = getattr(self.gateway(), name)
        match KINDS[name]:
            case Kind.TENANTS:
                return ", ".join(sorted(value)) or "none"
            case Kind.SECRET:
                return "set" if value else "not set"
            case Kind.LENGTH:
                return format_duration(value)
            case Kind.SIZE:
                return format_size(value)
            case Kind.FLAG:
                return str(value).lower()

    def _scheduler(self, name: str) -> SettingValue:
        return parse_setting(name, self._given[name].value)

    def _gateway(self, name: str) -> object:
        value = self._given[name].value
        match KINDS[name]:
            case Kind.FLAG:
                return self._flag(name, value)
            case Kind.TENANTS:
                return self._tenants(value)
            case Kind.SIZE:
                return parse_size(value if isinstance(value, int) else str(value), name)
            case Kind.LENGTH:
                return parse_duration(str(value), name)
            case Kind.SECRET:
                return str(value)

    def _flag(self, name: str, value: object) -> bool:
        if isinstance(value, bool):
            return value
        words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False}
        if str(value).lower() not in {*words, "off", ""}:
            raise self._wrong(name, "is neither true nor false")
        return words.get(str(value).lower(), False)

    def _tenants(self, value: object) -> dict[str, str]:
        """A table of names and tokens, or, as the environment has it, ``name=token,name=token``."""
        if isinstance(value, dict):
            if all(isinstance(token, str) for token in value.values()):
                return {name.strip(): token.strip() for name, token in value.items()}
            raise self._wrong("tenants", "has a token that is not text")
        pairs = [one.partition("=") for one in str(value).split(",") if one.strip()]
        names = [name.strip() for name, _, _ in pairs]
        if not all(found for _, found, _ in pairs) or len(set(names)) < len(names):
            raise self._wrong("tenants", 'is not "name=token,name=token", each name once')
        return {name.strip(): token.strip() for name, _, token in pairs}

    def _wrong(self, name: str, problem: str) -> InvalidSetting:
        given = self._given.get(name)
        where = f" (from {given.origin})" if given is not None else ""
        value = given.value if given is not None else _PLACES[name].default
        if KINDS.get(name) in (Kind.SECRET, Kind.TENANTS):
            value = "what is given"  # no message may tell a token
        return InvalidSetting(
            f"{name}: {value!r} {problem}{where}.", cure="`interlock config show` lists all settings."
        )


def known_names() -> frozenset[str]:
    """Every setting's name."""
    return frozenset({*_PLACES, *Settings.__struct_fields__, *GatewayConfig.__struct_fields__})


def load_config(
    flags: Mapping[str, object] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    file: str | Path | None = None,
) -> Configuration:
    """Put the sources together. ``flags`` that are None count as not given.

    ``file`` None means ``INTERLOCK_CONFIG``, or ``interlock.toml`` in the current folder where there is one. Raises
    InvalidSetting and UnreadableFile.
    """
    environment = os.environ if environment is None else environment
    named = file or environment.get(f"{_PREFIX}CONFIG")
    given = _from_file(Path(named)) if named else {}
    if not named and Path(FILE_NAME).is_file():
        given = _from_file(Path(FILE_NAME))
    for name in sorted(known_names()):
        value = environment.get(_PREFIX + name.upper())
        if value is not None:
            given[name] = Given(value, "environment")
    for name, flag in (flags or {}).items():
        if name not in known_names():
            raise InvalidSetting(f"no setting is named {name!r}.", cure=f"Known: {', '.join(sorted(known_names()))}.")
        if flag is not None:
            given[name] = Given(flag, "flag")
    return Configuration(given)


def _from_file(path: Path) -> dict[str, Given]:
    try:
        document = parse_toml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnreadableFile(f"{path}: {error}.", cure="Mend it, or name another with INTERLOCK_CONFIG.") from None
    given: dict[str, Given] = {}
    for table, keys in [("", document), *((table, document.get(table, {})) for table in _TABLES)]:
        if not isinstance(keys, dict):
            raise UnreadableFile(f"{path}: {table}: it is not a table.", cure=f"Write [{table}].")
        for key, value in keys.items():
            if not table and key in _TABLES:
                continue
            if key not in known_names():
                cure = f"The keys are: {', '.join(sorted(known_names()))}."
                raise UnreadableFile(f"{path}: {f'{table}.' if table else ''}{key}: no such key.", cure=cure)
            given[key] = Given(value, str(path))
    return given
